"""Data sets that a user already has: where they are looked for."""

from collections.abc import Sequence
from pathlib import Path

from metarun.core import DataError


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
