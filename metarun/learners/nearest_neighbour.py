"""No learning at all: the label of the nearest example."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, Episode, Key, Metrics, Net, PyTree, Tasks, must_classify
from metarun.learners.protonet import Distance, similarity


@dataclass(frozen=True)
class NearestNeighbour:
    """A query takes the label of the support example most like it, in pixels (or an untrained model's features)."""

    distance: Distance

    def check(self, tasks: Tasks) -> None:
        must_classify(self, tasks)

    def width(self, n_out: int) -> None:
        """None: features are compared."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return net.init(key, x)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        return {"params": params, "z": net.features(params, support.x), "y": support.y}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        """The logit of a class is the similarity of its example that is most like the query."""
        similarities = similarity(self.distance, net.features(fast["params"], x), fast["z"])[:, :, None]
        labelled = fast["y"][:, None] == jnp.arange(net.n_out)[None]  # (support, ways)
        return jnp.where(labelled[None], similarities, -jnp.inf).max(1)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        _, metrics = inner.query_grad(self, net, params, episodes, keys)
        return jax.tree.map(jnp.zeros_like, params), metrics
