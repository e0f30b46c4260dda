"""One process at a time in a run's directory."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from metarun.core import ConfigError
from metarun.files import FULL

NAME = ".lock"
PATIENCE = 1.0  # seconds: who looks whether a process is at work holds the lock for a moment, too


@contextmanager
def only_process_in(directory: Path) -> Iterator[None]:
    """Raises ConfigError if another process, on this machine, is at work in the run's directory."""
    made(directory)
    lock = FileLock(directory / NAME, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError("run.dir", directory, "another process is at work there; name another directory") from error
    try:
        yield
    finally:
        let_go(directory)
        lock.release()


def made(directory: Path) -> None:
    """Makes a run's directory, unless it is there. Raises ConfigError where there can be none, or none to save in."""
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError as error:  # orbax refuses it, and yaml would not read it back
        what = "has bytes in its path that are no UTF-8, with which nothing can be saved; name another"
        raise ConfigError("run.dir", directory.absolute(), what) from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ConfigError("run.dir", directory, f"cannot be made ({error.strerror}); name another") from error


def taken_anew(directory: Path) -> Path:
    """The directory, or one beside it with a number, which no other process that asks for a new one is given."""
    numbered = (directory.with_name(f"{directory.name}-{number}") for number in itertools.count(2))
    for place in itertools.chain([directory], numbered):
        made(place)
        with suppress(FileExistsError):
            (place / NAME).touch(exist_ok=False)
            break
    return place


def let_go(directory: Path) -> None:
    """Leaves nothing of the lock in a directory that holds nothing else."""
    with suppress(OSError):  # the directory may have been taken away
        if [file.name for file in directory.iterdir()] == [NAME]:
            (directory / NAME).unlink()


def is_taken(directory: Path) -> bool:
    """Whether a process is at work in the run's directory. Writes nothing."""
    if not (directory / NAME).exists():
        return False
    try:
        with FileLock(directory / NAME, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # not ours to lock: nothing can be said
        return False
