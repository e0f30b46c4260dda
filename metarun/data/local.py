"""Data sets that a user already has: where they are looked for."""

from collections.abc import Sequence
from pathlib import Path

from metarun.core import ConfigError, DataError


def find(name: str, data_dir: str | None, files: Sequence[str]) -> Path | None:
    """The folder `data_dir`/`name` if it holds all of `files`; None without a data_dir, or if it holds none.

    Raises ConfigError for a data_dir that is no folder, DataError for one that holds the data set in part only.
    """
    if data_dir is None:
        return None
    must_be_a_folder(data_dir)
    folder = Path(data_dir).expanduser() / name
    missing = [file for file in files if not (folder / file).is_file()]
    if not missing:
        return folder
    if len(missing) == len(files):
        return None
    raise DataError(f"{folder} lacks {', '.join(missing)}: complete it, or leave data_dir out to download")


def must_be_a_folder(data_dir: str) -> None:
    """Raises ConfigError for a data_dir that is none."""
    if not Path(data_dir).expanduser().is_dir():
        raise ConfigError("data_dir", data_dir, "no such folder")
