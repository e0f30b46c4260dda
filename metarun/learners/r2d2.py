"""A ridge regression head, solved in closed form. Bertinetto et al. 2019."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, Episode, Key, Metrics, Net, Positive, PyTree, Tasks, must_be_given


def ridge(z: Array, y: Array, penalty: Array) -> Array:
    """argmin_W |Z W - Y|^2 + penalty |W|^2: z (n, d), y (n, k) -> (d, k).

    In Woodbury's form, W = Z' (Z Z' + penalty I)^-1 Y, it is a system of n equations, not of d. Equation 6.
    """
    gram = z @ z.T + penalty * jnp.eye(len(z))
    return z.T @ jax.scipy.linalg.solve(gram, y, assume_a="pos")


@dataclass(frozen=True)
class R2D2:
    """Meta-learns features for which ridge regression on the support set solves the task.

    A constant stands beside the features, and errors are averaged over the support set, so that one penalty suits
    any number of shots: both as in the authors' code. The scale and the bias that make logits of what is regressed
    are learned (equation 7).
    """

    penalty: Positive  # lambda; at the start, if it is learned
    learn_penalty: bool
    scale: float  # alpha, at the start
    bias: float  # beta, at the start
    network = "body"

    def check(self, tasks: Tasks) -> None:
        """Any task: labels are regressed as one-hot, targets as they are."""
        must_be_given(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the head is solved for."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        learned = {"log_penalty": jnp.log(self.penalty)} if self.learn_penalty else {}
        line = {"scale": jnp.asarray(self.scale, jnp.float32), "bias": jnp.asarray(self.bias, jnp.float32)}
        return {"body": net.init(key, x), **learned, **line}

    def features(self, net: Net, params: PyTree, x: Array) -> Array:
        """x (n, ...) -> (n, d + 1): the last feature is 1."""
        return jnp.pad(net.features(params["body"], x), ((0, 0), (0, 1)), constant_values=1)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        z = self.features(net, params, support.x)
        y = jax.nn.one_hot(support.y, net.n_out, dtype=z.dtype) if net.classification else support.y
        penalty = jnp.exp(params["log_penalty"]) if self.learn_penalty else jnp.asarray(self.penalty)
        return {"params": params, "w": ridge(z, y, len(z) * penalty)}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        params = fast["params"]
        return params["scale"] * (self.features(net, params, x) @ fast["w"]) + params["bias"]  # equation 7

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
