"""Whether what a run is tested on is new to it: asked of the data themselves, not of a list of names."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from metarun.core import DataError, PyTree
from metarun.data import SPLITS, let_go
from metarun.files import cache_dir, write_atomically


@runtime_checkable
class Finite(Protocol):
    """Tasks whose splits are finite sets of classes with their examples. Endless ones have nothing to compare."""

    def examples(self, split: str, data: PyTree) -> dict[str, np.ndarray]:
        """Class -> its examples (n, ...), all of them, on the host."""
        ...


@runtime_checkable
class Known(Protocol):
    """Finite tasks that can tell their examples from others without a look at each."""

    def fingerprint(self, split: str) -> str | None:
        """Another for other classes or examples; None where that is not known."""
        ...


class Part(NamedTuple):
    """A split of tasks, with its data."""

    tasks: Any
    split: str
    data: PyTree


def check(tasks: Mapping[str, Any], data: Mapping[str, PyTree]) -> dict[str, Any] | None:
    """For each split its tasks and data -> how many classes each split has, its content, and examples in two splits.

    A class is told by the digests of its examples, whatever their order, and by its name. Raises DataError if a class
    is in two splits. None for tasks that are no `Finite`. Examples are compared bit by bit, as the model sees them.
    What was found of the same classes before, in the cache directory by a digest of all of them, is not found again.
    """
    return apart({split: Part(tasks[split], split, data[split]) for split in SPLITS})


def apart(parts: Mapping[str, Part]) -> dict[str, Any] | None:
    """Of each what is to share nothing with the others: what `check` says of splits. No other part's names tell it."""
    if not all(isinstance(part.tasks, Finite) for part in parts.values()):
        return None
    classes = {name: part.tasks.examples(part.split, part.data) for name, part in parts.items()}
    path = cache_dir() / "separation" / f"{known(parts) or digest_of_all(classes)}.json"
    try:
        digest, _, text = path.read_text().partition("\n")
        if digest == hashlib.sha256(text.encode()).hexdigest():
            return json.loads(text)
    except (OSError, ValueError):
        pass  # not there, or no text
    found = compare(classes)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found)
        write_atomically(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    return found


def known(parts: Mapping[str, Part]) -> str | None:
    """A digest of all parts' fingerprints; None if one of them has none."""
    prints = [part.tasks.fingerprint(part.split) if isinstance(part.tasks, Known) else None for part in parts.values()]
    if not all(prints):
        return None
    return hashlib.sha256("\n".join([Path(__file__).read_text(), *parts, *map(str, prints)]).encode()).hexdigest()[:32]


def digest_of_all(classes: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Of each split's classes, their names and examples in their order: on all cores, for they may be gigabytes.

    And of this file: another version may look for more.
    """
    every = [(split, name, found) for split in classes for name, found in classes[split].items()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        told = pool.map(lambda one: f"{one[0]} {one[1]} {one[2].shape} {one[2].dtype} {digests([one[2]])[0]}", every)
        return hashlib.sha256("\n".join([Path(__file__).read_text(), *told]).encode()).hexdigest()[:32]


def compare(classes: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """What `apart` returns. Raises DataError."""
    examples = {split: {name: digests(found) for name, found in classes[split].items()} for split in classes}
    whole = {split: {" ".join(sorted(found)): name for name, found in examples[split].items()} for split in classes}
    for one, other in combinations(classes, 2):
        same = {(whole[one][d], whole[other][d]) for d in whole[one].keys() & whole[other].keys()}
        if {one, other} <= set(SPLITS):
            same |= {(name, name) for name in classes[one].keys() & classes[other].keys()}
        if same:
            name, again = min(same)
            remedy = "mend the splits" if other in SPLITS else f"leave them out there, or {other} itself"
            raise DataError(
                f"{len(same)} classes stand in {one} and in {other} alike, {name!r} ({again!r} there) among them: "
                f"a figure on {other} would not be of new classes; {remedy}"
            )
    places: dict[str, list[str]] = defaultdict(list)
    for split in classes:
        for name, found in examples[split].items():
            for i, one in enumerate(found):
                places[one].append(f"{split}: {name}[{i}]")
    across = [found for found in places.values() if len({place.split(":")[0] for place in found}) > 1]
    return {
        "classes": {split: len(classes[split]) for split in classes},
        "contents": {split: content(examples[split]) for split in classes},
        "duplicate_examples_across_splits": len(across),
        "duplicates": across[:20],
    }


def content(examples: Mapping[str, Sequence[str]]) -> str:
    """A digest of a split: of its classes' names and their examples' digests, all in their order."""
    return hashlib.sha256(json.dumps(list(examples.items())).encode()).hexdigest()[:16]


def digests(arrays: Sequence[np.ndarray] | np.ndarray) -> list[str]:
    """Of each example, or of whole classes; of what is mapped from the disk nothing is kept in memory."""
    found = [hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays]
    for array in arrays[:1]:
        let_go(array)
    return found
