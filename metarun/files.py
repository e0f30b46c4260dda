"""The user's disk: where metarun keeps what it may make again, and files that are whole or not there at all."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs
import yaml

WRITING = threading.RLock()  # whoever ends the process in the middle waits for it, so that nothing is left half written

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a disk says that takes no more
OF_PROCESSES = ("/proc", "/dev/fd")  # what they have open has names there


def cache_dir() -> Path:
    """The user's cache directory for metarun: $METARUN_CACHE_DIR, else the platform's own."""
    return Path(os.environ.get("METARUN_CACHE_DIR") or platformdirs.user_cache_dir("metarun"))


def read_yaml(path: Path) -> Any:
    """What a yaml file says, by libyaml where it is there: ten times as fast. Raises OSError, yaml.YAMLError."""
    return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that whoever reads it finds either the old content or the new, whole."""
    write_bytes_atomically(path, lambda file: file.write(content.encode() if isinstance(content, str) else content))


def write_bytes_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """The same for what `write` writes. A link stays one; a pipe, or another file that is none, is written into.

    What cannot be written is named by the OSError: a full disk tells of no file.
    """
    file = path.resolve() if path.is_symlink() else path
    partial = file.with_name(f".{file.name}.{os.getpid()}") if can_be_replaced(path) else None
    with named(path, partial):
        if partial is None:
            with path.open("wb") as opened:
                write(opened)
        else:
            write_and_replace(file, partial, write)


@contextmanager
def named(path: Path, partial: Path | None = None) -> Iterator[None]:
    """An OSError of no file, as a full disk's, or of its `partial` one, has the file's name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_and_replace(path: Path, partial: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under another name first, of which nothing is left."""
    try:
        with WRITING:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def can_be_replaced(path: Path) -> bool:
    """Whether there is a plain file, or none; not where links lead to what a process has open, as /dev/stdout does."""
    link = path
    while link.exists():
        if any(link.parent.resolve().is_relative_to(place) for place in OF_PROCESSES):
            return False
        if not link.is_symlink():
            return link.is_file()
        link = link.parent / link.readlink()
    return True
