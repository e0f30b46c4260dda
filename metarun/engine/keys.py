"""Random numbers: every key of a run is folded from its seed, the stream, the meta-step and the task's index."""

import jax

from metarun.core import Array, Key

# The streams. Validation's tasks are never the test's, not even where the splits share their data.
INIT, TRAIN, EVAL, VAL = range(4)


def stream(seed: int, which: int) -> Key:
    return jax.random.fold_in(jax.random.key(seed), which)


def task_key(key: Key, index: Array) -> tuple[Key, Key]:
    """The keys of one task (its episode, its adaptation), from its index in the whole meta-batch.

    They depend on neither chunk nor device, and so neither do the results.
    """
    k_episode, k_adapt = jax.random.split(jax.random.fold_in(key, index))
    return k_episode, k_adapt
