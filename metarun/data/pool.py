"""Examples in classes (or in groups: a user, a patient, a machine), each stored once, and the draws from them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarun.core import Array, Key


class Pool(NamedTuple):
    """A split's examples, class after class. Classes may be of any size; those of two of them may be the same rows."""

    x: Array | np.ndarray  # (examples, ...) of any type: uint8 images, float32 vectors, int32 tokens
    first: Array | np.ndarray  # (classes,) int32: the row at which a class begins
    size: Array | np.ndarray  # (classes,) int32: and how many rows it has
    y: Array | np.ndarray | None = None  # (examples, d) float32: targets, where the examples have some
    # Where drawn rows stand in x and y, if these hold what one episode draws and nothing else.
    places: Callable[[Array], Array] | None = None


class Classes(NamedTuple):
    """The classes (or groups) of one split, on the host."""

    names: tuple[str, ...]  # in the pool's order
    pool: Pool


class Found(NamedTuple):
    """A data set, read."""

    splits: dict[str, Classes]  # train, val, test
    told: tuple[str, ...]  # what was left out, or is not as it may seem: a line each
    fingerprint: str | None = None  # of all that it holds; None where only a look at all of it tells
    texts: dict[str, list[str]] | None = None  # that the rows of each split's pool were made from


def large_enough(classes: Classes, least: int) -> Classes:
    """Those with at least so many examples; the pool's rows stay where they are."""
    kept = np.flatnonzero(np.asarray(classes.pool.size) >= least)
    pool = classes.pool._replace(first=classes.pool.first[kept], size=classes.pool.size[kept])
    return Classes(tuple(classes.names[i] for i in kept), pool)


def examples_of(classes: Classes) -> dict[str, np.ndarray]:
    """Name -> its examples (n, ...)."""
    pool = classes.pool
    return {
        name: np.asarray(pool.x[first : first + size])
        for name, first, size in zip(classes.names, pool.first, pool.size, strict=True)
    }


def choose(key: Key, n: Array | int, k: int) -> Array:
    """k different numbers (k,) int32 below n (), every ordered choice equally likely; k <= n is the caller's promise.

    The next number is one of those that are left, by its rank among them: k small steps, however large n is.
    """
    at = jnp.arange(k)
    ranks = jax.random.randint(key, (k,), 0, n - at)

    def take(taken: Array, rank: Array) -> tuple[Array, Array]:
        """`taken` (k,) in ascending order, filled up with what is above every number."""
        below = jnp.sum(taken - at <= rank)  # taken[i] - i numbers below taken[i] are left
        number = rank + below
        return jnp.where(at < below, taken, jnp.where(at == below, number, jnp.roll(taken, 1))), number

    return jax.lax.scan(take, jnp.full(k, jnp.iinfo(jnp.int32).max), ranks)[1]


def draw(pool: Pool, key: Key, ways: int, each: int) -> tuple[Array, Array]:
    """`ways` different classes (ways,), and `each` different rows (ways, each) of `pool.x` of every one of them.

    Every class is equally likely, whatever its size, and so is each of a class's examples. No class may have fewer
    than `each`.
    """
    k_classes, k_examples = jax.random.split(key)
    classes = choose(k_classes, len(pool.size), ways)
    keys = jax.random.split(k_examples, ways)
    first, size = jnp.asarray(pool.first)[classes], jnp.asarray(pool.size)[classes]
    rows = first[:, None] + jax.vmap(choose, (0, 0, None))(keys, size, each)
    return classes, rows if pool.places is None else pool.places(rows)
