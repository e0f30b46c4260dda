"""A sweep's directory: it is planned before there is one, and written once that is this process's alone."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from metarun.config import in_hydras_quotes
from metarun.config.composed import as_users_write, is_named_by_time
from metarun.core import ConfigError
from metarun.files import write_atomically
from metarun.run.record import only_process_in, taken_anew
from metarun.sweep import record
from metarun.sweep.record import Sweep


@contextmanager
def taken(config: DictConfig, planned: Callable[[Path, Sweep | None], Sweep]) -> Iterator[Sweep]:
    """The sweep of a command, written down in its directory, which is this process's. Raises ConfigError.

    `planned` is asked with the sweep that is there: before there is anything, so that a mistake leaves nothing; and
    once more if it is another one, of another process, by the time that the directory is this one's. Of two that take
    their directory's name from the same second the later one's has a number, too.
    """
    directory = as_users_write(Path(str(config.hydra.sweep.dir)).absolute())
    own = is_named_by_time(config.hydra.sweep, "hydra.sweep.dir", settings_of_hydra(config))
    before = None if own else there(directory)
    sweep = planned(directory, before)
    if own and (directory := taken_anew(directory)) != sweep.directory:
        name(config, directory)
        sweep = planned(directory, before)
    with only_process_in(directory):
        if (now := there(directory)) != before:
            sweep = planned(directory, now)
        if now is None:
            write_atomically(directory / "multirun.yaml", OmegaConf.to_yaml(config))
            record.begin(sweep)
        yield sweep


def there(directory: Path) -> Sweep | None:
    """The sweep in a directory, if there is one. Raises ConfigError if it is a run's."""
    if record.is_sweep(directory):
        return record.read(directory)
    if (directory / "config.yaml").exists():
        raise ConfigError("run.dir", directory, "holds a run; for a sweep name another one")
    return None


def settings_of_hydra(config: DictConfig) -> list[str]:
    """Of a command's settings those of Hydra itself."""
    return OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)  # type: ignore[return-value]


def options_of(config: DictConfig) -> tuple[str, ...]:
    """Of this process's command Hydra's options, with their values."""
    left = sys.argv[1:]
    overrides = config.hydra.overrides
    for part in (overrides.task, overrides.hydra):
        for setting in OmegaConf.to_container(part, resolve=False):  # type: ignore[union-attr]
            if setting in left:
                left.remove(str(setting))
    return tuple(word for word in left if word not in ("-m", "--multirun"))


def asked_for(config: DictConfig, directory: Path, arguments: Sequence[str], sweeper: str) -> Sweep:
    """The sweep that this process's command would begin, without its jobs."""
    hydras = settings_of_hydra(config)
    sweeping, beside = record.sweeping_of(hydras), record.beside_of(hydras)
    return Sweep(directory, options_of(config), tuple(arguments), sweeper, sweeping=sweeping, beside=beside)


def name(config: DictConfig, directory: Path) -> None:
    """Has the sweep in `directory`, and so what is composed of each of its jobs."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir = str(directory)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={in_hydras_quotes(str(directory))}")
