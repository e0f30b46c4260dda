"""The loggers of a configuration: one, or several by their names (`logger=wandb`, `logger=[wandb,tensorboard]`)."""

from collections.abc import Mapping
from typing import Any

from metarun.config.build import build, is_component
from metarun.core import Logger, Needing


def build_loggers(values: Any) -> dict[str, Logger]:
    """Each by its name; one that stands alone, as all did in earlier versions, by its class's. Raises ConfigError."""
    if not is_several(values):
        logger = build("logger", values, kind=Logger)
        return {type(logger).__name__: logger}
    return {name: build(f"logger.{name}", one, kind=Logger) for name, one in values.items()}


def is_several(values: Any) -> bool:
    """Whether each value of the section is a logger, rather than a setting of one."""
    return isinstance(values, Mapping) and "_target_" not in values and any(map(is_component, values.values()))


def must_be_there(loggers: Mapping[str, Logger]) -> None:
    """Raises ConfigError for a logger that needs what is not in this installation."""
    for logger in loggers.values():
        if isinstance(logger, Needing):
            logger.check()
