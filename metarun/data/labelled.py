"""Rows that have a class (or a group) each, and perhaps a split: sorted into the pools of the splits."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from metarun.core import DataError
from metarun.data.pool import Classes, Pool
from metarun.data.splits import NAMES, SPLITS, completed, drawn
from metarun.text import one_line


def splits_of(
    where: str, kind: str, names: Sequence[str], given: Sequence[str] | None, fractions: Sequence[float], seed: int
) -> dict[str, list[str]]:
    """Split -> its classes (or groups: `kind` is what they are called), of the rows' `names` (n,).

    The rows' splits are as `given` (n,), or drawn by `fractions` and `seed`, whole classes both ways. `where` is told
    in errors. Raises DataError.
    """
    every = list(dict.fromkeys(names))
    if len(every) < len(SPLITS):
        few = " and ".join(map(repr, every)) or "none"
        raise DataError(one_line(f"{where}: {plural(kind)}: {few} only; each of train, val and test needs its own"))
    if given is None:
        return drawn(every, fractions, seed)
    split_of: dict[str, str] = {}
    for name, split in dict.fromkeys(zip(names, given, strict=True)):
        known = NAMES.get(split.lower())
        if known is None:
            raise DataError(one_line(f"{where}: {split!r} is no split; train, val and test are"))
        if split_of.setdefault(name, known) != known:
            both = f"{split_of[name]} and in {known}"
            raise DataError(
                one_line(f"{where}: the {kind} {name!r} stands in {both}: a split needs {plural(kind)} of its own")
            )
    if "train" not in split_of.values():
        raise DataError(f"{where}: no {kind} is for training, all are for {' and '.join(sorted(set(given)))}")
    by_split: dict[str, list[str]] = {}
    for name, split in split_of.items():
        by_split.setdefault(split, []).append(name)
    return completed(by_split, fractions, seed)


def plural(kind: str) -> str:
    return "classes" if kind == "class" else f"{kind}s"


def pools(
    x: np.ndarray, names: Sequence[str], splits: Mapping[str, Iterable[str]], y: np.ndarray | None = None
) -> dict[str, Classes]:
    """Rows x (n, ...), and targets y (n, d), of the classes `names` (n,) as pools; a class's rows keep their order."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    found = {}
    for split, of_split in splits.items():
        classes = list(of_split)
        size = np.array([len(rows[name]) for name in classes], np.int32)
        first = (np.cumsum(size) - size).astype(np.int32)
        order = np.array([i for name in classes for i in rows[name]], np.int64)
        found[split] = Classes(tuple(classes), Pool(x[order], first, size, None if y is None else y[order]))
    return found
