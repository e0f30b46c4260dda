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


# The episode's key of a task, by itself: what is gathered on the host is gathered for the same keys.


def of_first_state(k_init: Key, number: Array, task: Array, tasks: int) -> Key:
    """Of the one episode whose shapes the first parameters are made for."""
    return jax.random.split(k_init)[1]


def of_meta_step(k_train: Key, step: Array, task: Array, tasks: int) -> Key:
    """Of the task with this index among the `tasks` of the meta-step after `step`."""
    return task_key(jax.random.fold_in(k_train, step), task)[0]


def of_evaluation(k_eval: Key, row: Array, task: Array, tasks: int) -> Key:
    """Of the task in this place of a row of `tasks`."""
    return task_key(k_eval, row * tasks + task)[0]
