"""Arrays that took long to make, kept for the next run."""

import contextlib
import glob
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from metarun.files import cache_dir

Arrays = dict[str, np.ndarray]


def cached(name: str, make: Callable[[Path], Arrays], is_whole: Callable[[Arrays], bool]) -> Arrays:
    """The arrays that `make` gives, kept as cache_dir()/`name`/*.npy, where they stay as long as they are `is_whole`.

    What comes back is mapped from the disk: read where it is used, so that no start waits for all of it. `make` is
    given a folder: an array that it has laid there itself (`empty`) is never whole in memory. The folder is filled
    beside its place and then moved, so that processes which make it at the same time all succeed and none sees half
    of it. What cannot be read is made anew; a cache that cannot be written is done without.
    """
    place = cache_dir() / name
    if (found := read(place)) is not None and is_whole(found):
        return found
    remove_left(place)
    partial = beside(place)
    try:
        partial.mkdir(parents=True)
    except OSError:
        return make(Path(os.devnull))
    try:
        arrays = make(partial)
        with contextlib.suppress(OSError):
            for key, values in arrays.items():
                if isinstance(values, np.memmap):
                    values.flush()
                else:  # as it is not to be named before it is on the disk: a machine that fails would leave zeros
                    with (partial / f"{key}.npy").open("wb") as file:
                        np.save(file, values, allow_pickle=False)
                        file.flush()
                        os.fsync(file.fileno())
            shutil.rmtree(place, ignore_errors=True)  # damaged
            partial.replace(place)
        return arrays if (kept := read(place)) is None or not is_whole(kept) else kept
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def beginning(place: Path) -> str:
    """Of the names under which processes of this machine fill a folder with what becomes `place`; theirs follow."""
    return f".{place.name}.{socket.gethostname()}-"


def beside(place: Path) -> Path:
    """The folder that this process fills."""
    return place.with_name(f"{beginning(place)}{os.getpid()}.partial")


def remove_left(place: Path) -> None:
    """Removes what processes of this machine left that were killed while they filled the folder."""
    for left in place.parent.glob(f"{glob.escape(beginning(place))}*.partial"):
        pid = left.name.removeprefix(beginning(place)).removesuffix(".partial")
        # In a container this process may have the number that a killed one had.
        is_own = pid == str(os.getpid()) and left.stat().st_mtime >= psutil.Process().create_time()
        if pid.isdigit() and not is_own and (pid == str(os.getpid()) or not psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def empty(folder: Path, name: str, shape: tuple[int, ...], kind: np.dtype | type) -> np.ndarray:
    """An array of zeros for `make` to fill: on the disk if `folder` can have it, else in memory."""
    path = folder / f"{name}.npy"
    try:
        array = np.lib.format.open_memmap(path, "w+", np.dtype(kind), shape)
        with path.open("r+b") as file:  # a mapped page that the disk has no room for would end the process
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return np.zeros(shape, kind)


def read(place: Path) -> Arrays | None:
    """The arrays of a folder; None if they are not there, or damaged."""
    try:
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(place.glob("*.npy"))}
    except Exception:  # a damaged file may raise anything: of its head numpy makes Python's tokens
        return None
