"""MAML with implicit gradients. Rajeswaran et al. 2019."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner
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


@dataclass(frozen=True)
class IMAML:
    """Meta-learns theta, to which the adapted parameters phi stay near.

    phi minimises L_support(phi) + lambda / 2 |phi - theta|^2 (equation 3), however it was found; so the
    meta-gradient, (I + H / lambda)^-1 grad L_query(phi) with H the Hessian of L_support at phi (lemma 1), needs none
    of the steps on the way. Memory does not grow with `inner_steps`.
    """

    inner_lr: Positive
    inner_steps: CountOrZero
    inner_optimizer: inner.InnerOptimizer
    penalty: Positive  # lambda
    cg_steps: Count  # of the conjugate gradient method (algorithm 2)

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""
        must_be_given(self, tasks)

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return net.init(key, x)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        loss = inner.support_loss(net, support, "mean")

        def near_theta(phi: PyTree, _: Array | int) -> Array:
            squares = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), phi, params)
            return loss(phi) + 0.5 * self.penalty * jax.tree.reduce(jnp.add, squares)

        update = inner.optimizer(self.inner_optimizer, self.inner_lr, first_order=True)
        return inner.descend(near_theta, params, update, self.inner_steps, first_order=True)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def one_task(episode: Episode, key: Key) -> tuple[PyTree, Metrics]:
            phi = self.adapt(net, params, episode.support, key)
            query = episode.query
            g, metrics = jax.grad(lambda phi: net.loss(self.predict(net, phi, query.x), query.y), has_aux=True)(phi)
            support_grad = jax.grad(inner.support_loss(net, episode.support, "mean"))
            # The solver's step size is one number for all parameters: they go through it in one type, the widest.
            widest = jnp.result_type(jnp.float32, *jax.tree.leaves(g))
            g = jax.tree.map(lambda leaf: leaf.astype(widest), g)

            def matrix_product(v: PyTree) -> PyTree:
                hessian_v = like(v, jax.jvp(support_grad, (phi,), (like(phi, v),))[1])
                return jax.tree.map(lambda v, hv: v + hv / self.penalty, v, hessian_v)

            return like(phi, jax.scipy.sparse.linalg.cg(matrix_product, g, maxiter=self.cg_steps)[0]), metrics  # eq. 7

        return jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(one_task)(episodes, keys))


def like(types: PyTree, tree: PyTree) -> PyTree:
    """`tree`, each leaf of the type that it has in `types`."""
    return jax.tree.map(lambda of, leaf: leaf.astype(of.dtype), types, tree)
