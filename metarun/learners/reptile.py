"""Reptile: move the initialisation towards the adapted parameters. Nichol, Achiam and Schulman 2018."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from metarun import inner
from metarun.core import (
    Array,
    Batch,
    ConfigError,
    Count,
    CountOrZero,
    Episode,
    Key,
    Metrics,
    Net,
    Positive,
    PyTree,
    Tasks,
    must_be_given,
)


def minibatch(support: Batch, key: Key, i: Array | int, size: int) -> Batch:
    """The i-th mini-batch of an endless walk through the support set, in a new random order each time round.

    Nothing is drawn twice before all has been drawn once; a mini-batch may end one round and begin the next.
    """
    n = len(support.y)
    first = i * size
    rounds = first // n + jnp.arange(-(-size // n) + 1)  # all that a mini-batch can touch
    orders = jax.vmap(lambda r: jax.random.permutation(jax.random.fold_in(key, r), n))(rounds)
    chosen = jax.lax.dynamic_slice_in_dim(orders.reshape(-1), first % n, size)
    return Batch(support.x[chosen], support.y[chosen])


@dataclass(frozen=True)
class Reptile:
    """Meta-learns an initialisation phi by phi <- phi + epsilon mean(phi' - phi): equation and algorithm 2.

    The inner loop is plain training on mini-batches, and no derivative passes through it. Training's support sets are
    larger than the test's (`train.task.shots`; `train_shots` in the authors' code); epsilon is the
    outer optimizer's learning rate.
    """

    inner_lr: Positive
    inner_steps: CountOrZero  # inner_iters in the authors' code
    inner_batch: Count
    inner_optimizer: inner.InnerOptimizer
    moments: Literal["new", "kept"] = "new"  # Adam's, where a task begins: none, or those that earlier tasks left

    @property
    def network(self) -> str:
        return "theta" if self.kept else ""

    @property
    def kept(self) -> tuple[str, ...]:
        """In the authors' code one optimizer goes from task to task, and into the tests.

        Here the tasks of a meta-step begin with the same second moments, and leave the mean of theirs.
        """
        return ("adam",) if self.moments == "kept" else ()

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""
        must_be_given(self, tasks)
        if self.moments == "kept" and self.inner_optimizer != "adam":
            raise ConfigError("moments", self.moments, f"new with inner_optimizer={self.inner_optimizer}: it has none")

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        theta = net.init(key, x)
        if not self.kept:
            return theta
        return {"theta": theta, "adam": {"second": jax.tree.map(jnp.zeros_like, theta), "steps": jnp.zeros(())}}

    def trained(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        """What is meta-learned, and kept, after plain training on one task."""

        def loss(theta: PyTree, i: Array | int) -> Array:
            return inner.support_loss(net, minibatch(support, key, i, self.inner_batch), "mean")(theta)

        update = inner.optimizer(self.inner_optimizer, self.inner_lr, first_order=True)
        if not self.kept:
            return inner.descend(loss, params, update, self.inner_steps, first_order=True)
        theta, adam = params["theta"], params["adam"]
        state = optax.tree.set(update.init(theta), nu=adam["second"], count=adam["steps"].astype(jnp.int32))
        theta, state = inner.descend_from(loss, theta, state, update, self.inner_steps, first_order=True)
        steps = optax.tree.get(state, "count").astype(jnp.float32)
        return {"theta": theta, "adam": {"second": optax.tree.get(state, "nu"), "steps": steps}}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        after = self.trained(net, params, support, key)
        return after["theta"] if self.kept else after

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def one_task(episode: Episode, key: Key) -> tuple[PyTree, Metrics]:
            after = self.trained(net, params, episode.support, key)
            fast = after["theta"] if self.kept else after
            _, metrics = net.loss(self.predict(net, fast, episode.query.x), episode.query.y)
            return jax.tree.map(jnp.subtract, params, after), metrics  # the outer optimizer goes against it

        return jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(one_task)(episodes, keys))
