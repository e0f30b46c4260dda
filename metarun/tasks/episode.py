"""What classification tasks share: from drawings by class to an episode."""

import jax
import jax.numpy as jnp

from metarun.core import Array, Batch, Episode, Key


def by_class(x: Array, shots: int, classes: Array) -> Episode:
    """x (ways, shots + queries, ...), classes (ways,) -> an episode: each class's first `shots` are its support.

    Labels are 0 .. ways - 1 in the order of x; examples stand class by class.
    """

    def batch(x: Array) -> Batch:
        ways, per_class = x.shape[:2]
        return Batch(x.reshape(-1, *x.shape[2:]), jnp.repeat(jnp.arange(ways), per_class))

    return Episode(batch(x[:, :shots]), batch(x[:, shots:]), classes)


def choose(key: Key, n: int, k: int) -> Array:
    """k different numbers (k,) below n, every ordered choice equally likely."""
    return jax.lax.top_k(jax.random.uniform(key, (n,)), k)[1]
