"""Published texts by intent: where their files are, whether they are the published ones, and folds of their intents."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from metarun.core import DataError
from metarun.data import SPLITS, download, find

Fold = Literal["fold0", "fold1", "fold2", "fold3", "fold4"]
FOLDS: tuple[Fold, ...] = ("fold0", "fold1", "fold2", "fold3", "fold4")


def files(name: str, parts: Sequence[str], source: str, data_dir: str | None) -> list[Path]:
    """`parts` of the set `name`, from data_dir/NAME/PART or data_dir/text/NAME_PART, else from `source`.

    Raises ConfigError and DataError.
    """
    if folder := find(name, data_dir, parts):
        return [folder / part for part in parts]
    if folder := find("text", data_dir, [f"{name}_{part}" for part in parts]):
        return [folder / f"{name}_{part}" for part in parts]
    return [download(source + part, name, data_dir) for part in parts]


def must_be_published(paths: Sequence[Path], lines: Sequence[str], digest: str) -> None:
    """Raises DataError unless the sha256 over what the files hold, a line each, is `digest`."""
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != digest:
        held = " and ".join([str(paths[0]), *(path.name for path in paths[1:])])
        raise DataError(f"{held}: not what was published; remove it, and it is fetched anew")


def in_fold(intents: Sequence[str], fold: Fold, ends: Sequence[int]) -> dict[str, list[str]]:
    """Split -> its intents, in alphabetical order: shuffled by the fold's own seed, then divided at `ends`."""
    every = sorted(intents)
    parts = np.split(np.random.RandomState(FOLDS.index(fold)).permutation(len(every)), ends)
    return {split: sorted(every[i] for i in part) for split, part in zip(SPLITS, parts, strict=True)}
