"""Meta-SGD: a learned step size for every parameter. Li et al. 2017."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from metarun import inner
from metarun.core import Array, Batch, CountOrZero, Episode, Key, Metrics, Net, Positive, PyTree, Tasks


@dataclass(frozen=True)
class MetaSGD:
    """Meta-learns an initialisation theta, and alpha of its shape: theta' = theta - alpha o grad L(theta).

    Equation 2. Elements of alpha may become negative: both direction and length of the step are learned. The paper
    begins from random alpha; here all begin from `inner_lr`, which makes the first meta-step MAML's.
    """

    inner_lr: Positive  # alpha at the start
    inner_steps: CountOrZero
    inner_loss: inner.Reduction
    first_order: bool
    through_adapt = True
    network = "theta"

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        theta = net.init(key, x)
        return {"theta": theta, "alpha": jax.tree.map(lambda leaf: jnp.full_like(leaf, self.inner_lr), theta)}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        update = optax.stateless(lambda grads, _: jax.tree.map(lambda a, g: -a * g, params["alpha"], grads))
        theta, how = params["theta"], self.inner_loss
        return inner.fit(net, support, key, how, theta, update, self.inner_steps, self.first_order)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
