"""MAML++: MAML made stable. Antoniou, Edwards and Storkey 2019."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from metarun import freezing, gradients, inner
from metarun.core import (
    Array,
    Batch,
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


def step_weights(step: Array, steps: int, annealed_over: int) -> Array:
    """The weight (steps,) of the query loss after each inner step (section 4, multi-step loss optimisation).

    At first all are equal; the last grows while the others fall, to 0.03 / steps at most near the end, and from
    meta-step `annealed_over` on the last counts alone. As the authors' code. With `annealed_over` 0 it always does.
    """
    progress = step / annealed_over if annealed_over else jnp.inf
    early = jnp.maximum((1 - progress) / steps, 0.03 / steps)
    others = jnp.where(progress < 1, early, 0.0) * jnp.ones(steps - 1)
    return jnp.append(others, 1 - others.sum())


@dataclass(frozen=True)
class MAMLPP:
    """MAML with four additions, each of which can be switched off; with all off it is MAML.

    The fifth, a cosine schedule of the outer learning rate, is the optimizer's (`optimizer=adam_cosine`). The sixth,
    running statistics for each inner step, has nothing to act on: normalisation here uses the batch at hand.
    """

    inner_lr: Positive  # alpha, or where its learning begins
    inner_steps: Count
    inner_loss: inner.Reduction
    multi_step_loss: CountOrZero  # meta-steps over which it is annealed; 0: the last inner step's loss only
    learn_inner_lr: bool  # a step size for every layer's parameter and every inner step
    per_step_norm: bool  # normalisation's scale and bias for every inner step, meta-learned but not adapted
    first_order_steps: CountOrZero  # meta-steps with first-order gradients at the beginning
    network = "theta"

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""
        must_be_given(self, tasks)

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        theta, norms = freezing.partition(net.init(key, x), ("norm",) if self.per_step_norm else ())
        params = {"theta": theta, "norms": jax.tree.map(lambda leaf: jnp.stack([leaf] * self.inner_steps), norms)}
        if self.learn_inner_lr:
            params["alpha"] = jax.tree.map(lambda _: jnp.full(self.inner_steps, self.inner_lr), theta)
        return params

    def at(self, params: PyTree, theta: PyTree, i: Array | int) -> PyTree:
        """The network's parameters as they stand at inner step i; later ones share the last step's normalisation."""
        return freezing.join(theta, jax.tree.map(lambda leaf: leaf[jnp.clip(i, 0, len(leaf) - 1)], params["norms"]))

    def descend(
        self, net: Net, params: PyTree, theta: PyTree, support: Batch, i: Array | int, first_order: bool
    ) -> PyTree:
        """theta after inner step i."""
        loss = inner.support_loss(net, support, self.inner_loss)

        def at_step(theta: PyTree) -> Array:
            return loss(self.at(params, theta, i))

        grads = gradients.step_gradient(at_step, first_order)(theta)
        if not self.learn_inner_lr:
            return jax.tree.map(lambda p, g: p - self.inner_lr * g, theta, grads)
        step_size = jax.tree.map(lambda leaf: leaf[jnp.clip(i, 0, len(leaf) - 1)], params["alpha"])
        return jax.tree.map(lambda p, a, g: p - (a * g).astype(p.dtype), theta, step_size, grads)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        def step(i: Array | int, theta: PyTree) -> PyTree:
            return self.descend(net, params, theta, support, i, first_order=False)

        theta = inner.loop(self.inner_steps, step, params["theta"])
        return self.at(params, theta, self.inner_steps - 1)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def task_loss(params: PyTree, episode: Episode, key: Key, first_order: bool) -> tuple[Array, Metrics]:
            def after(theta: PyTree, i: Array | int) -> tuple[Array, Metrics]:
                return net.loss(net.apply(self.at(params, theta, i), episode.query.x), episode.query.y)

            def move(theta: PyTree, i: Array | int) -> PyTree:
                return self.descend(net, params, theta, episode.support, i, first_order)

            def then(i: Array | int, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
                theta, total = carry
                if self.multi_step_loss:  # once its weights are 0, the loss is not worth its time
                    early = step < self.multi_step_loss
                    total += jax.lax.cond(early, lambda: weights[i] * after(theta, i)[0], lambda: jnp.zeros_like(total))
                return move(theta, i + 1), total

            weights = step_weights(step, self.inner_steps, self.multi_step_loss)
            start = (move(params["theta"], 0), jnp.zeros(()))
            theta, total = inner.loop(self.inner_steps - 1, then, start)
            loss, metrics = after(theta, self.inner_steps - 1)
            return total + weights[-1] * loss, metrics

        def gradient(first_order: bool) -> tuple[PyTree, Metrics]:
            return inner.mean_grad(partial(task_loss, first_order=first_order), params, episodes, keys)

        if not self.first_order_steps:
            return gradient(False)
        # Derivative-order annealing (section 4): one branch runs, so the cheap meta-steps are cheap.
        return jax.lax.cond(step < self.first_order_steps, lambda: gradient(True), lambda: gradient(False))
