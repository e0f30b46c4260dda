"""What the settings of a command come to that makes no run of its own."""

from typing import TYPE_CHECKING

from metarun.command.exits import MISTAKE, fail
from metarun.config import conf_dir, explain, translate

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(settings: list[str], name: str) -> "DictConfig":
    """Their configuration, of a run of this name without a directory. Ends the program over what is none."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=["run.dir=null", f"run.name={name!r}", *translate(settings)])
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, settings), MISTAKE)
