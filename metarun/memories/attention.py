"""Attention over a trial so far. After SNAIL, Mishra et al. 2018, without its convolutions over time."""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun.core import Array, ConfigError, Count, Key, PyTree
from metarun.transformer import Block, KeysValues, positions


class Kept(NamedTuple):
    """Of each of n sequences."""

    t: Array  # (n,) int32: steps that are kept
    read: list[KeysValues]  # by block, (n, length, heads, d) each: of steps to come, 0


class Transformer(nn.Module):
    """z (n, width) at places t (n,), what is seen of each block's context (n, m) -> (n, units), keys and values."""

    units: int
    heads: int
    blocks: int

    @nn.compact
    def __call__(
        self, z: Array, t: Array, seen: Array, contexts: list[KeysValues] | None = None
    ) -> tuple[Array, list[KeysValues]]:
        tokens, read = nn.Dense(self.units, name="embed")(z) + positions(t, self.units), []
        for b in range(self.blocks):
            context = None if contexts is None else contexts[b]
            tokens, own = Block(self.heads, name=f"block{b}")(tokens, seen, context)
            read.append(own)
        return nn.LayerNorm(name="norm")(tokens), read


@dataclass(frozen=True)
class Attention:
    """A transformer in which each step sees those before it. What is kept are all of their keys and values."""

    units: Count
    heads: Count
    blocks: Count

    def __post_init__(self) -> None:
        if self.units % self.heads:
            raise ConfigError("heads", self.heads, f"must divide units={self.units}")

    @property
    def transformer(self) -> Transformer:
        return Transformer(self.units, self.heads, self.blocks)

    def init(self, key: Key, width: int, length: int) -> PyTree:
        one = jnp.zeros((1, width)), jnp.zeros(1, jnp.int32), jnp.ones((1, 1), bool)
        return self.transformer.init(key, *one)["params"]

    def blank(self, n: int, length: int) -> Kept:
        nothing = jnp.zeros((n, length, self.heads, self.units // self.heads))
        return Kept(jnp.zeros(n, jnp.int32), [(nothing, nothing)] * self.blocks)

    def step(self, params: PyTree, kept: Kept, z: Array) -> tuple[Array, Kept]:
        def one(kept: Kept, z: Array) -> tuple[Array, Kept]:
            seen = jnp.arange(len(kept.read[0][0])) < kept.t
            told, own = self.transformer.apply({"params": params}, z[None], kept.t[None], seen[None], kept.read)
            read = jax.tree.map(lambda every, new: every.at[kept.t].set(new[0]), kept.read, own)
            return told[0], Kept(kept.t + 1, read)

        return jax.vmap(one)(kept, z)

    def read(self, params: PyTree, z: Array) -> Array:
        t = jnp.arange(z.shape[1])
        before = t[:, None] > t[None]
        return jax.vmap(lambda z: self.transformer.apply({"params": params}, z, t, before)[0])(z)
