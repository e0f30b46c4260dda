"""A transformer over the episode: causal over the support set, then the queries. After SNAIL, Mishra et al. 2018."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import inner, sequence
from metarun.core import Array, Batch, ConfigError, Count, Episode, Key, Metrics, Net, PyTree, Tasks, must_be_given
from metarun.transformer import Block, KeysValues


class Transformer(nn.Module):
    """z (n, d), labels (n, l), what each block attends to -> outputs (n, n_out), each block's own keys and values.

    Without `contexts` the tokens are a sequence of their own, each seeing those before it.
    """

    units: int
    heads: int
    blocks: int
    n_out: int

    @nn.compact
    def __call__(
        self, z: Array, labels: Array, contexts: list[KeysValues] | None = None
    ) -> tuple[Array, list[KeysValues]]:
        tokens = nn.Dense(self.units, name="embed")(jnp.concatenate([z, labels], axis=1))
        read = []
        for b in range(self.blocks):
            context = None if contexts is None else contexts[b]
            every = jnp.ones((len(z), len(z) if context is None else len(context[0])), bool)
            seen = jnp.tril(every, -1) if context is None else every
            tokens, own = Block(self.heads, name=f"block{b}")(tokens, seen, context)
            read.append(own)
        return nn.Dense(self.n_out, name="outputs")(nn.LayerNorm(name="norm")(tokens)), read


@dataclass(frozen=True)
class Attention:
    """Meta-learns a transformer that is given the labelled support set, and then each query without its label.

    To adapt is to read the support set, in a random order, each example seeing those before it; what each block has
    read is kept. A query sees all of it and no other query.
    """

    units: Count
    heads: Count
    blocks: Count
    label_width: Count  # most ways there may be: labels are one-hot
    standardise: bool = True  # inputs, each example's alone; as it is for runs that have no key for it
    network = "encoder"

    def __post_init__(self) -> None:
        if self.units % self.heads:
            raise ConfigError("heads", self.heads, f"must divide units={self.units}")

    def check(self, tasks: Tasks) -> None:
        must_be_given(self, tasks)
        if tasks.metric == "accuracy":
            sequence.check(self, self.label_width, tasks)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder."""

    def transformer(self, net: Net) -> Transformer:
        return Transformer(self.units, self.heads, self.blocks, self.label_width if net.classification else net.n_out)

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_encoder, k_transformer = jax.random.split(key)
        encoder, transformer = net.init(k_encoder, x), self.transformer(net)
        z = sequence.embed(net, encoder, x, self.standardise)
        params = transformer.init(k_transformer, z, jnp.zeros((len(z), transformer.n_out)))["params"]
        return {"encoder": encoder, "transformer": params}

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        x, y = sequence.shuffled(support, key)
        z = sequence.embed(net, params["encoder"], x, self.standardise)
        labels = jax.nn.one_hot(y, self.label_width, dtype=z.dtype) if net.classification else y
        _, contexts = self.transformer(net).apply({"params": params["transformer"]}, z, labels)
        return {"params": params, "contexts": contexts}

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        params, transformer = fast["params"], self.transformer(net)
        z = sequence.embed(net, params["encoder"], x, self.standardise)
        unlabelled = jnp.zeros((z.shape[0], transformer.n_out))
        outputs, _ = transformer.apply({"params": params["transformer"]}, z, unlabelled, fast["contexts"])
        return outputs[:, : net.n_out]

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
