"""Data sets that are fetched: once, into the cache directory."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from metarun.core import DataError
from metarun.data.cache import beside, remove_left
from metarun.files import cache_dir

Content = TypeVar("Content")


def fetched(url: str, name: str, data_dir: str | None, read: Callable[[Path], Content]) -> Content:
    """What `read` makes of the file at `url`, which goes if that raises DataError. See `download`. Raises DataError."""
    path = download(url, name, data_dir)
    try:
        return read(path)
    except DataError:
        path.unlink(missing_ok=True)  # what was delivered is not the data set: the next try downloads again
        raise


def download(url: str, name: str, data_dir: str | None) -> Path:
    """The file at `url`, kept in the cache under `name`; shows a progress bar. Raises DataError.

    `data_dir` is where the file was looked for before, to be told if it cannot be had.

    A file appears under its own name only once it is complete. What a download leaves that is killed the next removes.
    """
    folder = cache_dir() / name
    target = folder / url.rsplit("/", 1)[1]
    if target.exists():
        return target
    import pooch

    remove_left(target)
    partial = beside(target)
    pooch.get_logger().setLevel("WARNING")
    try:
        fetch = pooch.HTTPDownloader(progressbar=True, timeout=30)
        fetched = pooch.retrieve(url, known_hash=None, fname=target.name, path=partial, downloader=fetch)
        return Path(fetched).replace(target)
    except Exception as error:  # requests, urllib3 and the disk each raise their own
        elsewhere = (
            f"nor in {Path(data_dir) / name}" if data_dir else "and neither data_dir= nor METARUN_DATA_DIR is set"
        )
        raise DataError(
            f"no {name} data: {target.name} is not in {folder} {elsewhere}, and {url} could not be fetched "
            f"({type(error).__name__}); get it there by hand, or take task=strokes, which needs no data"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
