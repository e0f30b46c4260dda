"""A transformer's block, which keeps what it has read: the same one after another as all at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun.core import Array

KeysValues = tuple[Array, Array]  # (m, heads, units / heads) each


class Block(nn.Module):
    """Attention and a two-layer network, each added to its normalised input. Vaswani et al. 2017; Xiong et al. 2020.

    tokens (n, units), seen (n, m), context of m -> (n, units), and the tokens' own keys and values. A token attends to
    what it has seen of the context, and to itself. Without a context the tokens are it.
    """

    heads: int

    @nn.compact
    def __call__(self, tokens: Array, seen: Array, context: KeysValues | None = None) -> tuple[Array, KeysValues]:
        n, units = tokens.shape
        normalised = nn.LayerNorm(name="norm_attention")(tokens)
        each = jnp.split(nn.Dense(3 * units, name="qkv")(normalised), 3, axis=1)
        q, own_k, own_v = (part.reshape(n, self.heads, -1) for part in each)
        k, v = context or (own_k, own_v)
        scores = jnp.concatenate([jnp.einsum("nhd,mhd->nhm", q, k), (q * own_k).sum(-1, keepdims=True)], axis=-1)
        seen = jnp.concatenate([seen, jnp.ones((n, 1), bool)], axis=1)[:, None]
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, where=seen)
        read = jnp.einsum("nhm,mhd->nhd", weights[..., :-1], v) + weights[..., -1:] * own_v
        tokens = tokens + nn.Dense(units, name="out")(read.reshape(n, units))
        hidden = nn.gelu(nn.Dense(2 * units, name="up")(nn.LayerNorm(name="norm_mlp")(tokens)))
        return tokens + nn.Dense(units, name="down")(hidden), (own_k, own_v)


def positions(t: Array, units: int) -> Array:
    """Places t (n,) in a sequence as waves (n, units): Vaswani et al. 2017, section 3.5."""
    angles = t[:, None] * 10_000.0 ** (-jnp.arange(0, units, 2) / units)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[:, :units]
