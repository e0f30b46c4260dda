"""What Hydra has composed, checked: the run that it asks for in a directory, where it may have begun."""

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from metarun.config.loggers import must_be_there
from metarun.config.resume import MAY_CHANGE, resume
from metarun.config.run import Run, build_run, resolve
from metarun.core import ConfigError


def checked(cfg: DictConfig, directory: Path) -> Run:
    """The run that the composed configuration asks for in `directory`, where it may have begun. Raises ConfigError."""
    cfg.run.dir = str(directory)
    # What is chosen by its name within another group, `logger@logger.wandb=wandb`, is told by its place.
    given = [setting.lstrip("+~").split("=")[0].split("@")[-1] for setting in as_given(HydraConfig.instance().cfg)]
    named = [key for key in given if key != "run.dir"]
    resolved = resolve(cfg)
    begun = (directory / "config.yaml").exists()
    run = build_run(resume(directory, resolved, named) if begun else resolved)
    must_be_there(run.loggers)
    if begun:
        return run
    if any((directory / "checkpoints").glob("*/*")):
        gone = "has checkpoints, and the config.yaml that tells what they are of is gone; put it back, or name another"
        raise ConfigError("run.dir", directory, gone)
    if "run.dir" in given and all(f"{key}.".startswith(MAY_CHANGE) for key in named):
        raise ConfigError("run.dir", directory, "holds no run to go on with; to start one there, add task= or learner=")
    return run


def is_named_by_time(cfg: DictConfig) -> bool:
    """Whether the run's directory has its name from the second in which it began, and not from the command."""
    raw = OmegaConf.to_container(cfg.run, resolve=False)
    given = as_given(HydraConfig.instance().cfg)
    return "${now:" in str(raw["dir"]) and not any(setting.lstrip("+").startswith("run.dir=") for setting in given)  # type: ignore[index,call-overload]


def as_given(cfg: Any) -> list[str]:
    """The settings of a composed configuration, as they were given: what they refer to (`${...}`) is not looked up."""
    return OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)  # type: ignore[return-value]


def as_users_write(directory: Path) -> Path:
    """A directory, relative to where the command was given if it is below that."""
    return Path(os.path.relpath(directory)) if directory.is_relative_to(Path.cwd()) else directory
