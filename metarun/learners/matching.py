"""Matching networks, without full-context embeddings. Vinyals et al. 2016."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, Episode, Key, Metrics, Net, Positive, PyTree, Tasks, must_classify
from metarun.learners.protonet import Distance, similarity


@dataclass(frozen=True)
class Matching:
    """Meta-learns an embedding in which a query attends to the support set, and takes over its labels."""

    distance: Distance  # the paper has cosine
    temperature: Positive  # similarities are divided by it before the softmax; the paper has 1

    def check(self, tasks: Tasks) -> None:
        must_classify(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the model is an embedding."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return net.init(key, x)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        return {"params": params, "z": net.features(params, support.x), "y": support.y}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        similarities = similarity(self.distance, net.features(fast["params"], x), fast["z"]) / self.temperature
        # P(y | x) = sum_i a(x, x_i) y_i with a the softmax over the support set (equation 1), as logarithms.
        attention = jax.nn.log_softmax(similarities)[:, :, None]  # (n, support, 1)
        labelled = fast["y"][:, None] == jnp.arange(net.n_out)[None]  # (support, ways)
        return jax.nn.logsumexp(attention, axis=1, where=labelled[None])

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
