"""Draws from a pool: distinct, and even, whatever the sizes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarun.data import Classes, Pool, choose, draw, examples_of, large_enough

EVENLY = 45.1  # of chi-squared with 15 degrees of freedom, but one time in 13,000


def chi_squared(counts: np.ndarray) -> float:
    expected = counts.mean()
    return float(((counts - expected) ** 2 / expected).sum())


def test_every_ordered_choice_is_equally_likely():
    chosen = np.asarray(jax.jit(jax.vmap(lambda key: choose(key, 4, 2)))(jax.random.split(jax.random.key(0), 6000)))
    every = list(itertools.permutations(range(4), 2))
    counts = np.array([(chosen == pair).all(1).sum() for pair in every])
    assert counts.sum() == 6000  # so no number comes twice, and none is too large
    assert chi_squared(counts) < EVENLY


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (20, 7), (1000, 30), (2**31 - 1, 8)])
def test_numbers_are_different_and_below_n_however_many(n, k):
    chosen = np.asarray(jax.jit(jax.vmap(lambda key, n: choose(key, n, k), (0, None)))(
        jax.random.split(jax.random.key(1), 50), jnp.int32(n)
    ))  # fmt: skip
    assert all(len(set(row)) == k for row in chosen.tolist())
    assert chosen.min() >= 0
    assert chosen.max() < n
    assert chosen.max() >= 0.9 * (n - 1)


SIZES = (4, 7, 16, 5, 40)


def unequal():
    """Classes of `SIZES`; an example's number tells its class and its place."""
    x = np.concatenate([100 * c + np.arange(size) for c, size in enumerate(SIZES)])
    return Pool(x, np.array([0, 4, 11, 27, 32], np.int32), np.array(SIZES, np.int32))


def test_classes_of_all_sizes_are_equally_likely_and_so_is_each_of_a_classs_examples():
    pool = unequal()
    keys = jax.random.split(jax.random.key(2), 8000)
    classes, rows = jax.jit(jax.vmap(lambda pool, key: draw(pool, key, 3, 4), (None, 0)))(pool, keys)
    x = pool.x[np.asarray(rows)]
    np.testing.assert_array_equal(x // 100, np.broadcast_to(np.asarray(classes)[..., None], x.shape))
    assert all(len(set(of_one)) == 3 for of_one in np.asarray(classes).tolist())
    assert all(len(set(of_one)) == 4 for of_one in x.reshape(-1, 4).tolist())
    assert chi_squared(np.bincount(np.asarray(classes).ravel(), minlength=5)) < EVENLY
    for c, size in enumerate(SIZES):
        for place in (0, 3):  # the first of the support, the last of the query
            of_class = x[..., place][x[..., place] // 100 == c] % 100
            counts = np.bincount(of_class, minlength=size)
            assert len(counts) == size
            if size == 16:
                assert chi_squared(counts) < EVENLY
            assert np.abs(counts / counts.mean() - 1).max() < 0.3


def test_classes_that_are_too_small_are_never_drawn():
    every = Classes(("a", "b", "c", "d", "e"), unequal())
    kept = large_enough(every, 6)
    assert kept.names == ("b", "c", "e")
    assert {name: len(x) for name, x in examples_of(kept).items()} == {"b": 7, "c": 16, "e": 40}
    drawn = jax.jit(lambda key: draw(kept.pool, key, 3, 6)[1])
    for seed in range(20):
        assert set((kept.pool.x[drawn(jax.random.key(seed))] // 100).ravel().tolist()) == {1, 2, 4}
