"""Regression from data in groups, each of which is a task: what every such task distribution does with what it `found`.

Its support and query are different rows of ONE group, and every group is equally likely, whatever its size. A task
distribution's own file says where its data come from; the rest of it is these functions, as its methods.
"""

import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, ConfigError, Episode, Key, Metrics, PyTree
from metarun.data import Classes, draw
from metarun.tasks import classes
from metarun.tasks.classes import InPools, as_input, left_out, usable
from metarun.tasks.episode import must_fit, of_rows

load, digest, fingerprint = classes.load, classes.digest, classes.fingerprint


def n_out(self: InPools) -> int:
    """The targets' dimension."""
    return targets_of(self.found().splits["train"]).shape[1]


def targets_of(groups: Classes) -> np.ndarray:
    assert groups.pool.y is not None, "groups have targets"
    return np.asarray(groups.pool.y)


def check(self: InPools, split: str) -> None:
    """Raises ConfigError if no group of the split is large enough for an episode."""
    every = self.found().splits[split]
    if not every.names:
        raise ConfigError("fractions", "(as they are)", f"leave no group to {split}: there are too few")
    if not usable(self, split).names:
        name, size = max(zip(every.names, every.pool.size.tolist(), strict=True), key=lambda one: one[1])
        raise ConfigError(
            "shots+queries",
            f"{self.shots}+{self.queries}",
            f"at most {size} together, the rows of {name!r}, the largest of the {len(every.names)} {split} groups",
        )
    must_fit(every.pool.x.shape[1:], self.shots, self.queries)


def n_classes(self: InPools, split: str) -> None:
    """None: groups are no classes."""


def class_names(self: InPools, split: str) -> None:
    """None, likewise."""


def n_groups(self: InPools, split: str) -> int:
    return len(usable(self, split).names)


def of_group(self: InPools, data: PyTree, group: Array) -> PyTree:
    """A pool of one group, whose rows stay where they are."""
    first, size = (jnp.asarray(part)[group][None] for part in (data.first, data.size))
    return data._replace(first=first, size=size)


def examples(self: InPools, split: str, data: PyTree) -> dict[str, np.ndarray]:
    """Group -> its rows (n, ...): inputs and targets side by side, as they stand in memory."""
    x, y = np.asarray(data.x), targets_of(Classes((), data))
    rows = np.concatenate([np.ascontiguousarray(part).reshape(len(x), -1).view(np.uint8) for part in (x, y)], axis=1)
    names = usable(self, split).names
    return {name: rows[first : first + size] for name, first, size in zip(names, data.first, data.size, strict=True)}


def told(self: InPools) -> list[str]:
    """What is to be said of the data, a line each: what is left out, and why."""
    return [*self.found().told, *left_out(self, "groups", "rows")]


def sample(self: InPools, data: PyTree, key: Key) -> Episode:
    _, rows = draw(data, key, 1, self.shots + self.queries)  # (1, shots + queries)
    return of_rows(as_input(data.x[rows[0]]), data.y[rows[0]], self.shots)


def loss(self: InPools, outputs: Array, y: Array) -> tuple[Array, Metrics]:
    return losses.squared_error(outputs, y)
