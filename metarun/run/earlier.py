"""What stood in a run's directory before the run was made longer, or tested again: it stays, under other names."""

import itertools
import logging
import shlex
from pathlib import Path
from typing import Any

import yaml

from metarun.config import conf_dir, flat
from metarun.config.resume import is_domains_place, up_to_date
from metarun.files import read_yaml, write_atomically

log = logging.getLogger("metarun")

# What belongs to one test. The results go last: as long as they are there, what a kill has cut short is done again.
FILES = ("results.json", "classes.json", "examples.npz")


def steps_and_test(config: dict[str, Any]) -> tuple[Any, Any]:
    """What a run's results depend on, of what can be changed once they are there; not where domains' data lie."""
    test = up_to_date(config["eval"])
    domains = flat({"eval": {"tasks": test.get("tasks") or {}}})
    return config["train"]["steps"], test | {"tasks": {k: v for k, v in domains.items() if not is_domains_place(k)}}


def asked_for(directory: Path) -> tuple[Any, Any] | None:
    """`steps_and_test` of the configuration in `directory`; None if there is none that can be read."""
    try:
        return steps_and_test(read_yaml(directory / "config.yaml"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None


def is_another(directory: Path, config: dict[str, Any]) -> bool:
    """Whether `config` asks for more meta-steps, or another test, than the configuration in `directory`.

    A setting that was not there yet, in the configuration of an earlier version, was as it is by default.
    """
    before, (steps, test) = asked_for(directory), steps_and_test(config)
    if before is None:
        return False
    defaults = read_yaml(conf_dir() / "config.yaml")["eval"]
    return before[0] != steps or any(before[1].get(key, defaults.get(key)) != test.get(key) for key in test)


def has_figures(directory: Path, config: dict[str, Any]) -> bool:
    """Whether the results in `directory` are those that `config` asks for: there is nothing left to do."""
    return (directory / FILES[0]).exists() and not is_another(directory, config)


def set_aside(directory: Path, config: dict[str, Any], trained: bool) -> None:
    """Renames the results in `directory`, with what belongs to them, if `config` asks for others.

    A run made longer leaves results-<meta-steps>.json, one tested again results-1.json and so on; with a copy of its
    configuration. So does one that is `trained`, and was not tested, before its test is another: its first
    configuration tells how it was validated. Nothing is ever replaced.
    """
    before, results, first = asked_for(directory), directory / FILES[0], named(directory / "config.yaml", "1")
    if before is None or not is_another(directory, config):
        return
    if not results.exists() and (first.exists() or not trained):
        return
    tested = results.exists()
    steps, count = str(before[0]), itertools.count
    longer = before[0] != config["train"]["steps"]
    stems = itertools.chain([steps], (f"{steps}-{n}" for n in count(2))) if longer else (str(n) for n in count(1))
    config_before = (directory / "config.yaml").read_bytes()
    stem = next(stem for stem in stems if is_free(directory, stem, config_before))
    write_atomically(named(directory / "config.yaml", stem), config_before)
    for file in (directory / name for name in reversed(FILES)):
        if file.exists():
            file.rename(named(file, stem))
    if tested:
        log.info(f"the results that were there are now {named(results, stem)}")


def is_free(directory: Path, stem: str, config: bytes) -> bool:
    """Whether nothing has the names of `stem`, or but a part of what would get them, after a kill came between."""
    copy, results = (named(directory / file, stem) for file in ("config.yaml", FILES[0]))
    if copy.exists():
        rest = [directory / file for file in FILES[1:]]
        cut_short = copy.read_bytes() == config and (directory / FILES[0]).exists() and not results.exists()
        return cut_short and not any(file.exists() and named(file, stem).exists() for file in rest)
    return not any(named(directory / file, stem).exists() for file in FILES)


def named(file: Path, stem: str) -> Path:
    """`results.json` -> `results-3000.json`"""
    return file.with_name(f"{file.stem}-{stem}{file.suffix}")


def made_longer(command: str, steps: int) -> str:
    """The command that gives a run of so many steps, from the one that began it."""
    try:
        words = [word for word in shlex.split(command) if word.lstrip("+").split("=")[0] != "train.steps"]
    except ValueError:  # of an older run: its words were not quoted
        return command
    return shlex.join([*words, f"train.steps={steps}"])
