"""MAML whose head starts from the support set's prototypes. Triantafillou et al. 2020, section 3."""

from dataclasses import dataclass

import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, CountOrZero, Episode, Key, Metrics, Net, Positive, PyTree, Tasks, must_classify
from metarun.learners.protonet import prototypes


@dataclass(frozen=True)
class ProtoMAML:
    """Meta-learns a body; the head that makes it a prototypical network is where the gradient steps begin.

    Minus the squared distance to a prototype c is, but for a term that all classes share, a linear layer with weights
    2 c and bias -|c|^2. Both body and head adapt, and the meta-gradient passes through the prototypes too.
    """

    inner_lr: Positive  # alpha
    inner_steps: CountOrZero
    inner_optimizer: inner.InnerOptimizer
    inner_loss: inner.Reduction
    first_order: bool

    def check(self, tasks: Tasks) -> None:
        must_classify(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the head is made from the prototypes."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return net.init(key, x)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        centers = prototypes(net.features(params, support.x), support.y, net.n_out)
        head = {"kernel": 2 * centers.T, "bias": -jnp.square(centers).sum(1)}
        loss = inner.support_loss(net, support, self.inner_loss, lambda fast, x: self.predict(net, fast, x))
        return inner.descend(
            lambda fast, _: loss(fast),
            {"body": params, "head": head},
            inner.optimizer(self.inner_optimizer, self.inner_lr, self.first_order),
            self.inner_steps,
            self.first_order,
        )

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return inner.linear(fast["head"], net.features(fast["body"], x))

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
