"""Conditional neural processes. Garnelo et al. 2018."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Gt, Lt, MinLen

from metarun import inner
from metarun.core import Array, Batch, Count, Episode, Key, Metrics, Net, PyTree, Tasks, examples, must_be_given
from metarun.learners.protonet import prototypes
from metarun.models.mlp import MLP


@dataclass(frozen=True)
class CNP:
    """Meta-learns an encoder h of examples and a decoder g of their mean: no gradient step, no order.

    Regression: r = mean h(x_i, y_i), and g(r, x) gives a mean and a standard deviation for each target (equations 1 to
    3). Classification: each class has a mean of its own (section 4.3), and g(r_k, x) its logit. The paper's
    decoder takes all r_k at once; one decoder for each makes the labels' order immaterial.
    """

    encoder: Annotated[tuple[Count, ...], MinLen(1)]  # hidden units of h; the last is the size of r
    decoder: tuple[Count, ...]  # hidden units of g
    min_sigma: Annotated[float, Gt(0), Lt(1)]  # the least standard deviation
    network = "embedding"

    def check(self, tasks: Tasks) -> None:
        """Any task: classification or regression."""
        must_be_given(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the model embeds x, for encoder and decoder."""

    def h(self) -> MLP:
        return MLP(hidden=self.encoder[:-1], norm="none", n_out=self.encoder[-1])

    def g(self, net: Net) -> MLP:
        return MLP(hidden=self.decoder, norm="none", n_out=1 if net.classification else 2 * net.n_out)

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_embedding, k_h, k_g = jax.random.split(key, 3)
        embedding = net.init(k_embedding, x)
        z = net.features(embedding, x[:1])
        example = z if net.classification else jnp.concatenate([z, jnp.zeros((1, net.n_out))], axis=1)
        r = jnp.zeros((1, self.encoder[-1]))
        return {
            "embedding": embedding,
            "h": self.h().init(k_h, example)["params"],
            "g": self.g(net).init(k_g, jnp.concatenate([r, z], axis=1))["params"],
        }

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        z = net.features(params["embedding"], support.x)
        if net.classification:
            r = prototypes(self.encode(params, z), support.y, net.n_out)
        else:
            r = self.encode(params, jnp.concatenate([z, support.y], axis=1)).mean(0)[None]
        return {"params": params, "r": r}

    def encode(self, params: PyTree, examples: Array) -> Array:
        return self.h().apply({"params": params["h"]}, examples)  # type: ignore[return-value]

    def decode(self, net: Net, fast: PyTree, x: Array) -> Array:
        """x (n, ...) -> g(r_k, x) for every row of r: (n, len(r), outputs of g)."""
        params, r = fast["params"], fast["r"]
        z = net.features(params["embedding"], x)
        pairs = jnp.concatenate([jnp.tile(r, (z.shape[0], 1)), jnp.repeat(z, len(r), axis=0)], axis=1)
        outputs: Array = self.g(net).apply({"params": params["g"]}, pairs)  # type: ignore[assignment]
        return outputs.reshape(z.shape[0], len(r), -1)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return self.decode(net, fast, x)[:, :, 0] if net.classification else self.moments(net, fast, x)[0]

    def deviations(self, net: Net, fast: PyTree, x: Array) -> Array:
        return self.moments(net, fast, x)[1]

    def moments(self, net: Net, fast: PyTree, x: Array) -> tuple[Array, Array]:
        """Of a regression's targets at x (n, ...): the means and the standard deviations, (n, n_out) each."""
        mu, raw = jnp.split(self.decode(net, fast, x)[:, 0], 2, axis=1)
        return mu, self.min_sigma + (1 - self.min_sigma) * jax.nn.softplus(raw)

    def log_likelihood(self, net: Net, fast: PyTree, batch: Batch) -> Array:
        """The mean log density () of a regression's targets."""
        return jax.scipy.stats.norm.logpdf(batch.y, *self.moments(net, fast, batch.x)).sum(1).mean()

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        if net.classification:
            return inner.query_grad(self, net, params, episodes, keys)

        def task_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
            fast = self.adapt(net, params, episode.support, key)
            # Equation 4 counts the observed points among the targets.
            _, metrics = net.loss(self.predict(net, fast, episode.query.x), episode.query.y)
            metrics["log_likelihood"] = self.log_likelihood(net, fast, episode.query)
            return -self.log_likelihood(net, fast, examples(episode)), metrics

        return inner.mean_grad(task_loss, params, episodes, keys)

    def measure(self, net: Net, params: PyTree, episode: Episode, key: Key) -> Metrics:
        if net.classification:
            return {}
        fast = self.adapt(net, params, episode.support, key)
        return {"log_likelihood": self.log_likelihood(net, fast, episode.query)}
