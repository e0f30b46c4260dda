"""Prototypical networks. Snell, Swersky and Zemel 2017."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, Episode, Key, Metrics, Net, Positive, PyTree, Tasks, must_classify

Distance = Literal["euclidean", "cosine"]


def similarity(distance: Distance, z: Array, centers: Array) -> Array:
    """z (n, d), centers (m, d) -> (n, m): minus the squared Euclidean distance, or the cosine."""
    if distance == "euclidean":
        # A shift changes no distance, but far from zero these would be small differences of large numbers.
        middle = jax.lax.stop_gradient(centers.mean(0))[None]
        z, centers = z - middle, centers - middle
        return 2 * z @ centers.T - jnp.square(z).sum(1)[:, None] - jnp.square(centers).sum(1)[None]

    def unit(v: Array) -> Array:
        return v * jax.lax.rsqrt(jnp.square(v).sum(1, keepdims=True) + 1e-12)

    return unit(z) @ unit(centers).T


def prototypes(z: Array, y: Array, ways: int) -> Array:
    """z (n, d), y (n,) -> each class's mean (ways, d). Equation 1."""
    onehot = jax.nn.one_hot(y, ways, dtype=z.dtype)
    return onehot.T @ z / onehot.sum(0)[:, None]


@dataclass(frozen=True)
class ProtoNet:
    """Meta-learns an embedding in which a class is its examples' mean, and the nearest mean wins.

    The classes of an episode share nothing but the embedding, so training may have more ways than the test
    (section 2.6).
    """

    distance: Distance
    temperature: Positive  # similarities are divided by it before the softmax
    learn_temperature: bool
    network = "embedding"

    def check(self, tasks: Tasks) -> None:
        must_classify(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the model is an embedding."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        temperature = {"log_temperature": jnp.log(self.temperature)} if self.learn_temperature else {}
        return {"embedding": net.init(key, x), **temperature}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        z = net.features(params["embedding"], support.x)
        return {"params": params, "prototypes": prototypes(z, support.y, net.n_out)}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        params = fast["params"]
        z = net.features(params["embedding"], x)
        temperature = jnp.exp(params["log_temperature"]) if self.learn_temperature else self.temperature
        return similarity(self.distance, z, fast["prototypes"]) / temperature  # eq. 2

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
