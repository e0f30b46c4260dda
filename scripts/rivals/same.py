"""What makes a rival honest: on the same weights and episodes it gives metarun's loss and meta-gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rivals.settings import drawn, rows_of

from metarun import engine
from metarun.config.run import Run
from metarun.core import PyTree

TASKS = 2  # where one could not tell a mean over tasks, or tasks that were mixed up
SAME = 1e-5  # of the numbers' length


def must_be_the_same(rival: Any, run: Run) -> None:
    """Raises AssertionError unless every row gives metarun's loss and meta-gradient, in float64, at meta-step 0.

    Weights are a little off their start, at which many are 0 or 1 and a mistake might not show.
    """
    net, _ = engine.nets(run.shape)
    params, episodes, keys = drawn(run, TASKS)
    with jax.enable_x64(True):
        params, episodes = double(params), double(episodes)
        params = jax.tree.map(shifted, params, keys_for(params))
        meta_grad = jax.jit(lambda params: run.learner.meta_grad(net, params, episodes, keys, jnp.int32(0)))
        expected, metrics = meta_grad(params)
        grads, _ = rows_of(rival, run, expected, episodes, keys)
        for name, row in rows_of(rival, run, params, episodes, keys)[1].items():
            loss, found = row()
            if found.keys() != grads.keys():
                raise AssertionError(f"{name}: has no gradient of {sorted(grads.keys() ^ found.keys())}")
            apart = sum(float((found[path] - value).square().sum()) for path, value in grads.items())
            apart = (apart / sum(float(value.square().sum()) for value in grads.values())) ** 0.5
            off = abs(float(loss) / float(metrics["loss"]) - 1)
            if not max(apart, off) <= SAME:
                raise AssertionError(f"{name}: loss {off:.1e} and meta-gradient {apart:.1e} from metarun's")


def double(tree: PyTree) -> PyTree:
    """Its real numbers in float64; integers and keys as they are."""

    def cast(leaf: Any) -> Any:
        return jnp.asarray(np.asarray(leaf), jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def keys_for(tree: PyTree) -> PyTree:
    """A key for each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, list(jax.random.split(jax.random.key(3), len(leaves))))


def shifted(leaf: jax.Array, key: jax.Array) -> jax.Array:
    """The leaf with noise of a tenth of its size, or of 0.1 where it is 0."""
    return leaf + 0.1 * jnp.where(leaf == 0, 1.0, jnp.abs(leaf)) * jax.random.normal(key, leaf.shape, leaf.dtype)
