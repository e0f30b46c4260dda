"""Fast context adaptation: a few context parameters adapt, the network does not. Zintgraf et al. 2019."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

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


@dataclass(frozen=True)
class CAVIA:
    """Meta-learns a network theta conditioned on a context phi, which is 0 before and adapted to each task.

    phi is added, through a learned linear map, to the vectors named in `layers`: to a first layer's bias, that is the
    same as phi given as more inputs; to a normalisation's scale and bias, it modulates feature maps (FiLM), as the
    paper does for images.
    """

    inner_lr: Positive  # alpha
    inner_steps: CountOrZero
    context: Count  # size of phi
    layers: tuple[str, ...]  # phi acts on the vectors whose path contains one of these
    inner_loss: inner.Reduction
    first_order: bool
    network = "theta"

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""
        must_be_given(self, tasks)

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_theta, k_maps = jax.random.split(key)
        theta = net.init(k_theta, x)
        flat = flatten_dict(theta, sep="/")
        chosen = [path for path, leaf in flat.items() if leaf.ndim == 1 and any(part in path for part in self.layers)]
        if not chosen:
            vectors = sorted(path for path, leaf in flat.items() if leaf.ndim == 1)
            raise ConfigError("learner.layers", list(self.layers), f"parts of the model's: {', '.join(vectors)}")
        initial = jax.nn.initializers.lecun_normal()
        keys = jax.random.split(k_maps, len(chosen))
        maps = {
            path: initial(k, (self.context, *flat[path].shape)) for path, k in zip(sorted(chosen), keys, strict=True)
        }
        return {"theta": theta, "maps": maps}

    def conditioned(self, params: PyTree, phi: Array) -> PyTree:
        """theta with phi (context,) added, through the maps, to the chosen vectors."""
        flat = flatten_dict(params["theta"], sep="/")
        return unflatten_dict(flat | {path: flat[path] + phi @ u for path, u in params["maps"].items()}, sep="/")

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        loss = inner.support_loss(net, support, self.inner_loss)
        phi = inner.descend(
            lambda phi, _: loss(self.conditioned(params, phi)),
            jnp.zeros(self.context),
            inner.optimizer("sgd", self.inner_lr, self.first_order),
            self.inner_steps,
            self.first_order,
        )  # eq. 3
        return self.conditioned(params, phi)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
