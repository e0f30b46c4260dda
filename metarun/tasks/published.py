"""Published sets, each class of one size: what is asked of their classes is answered without their files.

The rest is as in `classes`, whose place these functions take in a task distribution's own file.
"""

import hashlib
from typing import NamedTuple, Protocol

from metarun.tasks.classes import InClasses, must_give


class Facts(NamedTuple):
    """What was published of a set in classes."""

    classes: dict[str, tuple[str, ...]]  # split -> names, in the pool's order
    each: int  # examples of a class
    shape: tuple[int, ...]  # of an example


class Published(InClasses, Protocol):
    """N-way K-shot tasks from a published set."""

    @property
    def facts(self) -> Facts: ...


def check(self: Published, split: str) -> None:
    """Raises ConfigError if the split has fewer classes, or a class fewer examples, than an episode needs."""
    must_give(self, split, [self.facts.each] * n_classes(self, split), self.facts.shape)


def n_classes(self: Published, split: str) -> int:
    return len(self.facts.classes[split])


def class_names(self: Published, split: str) -> list[str]:
    return list(self.facts.classes[split])


def digest(self: Published, split: str) -> str:
    return hashlib.sha256("\n".join(self.facts.classes[split]).encode()).hexdigest()[:16]
