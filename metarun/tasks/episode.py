"""What tasks share: the size of an episode, and the way from drawings by class to one."""

import math
import os

import jax.numpy as jnp

from metarun.core import Array, Batch, ConfigError, Episode

# What a model computes of an episode takes some fifty times the memory of the episode.
PART = 64


def must_fit(shape: tuple[int, ...], shots: int, queries: int, ways: int = 1) -> None:
    """Raises ConfigError for an episode that takes more than 1/64 of this machine's memory, in float32.

    It has `shots` and `queries` examples of `shape` for each of its `ways`, each answered with `ways` numbers.
    """
    examples = ways * (shots + queries)
    size = 4 * examples * (math.prod(shape) + ways)
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // PART
    if size > most:
        key, given = max({"ways": ways, "shots": shots, "queries": queries}.items(), key=lambda item: item[1])
        took = f"an episode of {examples:,} examples takes {size / 2**30:,.1f} GiB, before any model sees it"
        raise ConfigError(key, given, f"{took}; at most {most / 2**30:.2g} GiB, 1/{PART} of this machine's memory")


def by_class(x: Array, shots: int, classes: Array) -> Episode:
    """x (ways, shots + queries, ...), classes (ways,) -> an episode: each class's first `shots` are its support.

    Labels are 0 .. ways - 1 in the order of x; examples stand class by class.
    """

    def batch(x: Array) -> Batch:
        ways, per_class = x.shape[:2]
        return Batch(x.reshape(-1, *x.shape[2:]), jnp.repeat(jnp.arange(ways), per_class))

    return Episode(batch(x[:, :shots]), batch(x[:, shots:]), classes)


def of_rows(x: Array, y: Array, shots: int) -> Episode:
    """x (shots + queries, ...), targets y (shots + queries, d) -> an episode: the first `shots` are its support."""
    return Episode(Batch(x[:shots], y[:shots]), Batch(x[shots:], y[shots:]))
