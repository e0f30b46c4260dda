"""No meta-learning: each task is learned from a random start."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, CountOrZero, Episode, Key, Metrics, Net, PyTree, Tasks


@dataclass(frozen=True)
class Scratch:
    """Gradient steps on the support set, from new random parameters for every task. Nothing is meta-learned."""

    inner_lr: inner.InnerRate
    inner_steps: CountOrZero
    inner_optimizer: inner.InnerOptimizer

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return {}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        update = inner.optimizer(self.inner_optimizer, self.inner_lr, first_order=True)
        start = net.init(key, support.x)
        return inner.fit(net, support, key, "mean", start, update, self.inner_steps, first_order=True)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        _, metrics = inner.query_grad(self, net, params, episodes, keys)
        return jax.tree.map(jnp.zeros_like, params), metrics
