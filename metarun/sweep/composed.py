"""The combinations of a sweep, and what Hydra composes of each."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from metarun.config import explain
from metarun.config.composed import as_users_write, checked
from metarun.config.run import Run
from metarun.core import ConfigError
from metarun.sweep.record import Job


class Mistake(Exception):
    """What is wrong with a sweep, in one line."""


def combinations(config: DictConfig, arguments: Sequence[str], params: dict[str, Any]) -> list[list[str]]:
    """The settings of every run, as Hydra's own sweeper expands them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    settings = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*settings, *arguments])
    for one in overrides:
        if one.is_interval_sweep():
            raise ConfigError(
                one.get_key_element(), one.get_value_string(), "has no end of values; sweep.trials=20 searches it"
            )
    (every,) = BasicSweeper.split_arguments(overrides, None)
    return every


def composed(config: DictConfig, number: int, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """A combination's configuration and directory, as Hydra's run_job makes them; HydraConfig is then its own."""
    cfg = GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    HydraConfig.instance().set_config(cfg)
    directory = Path(cfg.hydra.sweep.dir, str(cfg.hydra.sweep.subdir)).absolute()
    own = copy.deepcopy(cfg)
    with read_write(own), open_dict(own):
        del own["hydra"]
    return own, as_users_write(directory)


def directories(config: DictConfig, every: dict[int, list[str]], common: set[str]) -> list[Path]:
    """The directory of each combination, which is sound. Raises Mistake over the first that is not."""
    return [directory for directory, _ in runs(config, every, common)]


def must_be_there(jobs: Iterable[Job], places: Iterable[Path]) -> None:
    """Raises ConfigError unless jobs of a sweep that has begun would be made in their own directories."""
    for job, place in zip(jobs, places, strict=True):
        if place.absolute().resolve() != job.directory.absolute().resolve():
            how = f"would make job {job.number} there, which is in {job.directory}; as it was, or name a new directory"
            raise ConfigError("hydra.sweep.subdir", place, how)


def runs(config: DictConfig, every: dict[int, list[str]], common: set[str]) -> list[tuple[Path, Run]]:
    """The directory of each combination and what it asks for. Raises Mistake over the first that is not sound.

    `common` are the settings that all of them have: the others tell which combination is meant.
    """
    before = HydraConfig.instance().cfg
    found: list[tuple[Path, Run]] = []
    taken: set[Path] = set()
    for number, overrides in every.items():
        try:
            cfg, directory = composed(config, number, overrides)
            if directory in taken:
                raise ConfigError("hydra.sweep.subdir", directory, "each run wants a directory of its own")
            taken.add(directory)
            run = checked(cfg, directory)
            run.hardware.must_be_alone("is of one run; leave it out of a sweep")
            found.append((directory, run))
        except Exception as error:
            GlobalHydra.instance().clear()  # `explain` composes anew
            said = str(error) if isinstance(error, ConfigError) else explain(error, overrides)
            own = " ".join(setting.lstrip("+") for setting in overrides if setting not in common)
            raise Mistake(f"{said} (in the combination {own})" if common and own else said) from error
        finally:
            HydraConfig.instance().cfg = before
    return found
