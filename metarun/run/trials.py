"""How a test in trials went step by step, beside who acts at random and who knows the task."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarun.config.run import Run
from metarun.core import Array, Batch, Collecting, InTrials, Key, PyTree, Solved, memoryless
from metarun.engine import Evaluation, mean_and_interval


def by_step(run: Run, evaluation: Evaluation) -> dict[str, list[Any] | None] | None:
    """By step of a trial: the mean reward over tasks, that of a policy whose outputs are 0, and what can be reached.

    None of tasks that are not in trials.
    """
    tasks, rewards = run.eval_tasks, evaluation.answers.by_step
    if not (isinstance(tasks, InTrials) and isinstance(tasks, Collecting) and rewards is not None):
        return None
    goals: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], evaluation.answers.y)  # one trial of each

    def at_random(goals: PyTree, key: Key) -> Array:
        source = Batch(jnp.zeros((len(rewards), 1)), goals)
        act = memoryless(lambda x: jnp.zeros((len(x), tasks.n_out)))
        return tasks.by_step(tasks.collect(source, act, key).y)

    best = jax.jit(lambda goals: jax.vmap(tasks.best)(goals).mean(0)) if isinstance(tasks, Solved) else None
    return {
        "reward": [mean_and_interval(values) for values in rewards.T],
        "random": np.asarray(jax.jit(at_random)(goals, jax.random.key(run.eval.seed))).tolist(),
        "best": None if best is None else np.asarray(best(goals)).tolist(),
    }
