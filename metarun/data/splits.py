"""Which of a data set's classes are for training, for choosing and for the test: as given, or drawn by a seed."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from metarun.core import ConfigError

SPLITS = ("train", "val", "test")
NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
NAMES |= {"test": "test", "testing": "test", "eval": "test", "evaluation": "test"}


def drawn(
    names: Collection[str], fractions: Sequence[float], seed: int, into: Sequence[str] = SPLITS
) -> dict[str, list[str]]:
    """`names` shared out among the splits `into` (train among them), by `fractions` of train, val and test.

    Each split gets its share, rounded, and at least one class while there are as many; training gets what is left, or
    the last one that has a share, where training has none: 0, 0, 1 is all for the test. The same names, fractions and
    seed give the same splits, on every machine.
    """
    shuffled = [sorted(names)[i] for i in np.random.RandomState(seed).permutation(len(names))]
    share = dict(zip(SPLITS, fractions, strict=True))
    total = sum(share[split] for split in into)
    having = [split for split in SPLITS if split in into and share[split]]
    found: dict[str, list[str]] = {}
    for split in reversed([split for split in SPLITS if split in into and split != "train"]):
        n = min(max(1, round(len(names) * share[split] / total)), max(0, len(shuffled) - 1)) if share[split] else 0
        if having[:1] == [split]:
            n = len(shuffled)
        found[split] = sorted(shuffled[len(shuffled) - n :])
        shuffled = shuffled[: len(shuffled) - n]
    return {"train": sorted(shuffled)} | dict(reversed(found.items()))


def completed(given: Mapping[str, Collection[str]], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """The classes of each split: as `given`, what lacks a split of its own drawn from training's."""
    lacking = [split for split in SPLITS if split not in given]
    train = drawn(given["train"], fractions, seed, ["train", *lacking]) if lacking else {}
    return {split: train[split] if split in train else sorted(given[split]) for split in SPLITS}


def must_be_fractions(fractions: Sequence[float]) -> None:
    """Raises ConfigError unless there is a part for each split, which may be 0, together 1."""
    if not all(part >= 0 for part in fractions) or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ConfigError(
            "fractions", list(fractions), "parts of the classes for train, val and test, none below 0, together 1"
        )
