"""N-way K-shot episodes from data in classes: what every such task distribution does, given what it `found`.

A task distribution's own file says where its data come from; the rest of it is these functions, as its methods:

    check, n_classes, class_names = classes.check, classes.n_classes, classes.class_names
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, ConfigError, Episode, Key, Metrics, PyTree
from metarun.data import Classes, Found, draw, examples_of, large_enough
from metarun.tasks.episode import by_class, must_fit
from metarun.text import some


class InPools(Protocol):
    """Tasks whose splits are finite sets of classes, or of groups."""

    @property
    def shots(self) -> int: ...
    @property
    def queries(self) -> int: ...  # per class
    def found(self) -> Found: ...  # the same each time, and cheap after the first


class InClasses(InPools, Protocol):
    """N-way K-shot tasks."""

    @property
    def ways(self) -> int: ...


def n_out(self: InClasses) -> int:
    return self.ways


def check(self: InClasses, split: str) -> None:
    """Raises ConfigError if the split has fewer classes than an episode needs, or all but these are too small."""
    every = self.found().splits[split]
    must_give(self, split, every.pool.size.tolist(), every.pool.x.shape[1:], some(too_small(self, split)))


def must_give(
    self: InClasses, split: str, sizes: Sequence[int], shape: tuple[int, ...], small: str | None = None
) -> None:
    """What `check` asks of a split with classes of these sizes, of examples of this shape; `small` are too small."""
    usable = sum(size >= self.shots + self.queries for size in sizes)
    if self.ways > len(sizes):
        raise ConfigError("ways", self.ways, f"at most {len(sizes)}, the {split} classes")
    if self.ways > usable:
        remedy = f"; give these more, or take them away: {small}" if small else ""
        raise ConfigError(
            "shots+queries",
            f"{self.shots}+{self.queries}",
            f"at most {sorted(sizes)[-self.ways]} together: only {usable} of the {len(sizes)} {split} classes have "
            f"more, and ways={self.ways}{remedy}",
        )
    must_fit(shape, self.shots, self.queries, self.ways)


def usable(self: InPools, split: str) -> Classes:
    """The split's classes that are large enough for an episode."""
    return large_enough(self.found().splits[split], self.shots + self.queries)


def n_classes(self: InPools, split: str) -> int:
    return len(usable(self, split).names)


def n_groups(self: InPools, split: str) -> None:
    """None: classes are no groups, as a task has several of them."""


def of_group(self: InPools, data: PyTree, group: Array) -> PyTree:
    return data


def class_names(self: InClasses, split: str) -> list[str]:
    return list(usable(self, split).names)


def load(self: InPools, split: str) -> PyTree:
    """A `Pool`."""
    return usable(self, split).pool


def examples(self: InClasses, split: str, data: PyTree) -> dict[str, np.ndarray]:
    return examples_of(Classes(usable(self, split).names, data))


def digest(self: InPools, split: str) -> str:
    found = usable(self, split)
    text = "\n".join(f"{name} {size}" for name, size in zip(found.names, found.pool.size, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(self: InPools, split: str) -> str | None:
    known = self.found().fingerprint
    return known and f"{known} {split} {digest(self, split)}"


def told(self: InClasses) -> list[str]:
    """What is to be said of the data, a line each: what is left out, and why."""
    return [*self.found().told, *left_out(self, "classes", "examples")]


def left_out(self: InPools, classes: str, examples: str) -> list[str]:
    """How many are too small for an episode, a line for each split that has some; called by what they are."""
    lines = []
    for split, every in self.found().splits.items():
        small = too_small(self, split)
        if small:
            lines.append(
                f"{len(small)} of {len(every.names)} {split} {classes} have fewer than {self.shots}+{self.queries} "
                f"{examples}, shots and queries of an episode, and are left out: {some(small)}"
            )
    return lines


def too_small(self: InPools, split: str) -> list[str]:
    """The split's classes that have too few examples for an episode."""
    every = self.found().splits[split]
    sizes = zip(every.names, every.pool.size.tolist(), strict=True)
    return [name for name, size in sizes if size < self.shots + self.queries]


def sample(self: InClasses, data: PyTree, key: Key) -> Episode:
    chosen, rows = draw(data, key, self.ways, self.shots + self.queries)
    return by_class(as_input(data.x[rows]), self.shots, chosen)


def as_input(x: Array) -> Array:
    """Bytes as numbers from 0 to 1; all else as it is."""
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


def loss(self: InClasses, outputs: Array, y: Array) -> tuple[Array, Metrics]:
    return losses.cross_entropy(outputs, y)
