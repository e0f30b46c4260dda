"""A support vector machine as the head, differentiable. Lee et al. 2019."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge, Lt

from metarun import inner, losses
from metarun.core import Array, Batch, Count, Episode, Key, Metrics, Net, Positive, PyTree, Tasks, must_classify


def svm(gram: Array, onehot: Array, c: float, iterations: int) -> Array:
    """The dual of a multi-class support vector machine: gram Z Z' (n, n), onehot (n, ways) -> alpha (n, ways).

    Minimises 1/2 tr(alpha' gram alpha) - sum_n alpha[n, y_n] where alpha <= c onehot and each row sums to 0
    (Crammer and Singer 2001; Lee et al. 2019, equation 6); the weights are W = Z' alpha. In terms of
    beta = c onehot - alpha each row lies on a simplex of size c, so this is Nesterov's accelerated projected
    gradient (Beck and Teboulle 2009), `iterations` of it, differentiated as it runs.
    """
    # The largest row sum bounds the largest eigenvalue. The floor is for features that are all zero.
    step = 1 / jax.lax.stop_gradient(jnp.maximum(jnp.abs(gram).sum(1).max(), 1e-6))
    project = jax.vmap(lambda row: optax.projections.projection_simplex(row, c).astype(row.dtype))

    def iterate(carry: tuple[Array, Array], momentum: Array) -> tuple[tuple[Array, Array], None]:
        beta, ahead = carry
        following = project(ahead - step * (onehot - gram @ (c * onehot - ahead)))
        return (following, following + momentum * (following - beta)), None

    t = [1.0]
    for _ in range(iterations):
        t.append((1 + (1 + 4 * t[-1] ** 2) ** 0.5) / 2)
    momenta = jnp.array([(now - 1) / later for now, later in pairwise(t)], gram.dtype)
    start = c * onehot  # alpha = 0: from the middle of the simplex, features with a large mean are far from solved
    (beta, _), _ = jax.lax.scan(iterate, (start, start), momenta)
    return c * onehot - beta


@dataclass(frozen=True)
class MetaOptNet:
    """Meta-learns features for which a linear SVM, trained on the support set, solves the task."""

    c: Positive  # C: how much a violated margin costs
    iterations: Count  # of the dual's solver
    scale: Positive  # gamma, at the start; it is learned (equation 12)
    label_smoothing: Annotated[float, Ge(0), Lt(1)]  # of the query labels in training
    network = "body"

    def check(self, tasks: Tasks) -> None:
        must_classify(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the head is solved for."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return {"body": net.init(key, x), "log_scale": jnp.log(self.scale)}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        z = net.features(params["body"], support.x)
        onehot = jax.nn.one_hot(support.y, net.n_out, dtype=z.dtype)
        return {"params": params, "w": z.T @ svm(z @ z.T, onehot, self.c, self.iterations)}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        params = fast["params"]
        return jnp.exp(params["log_scale"]) * (net.features(params["body"], x) @ fast["w"])

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        smoothed = net._replace(loss=losses.smoothed(net.loss, self.label_smoothing))
        return inner.query_grad(self, smoothed, params, episodes, keys)
