"""Task distributions whose data may be in classes, or in groups with targets: by their `metric`, one or the other."""

from typing import Protocol

import numpy as np

from metarun.core import Array, Episode, Key, Metrics, PyTree
from metarun.data import Found
from metarun.tasks import classes, groups


class InEither(Protocol):
    """A task distribution that keeps both `classes.InClasses` and `groups.InGroups`."""

    @property
    def metric(self) -> str: ...  # accuracy for classes, mse for groups
    @property
    def ways(self) -> int: ...  # of a classification
    @property
    def shots(self) -> int: ...
    @property
    def queries(self) -> int: ...
    def found(self) -> Found: ...


def n_out(self: InEither) -> int:
    return classes.n_out(self) if self.metric == "accuracy" else groups.n_out(self)


def check(self: InEither, split: str) -> None:
    return classes.check(self, split) if self.metric == "accuracy" else groups.check(self, split)


def n_classes(self: InEither, split: str) -> int | None:
    return classes.n_classes(self, split) if self.metric == "accuracy" else None


def class_names(self: InEither, split: str) -> list[str] | None:
    return classes.class_names(self, split) if self.metric == "accuracy" else None


def load(self: InEither, split: str) -> PyTree:
    return classes.load(self, split) if self.metric == "accuracy" else groups.load(self, split)


def examples(self: InEither, split: str, data: PyTree) -> dict[str, np.ndarray]:
    in_classes = self.metric == "accuracy"
    return classes.examples(self, split, data) if in_classes else groups.examples(self, split, data)


def digest(self: InEither, split: str) -> str:
    return classes.digest(self, split)


def fingerprint(self: InEither, split: str) -> str | None:
    return classes.fingerprint(self, split)


def told(self: InEither) -> list[str]:
    return classes.told(self) if self.metric == "accuracy" else groups.told(self)


def sample(self: InEither, data: PyTree, key: Key) -> Episode:
    return classes.sample(self, data, key) if self.metric == "accuracy" else groups.sample(self, data, key)


def loss(self: InEither, outputs: Array, y: Array) -> tuple[Array, Metrics]:
    return classes.loss(self, outputs, y) if self.metric == "accuracy" else groups.loss(self, outputs, y)
