"""Several runs of one configuration that have their program in common: `train.seeds`, `train.population`.

A member is a run as any other, whose configuration has its own train.seed and its own numbers.
"""

import copy
import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from metarun.config.composed import as_given
from metarun.config.conf import flat, nearest
from metarun.config.overrides import going_on, key_of
from metarun.config.resume import MAY_CHANGE, resume
from metarun.config.run import TOGETHER, Run, build_run, resolve
from metarun.core import ConfigError, InSweep

SEED = "train.seed"
MOST = 4096  # members: each has files of its own
OWN = (SEED, "run.", "logger.")  # of each member, whatever the others have
NUMBERS = ("learner.", "eval.learner.", "optimizer.", "suggested.")  # too, if their programs are the same
NOT_OF_A_MEMBER = ("run.dir", *(f"train.{key}" for key in TOGETHER))


class Member(NamedTuple):
    """A run, and the settings that make it alone: those that all members have, then its own."""

    run: Run
    settings: tuple[str, ...]


Axis = tuple[str, list[str]]  # a key and its values, as they are written on the command line


def is_asked_for(cfg: DictConfig) -> bool:
    """Whether the composed configuration asks for several runs in one program."""
    return any(OmegaConf.select(cfg, f"train.{key}") is not None for key in TOGETHER)


def members(cfg: DictConfig, directory: Path) -> list[Member]:
    """The runs that the composed configuration asks for in one program, in `directory`/0, /1 and so on.

    In the order of `metarun -m` with the same axes: seeds vary first. What has begun there goes on. Raises ConfigError.
    """
    axes = axes_of(cfg.train.seeds, cfg.train.population, cfg.train.seed)
    keys = [key for key, _ in axes]
    common = [one for one in as_given(HydraConfig.instance().cfg) if key_of(one) not in (*NOT_OF_A_MEMBER, *keys)]
    combinations = list(itertools.product(*(values for _, values in axes)))
    if len(combinations) > MOST:
        raise ConfigError("train.population", cfg.train.population, f"makes {len(combinations)} runs; at most {MOST}")
    if (coordinator := cfg.hardware.get("coordinator")) is not None:
        allowed = "is of one run; leave it out, or train.seeds and train.population"
        raise ConfigError("hardware.coordinator", coordinator, allowed)
    found = []
    for number, values in enumerate(combinations):
        own = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        found.append(member(cfg, directory / str(number), [*common, *own], own))
    must_share_a_program(found, axes)
    return found


def again(cfg: DictConfig, begun: Sequence[tuple[Path, tuple[str, ...]]]) -> list[Member]:
    """The members that have begun in these directories, by these settings, with what the command changes of them.

    Raises ConfigError.
    """
    fixed = (*MAY_CHANGE, *NOT_OF_A_MEMBER)
    given = [one for one in as_given(HydraConfig.instance().cfg) if not f"{key_of(one)}.".startswith(fixed)]
    return [member(cfg, directory, with_those(given, settings), []) for directory, settings in begun]


def with_those(given: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Settings, each that is given anew in the place of the one of its key."""
    return [*({key_of(one): one for one in settings} | {key_of(one): one for one in given}).values()]


def of_one_sweep(found: Sequence[Member], directory: Path) -> list[Member]:
    """The members, each of which knows what all of them have in common, and the directory that they share."""
    bare = [tuple(one.lstrip("+~") for one in member.settings) for member in found]
    common = tuple(one for one in bare[0] if all(one in other for other in bare))
    sweep = InSweep(str(directory), common)
    return [
        member._replace(run=dataclasses.replace(member.run, settings=settings, sweep=sweep))
        for member, settings in zip(found, bare, strict=True)
    ]


def must_agree(runs: Sequence[Run]) -> None:
    """Raises ConfigError, by key, unless runs that are to be at work in one program share all but what is a member's.

    One that was gone on with by itself may have become longer, or be about to be tested otherwise.
    """
    first, of_first = runs[0], flat(runs[0].config)
    for other in runs[1:]:
        of_other = flat(other.config)
        own = (*OWN, *NUMBERS) if other.shape == first.shape else OWN
        for key in sorted(of_first.keys() | of_other.keys()):
            if of_first.get(key) != of_other.get(key) and not key.startswith(own):
                how = "give it to all"
                if not (Path(other.info.dir) / "results.json").exists():
                    how += f", or finish the one that was changed by itself first: {going_on(other.info.dir)}"
                raise ConfigError(
                    key,
                    of_other.get(key, "(nothing)"),
                    f"is so in {other.info.dir}, and in {first.info.dir} it is {of_first.get(key, '(nothing)')}; {how}",
                )


def member(cfg: DictConfig, directory: Path, settings: Sequence[str], own: Sequence[str]) -> Member:
    """The run that `cfg` with its `own` settings asks for, or that has begun in `directory`."""
    cfg = copy.deepcopy(cfg)
    for setting in own:
        override = parser().parse_override(setting)
        try:
            OmegaConf.update(cfg, override.key_or_group, override.value())
        except OmegaConfBaseException as error:
            key, value = override.key_or_group, override.get_value_string()
            group, _, name = key.rpartition(".")
            beside = OmegaConf.select(cfg, group) if group else cfg
            known = nearest(name, map(str, beside)) if isinstance(beside, DictConfig) else "there is no such group"
            raise ConfigError(key, value, f"no such key; {known}") from error
    with open_dict(cfg):
        cfg.run.dir = str(directory)
        for key in TOGETHER:
            cfg.train.pop(key, None)
    config = resolve(cfg)
    if (directory / "config.yaml").exists():
        given = [key_of(setting) for setting in as_given(HydraConfig.instance().cfg)]
        named = [key for key in given if key not in NOT_OF_A_MEMBER]
        config = resume(directory, config, [*named, *map(key_of, own)])
    command = shlex.join(["metarun", *settings])
    return Member(dataclasses.replace(build_run(config), command=command), tuple(settings))


def axes_of(seeds: Any, population: Any, first: int) -> list[Axis]:
    """What the members differ in: the axes of the grid as they are given, then seeds. Raises ConfigError."""
    found = grid(population) if population is not None else []
    if seeds is not None:
        if SEED in (key for key, _ in found):
            raise ConfigError("train.population", population, f"has {SEED}, as train.seeds has; leave one of them out")
        found.append((SEED, [str(seed) for seed in seeds_of(seeds, first)]))
    return found


def seeds_of(seeds: Any, first: int) -> list[int]:
    given = OmegaConf.to_container(seeds) if OmegaConf.is_config(seeds) else seeds
    if type(given) is int and 1 <= given <= MOST and type(first) is int:
        return list(range(first, first + given))
    if isinstance(given, list) and given and all(type(one) is int for one in given) and len(set(given)) == len(given):
        return given
    allowed = (
        f"must be a number of seeds, at most {MOST}, or a list of different ones: train.seeds=8, train.seeds=[3,5]"
    )
    raise ConfigError("train.seeds", given, allowed)


def grid(population: Any) -> list[Axis]:
    """`"learner.inner_lr=0.1,0.2 train.seed=0,1"` -> its axes. Raises ConfigError."""
    how = "must be settings with their values, spaces between them: train.population='learner.inner_lr=0.1,0.2'"
    if not isinstance(population, str) or not population.strip():
        raise ConfigError("train.population", population, how)
    found: dict[str, list[str]] = {}
    for word in population.split():
        try:
            override = parser().parse_override(word)
            several = override.is_sweep_override()
            values = (
                [str(one) for one in override.sweep_string_iterator()] if several else [override.get_value_string()]
            )
        except (HydraException, ValueError) as error:
            raise ConfigError("train.population", population, f"{word} cannot be read; {how}") from error
        key = override.key_or_group
        if override.package is not None or word[:1] in "+~" or not isinstance(values[0], str) or "=" not in word:
            raise ConfigError("train.population", population, f"{word}: is no plain key=value,value; {how}")
        if key in found or len(set(values)) != len(values):
            raise ConfigError("train.population", population, f"{key}: each key once, and each of its values once")
        found[key] = values
    return list(found.items())


def must_share_a_program(found: Sequence[Member], axes: Sequence[Axis]) -> None:
    """Raises ConfigError, by key, unless members differ in what is an argument of the compiled program alone."""
    first, behind = found[0].run, len(found)
    for key, values in axes:
        behind //= len(values)  # members from one value of this key to the next, with all others the same
        for other in found[behind : behind * len(values) : behind]:
            numbers = key == SEED or of_components(other.run) != of_components(first)
            if other.run.shape != first.shape or not numbers:
                raise ConfigError(
                    key,
                    ",".join(values),
                    "is no number that the compiled program is given, as those of learner and optimizer are, so "
                    f"it cannot vary within one; a program for each: metarun -m {key}={','.join(values)}",
                )


def of_components(run: Run) -> dict[str, Any]:
    """The numbers that are settings themselves; the noise's is of others as well."""
    return {name: numbers for name, numbers in run.numbers.items() if name != "private"}


def parser() -> OverridesParser:
    return OverridesParser.create()
