"""A sweep's directory: it is planned before there is one, and written once that is this process's alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from metarun.config.composed import as_users_write
from metarun.core import ConfigError
from metarun.run.record import only_process_in
from metarun.sweep import record
from metarun.sweep.record import Sweep


@contextmanager
def taken(config: DictConfig, planned: Callable[[Path, Sweep | None], Sweep]) -> Iterator[Sweep]:
    """The sweep of a command, written down in its directory, which is this process's. Raises ConfigError.

    `planned` is asked with the sweep that is there: before there is anything, so that a mistake leaves nothing; and
    once more if it is another one, of another process, by the time that the directory is this one's.
    """
    directory = as_users_write(Path(str(config.hydra.sweep.dir)).absolute())
    before = there(directory)
    sweep = planned(directory, before)
    with only_process_in(directory):
        if (now := there(directory)) != before:
            sweep = planned(directory, now)
        if now is None:
            OmegaConf.save(config, directory / "multirun.yaml")
            record.begin(sweep)
        yield sweep


def there(directory: Path) -> Sweep | None:
    """The sweep in a directory, if there is one. Raises ConfigError if it is a run's."""
    if record.is_sweep(directory):
        return record.read(directory)
    if (directory / "config.yaml").exists():
        raise ConfigError("run.dir", directory, "holds a run; for a sweep name another one")
    return None
