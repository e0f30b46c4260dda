"""What a policy keeps of a trial so far: a component of learners that learn within one."""

from typing import Protocol, runtime_checkable

from metarun.core import Array, Key, PyTree


@runtime_checkable
class Memory(Protocol):
    """A network over a sequence, step by step or all at once: a frozen dataclass whose fields are its yaml's keys."""

    units: int  # of a feature

    def init(self, key: Key, width: int, length: int) -> PyTree:
        """Its parameters, for sequences of so many inputs (..., width)."""
        ...

    def blank(self, n: int, length: int) -> PyTree:
        """What is kept at the start of n sequences of at most `length` steps, leaves (n, ...)."""
        ...

    def step(self, params: PyTree, kept: PyTree, z: Array) -> tuple[Array, PyTree]:
        """The next step z (n, width) of each -> features (n, units), and what is kept then."""
        ...

    def read(self, params: PyTree, z: Array) -> Array:
        """Whole sequences z (n, length, width) -> features (n, length, units): those of one step after another."""
        ...
