"""What Hydra has composed, checked: the run that it asks for in a directory, where it may have begun."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from metarun.config.loggers import must_be_there
from metarun.config.overrides import PLACE, going_on, key_of
from metarun.config.resume import MAY_CHANGE, PERIODS, resume
from metarun.config.run import Run, build_run, resolve
from metarun.core import ConfigError

# A command of nothing else is about a run that has begun: goes on with it, makes it longer, tests it again.
OF_A_RUN_THERE = (*MAY_CHANGE, "eval.", "train.steps.", *PERIODS)


def checked(cfg: DictConfig, directory: Path) -> Run:
    """The run that the composed configuration asks for in `directory`, where it may have begun. Raises ConfigError."""
    cfg.run.dir = str(directory)
    given = [key_of(setting) for setting in as_given(HydraConfig.instance().cfg)]
    named = [key for key in given if key != "run.dir"]
    resolved = resolve(cfg)
    begun = (directory / "config.yaml").exists()
    try:
        run = build_run(resume(directory, resolved, named) if begun else resolved)
    except ConfigError as error:
        if not begun or error.key != PLACE or PLACE in named:
            raise
        how = f"{error.allowed}; if the data have moved: {going_on(directory)} {PLACE}=WHERE"
        raise ConfigError(PLACE, error.given, how) from error
    must_be_there(run.loggers)
    if begun:
        return run
    if any((directory / "checkpoints").glob("*/*")):
        gone = "has checkpoints, and the config.yaml that tells what they are of is gone; put it back, or name another"
        raise ConfigError("run.dir", directory, gone)
    alone = OmegaConf.is_missing(HydraConfig.get().job, "num")  # no sweep has given it a directory
    if alone and "run.dir" in given and all(f"{key}.".startswith(OF_A_RUN_THERE) for key in named):
        raise ConfigError("run.dir", directory, "holds no run to go on with; to start one there, add task= or learner=")
    return run


def is_named_by_time(place: DictConfig, key: str, given: Iterable[str]) -> bool:
    """Whether `place.dir` has its name from the second in which all began, and not from one of the settings given."""
    raw: Any = OmegaConf.to_container(place, resolve=False)
    return "${now:" in str(raw["dir"]) and key not in map(key_of, given)


def as_given(cfg: Any) -> list[str]:
    """The settings of a composed configuration, as they were given: what they refer to (`${...}`) is not looked up."""
    return OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)  # type: ignore[return-value]


def as_users_write(directory: Path) -> Path:
    """A directory, relative to where the command was given if it is below that."""
    return Path(os.path.relpath(directory)) if directory.is_relative_to(Path.cwd()) else directory
