"""A ridge regression head, solved in closed form. Bertinetto et al. 2019."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, Episode, Key, Metrics, Net, Positive, PyTree, Tasks


def ridge(z: Array, y: Array, penalty: Array) -> Array:
    """argmin_W |Z W - Y|^2 + penalty |W|^2: z (n, d), y (n, k) -> (d, k).

    In Woodbury's form, W = Z' (Z Z' + penalty I)^-1 Y, it is a system of n equations, not of d. Equation 6.
    """
    gram = z @ z.T + penalty * jnp.eye(len(z))
    return z.T @ jax.scipy.linalg.solve(gram, y, assume_a="pos")


@dataclass(frozen=True)
class R2D2:
    """Meta-learns features for which ridge regression on the support set solves the task.

    The penalty is learned, and so are the scale and the bias that make logits of regression outputs (equation 7).
    """

    penalty: Positive  # lambda, at the start
    scale: Positive  # alpha, at the start
    bias: float  # beta, at the start

    def check(self, tasks: Tasks) -> None:
        """Any task: labels are regressed as one-hot, targets as they are."""

    def width(self, n_out: int) -> None:
        """None: the head is solved for."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        positive = {"log_penalty": jnp.log(self.penalty), "log_scale": jnp.log(self.scale)}
        return {"body": net.init(key, x), **positive, "bias": jnp.asarray(self.bias, jnp.float32)}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        z = net.features(params["body"], support.x)
        y = jax.nn.one_hot(support.y, net.n_out, dtype=z.dtype) if net.classification else support.y
        return {"params": params, "w": ridge(z, y, jnp.exp(params["log_penalty"]))}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        params = fast["params"]
        return jnp.exp(params["log_scale"]) * (net.features(params["body"], x) @ fast["w"]) + params["bias"]  # eq. 7

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
