"""The smallest classification there is: clouds of points. Quick to compile, and a component from outside metarun."""

from dataclasses import dataclass

import jax

from metarun import losses
from metarun.core import Count, Episode, Key, PyTree
from metarun.data import choose
from metarun.tasks.episode import by_class

CENTERS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Blobs:
    """Each split has `pool` classes, points (4,) about a centre; an episode takes `ways` of them."""

    ways: Count
    shots: Count
    queries: Count
    pool: Count
    metric = "accuracy"
    loss = staticmethod(losses.cross_entropy)  # equal for all of them, so that they share a learner's programs

    @property
    def n_out(self) -> int:
        return self.ways

    def check(self, split: str) -> None:
        pass

    def n_classes(self, split: str) -> int:
        return self.pool

    def load(self, split: str) -> PyTree:
        return jax.random.normal(jax.random.key(CENTERS[split]), (self.pool, 4))

    def digest(self, split: str) -> str:
        return f"{split}, {self.pool} of them"

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_classes, k_points = jax.random.split(key)
        chosen = choose(k_classes, self.pool, self.ways)
        noise = jax.random.normal(k_points, (self.ways, self.shots + self.queries, 4))
        return by_class(data[chosen][:, None] + 0.5 * noise, self.shots, chosen)
