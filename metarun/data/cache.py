"""Arrays that took long to make, kept for the next run."""

import contextlib
import os
import socket
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from metarun.files import cache_dir


def cached(
    name: str, make: Callable[[], dict[str, np.ndarray]], is_whole: Callable[[dict[str, np.ndarray]], bool]
) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, kept as cache_dir()/`name` (npz), where they stay as long as they are `is_whole`.

    The file is written beside its place and then moved, so that processes which make it at the same time
    all succeed and none sees half a file. One that cannot be read is made anew; a cache that cannot be
    written is done without.
    """
    path = cache_dir() / name
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if is_whole(arrays):
            return arrays
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        pass  # not there, or damaged: made anew
    arrays = make()
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return arrays
