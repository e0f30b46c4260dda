"""The one evaluation: fixed held-out episodes, a mean with its 95% interval over tasks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metarun import engine
from metarun.core import Episode, Key, Learner, Metrics, Net, PyTree, Tasks

Figures = dict[str, dict[str, float]]  # metric -> {"mean": ..., "ci95": ...}


def query_metrics(learner: Learner, net: Net, params: PyTree, episode: Episode, key: Key, inductive: bool) -> Metrics:
    """A task's metrics on its query set, after `learner.adapt` on its support set.

    With `inductive` also those of predictions made for each query alone, in one batch with the support
    set: what normalisation by batch statistics gives to a learner that does not have all queries at once.
    """
    support, query = episode
    fast = learner.adapt(net, params, support, key)
    _, metrics = net.loss(learner.predict(net, fast, query.x), query.y)
    if inductive:

        def alone(x: jax.Array) -> jax.Array:
            return learner.predict(net, fast, jnp.concatenate([support.x, x[None]]))[-1]

        _, more = net.loss(jax.lax.map(alone, query.x), query.y)
        metrics = metrics | {f"{name}_inductive": metric for name, metric in more.items()}
    return metrics


def make_evaluate(
    learner: Learner,
    net: Net,
    tasks: Tasks,
    mesh: Mesh,
    task_chunk: int,
    seed: int,
    inductive: bool = False,
    inner_steps: tuple[int, ...] = (),
) -> Callable[[PyTree, PyTree, int], tuple[Figures, dict[str, Figures]]]:
    """(params, data, episodes) -> figures, and the figures after each of `inner_steps` (if the learner has them).

    The same seed gives the same episodes whatever the learner, the hardware or the number of inner steps.
    """
    has_inner_steps = any(f.name == "inner_steps" for f in dataclasses.fields(learner))  # type: ignore[arg-type]
    variants: dict[str, Any] = {"": learner}
    if has_inner_steps:
        variants |= {str(n): dataclasses.replace(learner, inner_steps=n) for n in inner_steps}  # type: ignore[type-var]

    def per_task(params: PyTree, data: PyTree, k_episode: Key, k_adapt: Key) -> dict[str, Metrics]:
        episode = tasks.sample(data, k_episode)
        return {
            name: query_metrics(variant, net, params, episode, k_adapt, inductive)
            for name, variant in variants.items()
        }

    over_tasks = engine.make_over_tasks(per_task, mesh, task_chunk, seed)

    def evaluate(params: PyTree, data: PyTree, episodes: int) -> tuple[Figures, dict[str, Figures]]:
        stacked = over_tasks(params, data, episodes)
        figures = {
            name: {metric: mean_and_interval(values) for metric, values in stacked[name].items()}
            for name in variants
        }
        return figures.pop(""), figures

    return evaluate


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """values (tasks,) -> their mean, and half the width of its 95% interval: 1.96 standard errors."""
    values = values.astype(np.float64)
    return {"mean": float(values.mean()), "ci95": float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))}


