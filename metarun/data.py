"""Data sets on disk: where they are looked for, how they are fetched, what is kept in the cache."""

import contextlib
import os
import socket
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import platformdirs

from metarun.core import DataError


def cache_dir() -> Path:
    """The user's cache directory for metarun: $METARUN_CACHE_DIR, else the platform's own."""
    return Path(os.environ.get("METARUN_CACHE_DIR") or platformdirs.user_cache_dir("metarun"))


def find(name: str, data_dir: str | None, files: Sequence[str]) -> Path | None:
    """The folder `data_dir`/`name` if it holds all of `files`; None without a data_dir, or if it holds none.

    Raises DataError for a data_dir that is no folder, or that holds the data set in part only.
    """
    if data_dir is None:
        return None
    folder = Path(data_dir).expanduser() / name
    missing = [file for file in files if not (folder / file).is_file()]
    if not missing:
        return folder
    if not Path(data_dir).expanduser().is_dir():
        raise DataError(f"data_dir={data_dir}: no such folder")
    if len(missing) == len(files):
        return None
    raise DataError(f"{folder} lacks {', '.join(missing)}: complete it, or leave data_dir out to download")


def download(url: str, name: str, data_dir: str | None) -> Path:
    """The file at `url`, kept in the cache under `name`; shows a progress bar. Raises DataError.

    `data_dir` is where the file was looked for before, to be told if it cannot be had.

    A file appears under its own name only once it is complete, so an interrupted download leaves none.
    """
    import pooch

    folder = cache_dir() / name
    target = folder / url.rsplit("/", 1)[1]
    pooch.get_logger().setLevel("WARNING")
    try:
        fetch = pooch.HTTPDownloader(progressbar=True, timeout=30)
        return Path(pooch.retrieve(url, known_hash=None, fname=target.name, path=folder, downloader=fetch))
    except Exception as error:  # requests, urllib3 and the disk each raise their own
        elsewhere = (
            f"nor in {Path(data_dir) / name}" if data_dir else "and neither data_dir= nor METARUN_DATA_DIR is set"
        )
        raise DataError(
            f"no {name} data: {target.name} is not in {folder} {elsewhere}, and {url} could not be fetched "
            f"({type(error).__name__}); get it there by hand, or take task=strokes, which needs no data"
        ) from error


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
