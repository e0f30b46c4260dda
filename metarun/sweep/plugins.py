"""Our sweepers and launchers, as Hydra knows plugins, and many runs in one program: loaded when they are needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from metarun.sweep.record import Sweep

# Hydra takes plugins from packages below `hydra_plugins` alone: by these names they are `_target_` in conf/hydra/.
WHERE = "hydra_plugins.metarun"


def register() -> None:
    """Makes them known. Not as Plugins.register does: that one goes by the class's own module."""
    from metarun.sweep.grid import Grid
    from metarun.sweep.processes import Processes
    from metarun.sweep.ray import Ray
    from metarun.sweep.search import Search
    from metarun.sweep.slurm import Slurm

    known = Plugins.instance().class_name_to_class
    known |= {f"{WHERE}.{kind.__name__}": kind for kind in (Grid, Processes, Ray, Search, Slurm)}


def train_together(cfg: "DictConfig", directory: Path) -> "tuple[Sweep, dict[int, str]]":
    """See metarun.sweep.together.train."""
    from metarun.sweep.together import train

    return train(cfg, directory)
