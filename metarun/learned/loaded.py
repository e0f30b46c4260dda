"""A learner from where it is: a run's directory, or one that it was kept in."""

from os import PathLike
from pathlib import Path
from typing import Any, Literal

from metarun import engine
from metarun.config.run import build_run
from metarun.core import ConfigError
from metarun.learned import kept, ready
from metarun.learned.learner import Adapted, Learned
from metarun.run import purpose, restored
from metarun.run.purpose import Purpose
from metarun.text import one_line


def load(path: str | Path, state: Literal["best", "last"] | None = None) -> Learned:
    """The learner of the run in a directory: its best state on validation, its last, or the one that its test used.

    Or one that `keep` put into a directory of its own, or one that comes with metarun, by its name (`metarun ready`):
    these have one state, and `state` is left out. The run's data need not be there. Raises ConfigError and DataError,
    in one line each.
    """
    one = found(path, state)
    return one.learned if isinstance(one, Adapted) else one


def found(path: str | Path, state: Literal["best", "last"] | None = None) -> Learned | Adapted:
    """As `load`; what was adapted comes as that."""
    directory = place_of(path)
    if not directory.exists() and "/" not in str(path):
        what = f"no such directory, and none of metarun ready's; {ready.nearest_name(str(path))}"
        raise ConfigError("run", path, what)
    if kept.is_kept(directory):
        if state is not None:
            raise ConfigError("state", state, f"{path} was kept with one state; leave it out")
        return read(directory)
    config = restored.stored(directory)
    params, used = restored.saved(config, directory, config["eval"]["state"] if state is None else state)
    engine.prepare()
    return Learned(config, purpose.read(directory) or from_its_data(config), params, used)


def load_adapted(path: str | Path) -> Adapted:
    """What `keep` wrote of an adapted learner. Raises ConfigError and DataError."""
    directory = place_of(path)
    if not kept.is_kept(directory):
        raise ConfigError("directory", directory, f"holds no adapted learner (no {kept.TOLD})")
    one = read(directory)
    if not isinstance(one, Adapted):
        raise ConfigError("directory", directory, "holds a learner that is adapted to nothing; adapt it first")
    return one


def place_of(path: str | Path) -> Path:
    """A directory as it is given, else that of the learner of this name. Raises ConfigError for what names none."""
    if not isinstance(path, str | PathLike):
        allowed = "must be a run's directory, one that a learner was kept in, or a name of metarun ready"
        raise ConfigError("run", one_line(path), allowed)
    directory = Path(path).expanduser()
    return directory if directory.exists() else ready.place(str(path)) or directory


def read(directory: Path) -> Learned | Adapted:
    engine.prepare()
    return kept.read(directory)


def from_its_data(config: dict[str, Any]) -> Purpose:
    """What a run of an earlier version is for, which its data tell."""
    run = build_run(config)
    return purpose.purpose_of(run.tasks, run.tasks.load("train"))
