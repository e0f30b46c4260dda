"""Task distributions whose data may be in classes, or in groups with targets: by their `metric`, one or the other."""

from types import ModuleType
from typing import Protocol

import numpy as np

from metarun.core import Array, Episode, Key, Metrics, PyTree
from metarun.tasks import classes, groups
from metarun.tasks.classes import InClasses

load, digest, fingerprint = classes.load, classes.digest, classes.fingerprint


class InEither(InClasses, Protocol):
    """A task distribution of the one kind or the other; its `ways` are a classification's."""

    @property
    def metric(self) -> str: ...  # accuracy for classes, mse for groups


def kind(self: InEither) -> ModuleType:
    """Whose functions are this one's methods."""
    return classes if self.metric == "accuracy" else groups


def n_out(self: InEither) -> int:
    return kind(self).n_out(self)


def check(self: InEither, split: str) -> None:
    kind(self).check(self, split)


def n_classes(self: InEither, split: str) -> int | None:
    return kind(self).n_classes(self, split)


def n_groups(self: InEither, split: str) -> int | None:
    return kind(self).n_groups(self, split)


def of_group(self: InEither, data: PyTree, group: Array) -> PyTree:
    return kind(self).of_group(self, data, group)


def class_names(self: InEither, split: str) -> list[str] | None:
    return kind(self).class_names(self, split)


def examples(self: InEither, split: str, data: PyTree) -> dict[str, np.ndarray]:
    return kind(self).examples(self, split, data)


def told(self: InEither) -> list[str]:
    return kind(self).told(self)


def sample(self: InEither, data: PyTree, key: Key) -> Episode:
    return kind(self).sample(self, data, key)


def loss(self: InEither, outputs: Array, y: Array) -> tuple[Array, Metrics]:
    return kind(self).loss(self, outputs, y)
