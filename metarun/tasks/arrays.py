"""A user's own arrays, in an .npz file."""

from dataclasses import dataclass

from metarun.core import Count, Ways
from metarun.data import Found, arrays_in, must_be_fractions, with_groups
from metarun.tasks import either


@dataclass(frozen=True)
class Arrays:
    """N-way classification of x (n, ...) by labels y (n,), integers or text, of classes not seen in training.

    With an array `group` (n,), a regression instead: each group is a task, and y (n,) or (n, d) are its targets, as
    they are. An array `split` (n,) says which classes or groups are for train, val and test; without it they are drawn
    by `fractions` and `seed`. Bytes are seen as numbers from 0 to 1, all else as it is.
    """

    ways: Ways  # of a classification
    shots: Count
    queries: Count  # per class, or of the group
    path: str
    fractions: tuple[float, float, float]
    seed: int

    def __post_init__(self) -> None:
        must_be_fractions(self.fractions)
        with_groups(self.path)  # must be there

    def found(self) -> Found:
        return arrays_in(self.path, self.fractions, self.seed)

    @property
    def metric(self) -> str:
        return "mse" if with_groups(self.path) else "accuracy"

    n_out = property(either.n_out)
    check, n_classes, class_names = either.check, either.n_classes, either.class_names
    n_groups, of_group = either.n_groups, either.of_group
    load, examples, told = either.load, either.examples, either.told
    digest, fingerprint = either.digest, either.fingerprint
    sample, loss = either.sample, either.loss
