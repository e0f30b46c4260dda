"""The one evaluation: fixed held-out episodes, a mean with its 95% interval over tasks."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metarun import engine
from metarun.core import Array, Episode, Key, Learner, Measured, Metrics, Net, PyTree, Tasks
from metarun.inner import Inner, differentiated

Figures = dict[str, dict[str, float]]  # metric -> {"mean": ..., "ci95": ...}


class Answers(NamedTuple):
    """What was asked and answered, of every task, on the host."""

    outputs: Array | np.ndarray  # (tasks, queries, n_out)
    y: Array | np.ndarray  # (tasks, queries) labels, or (tasks, queries, n_out) targets
    classes: Array | np.ndarray | None  # (tasks, ways): which of the split's classes the labels stand for


class Evaluation(NamedTuple):
    """One evaluation: its figures, and the answers that they are taken from."""

    figures: Figures
    answers: Answers


def query_metrics(
    learner: Learner, net: Net, params: PyTree, episode: Episode, key: Key, inductive: bool
) -> tuple[Metrics, Array]:
    """A task's metrics on its query set, after `learner.adapt` on its support set, and the outputs they judge.

    With `inductive` also those of predictions made for each query alone, in one batch with the support
    set: what normalisation by batch statistics gives to a learner that does not have all queries at once.
    """
    support, query = episode.support, episode.query
    k_adapt, k_measure = jax.random.split(key) if isinstance(learner, Measured) else (key, key)
    fast = learner.adapt(net, params, support, k_adapt)
    outputs = learner.predict(net, fast, query.x)
    _, metrics = net.loss(outputs, query.y)
    if inductive:

        def alone(x: jax.Array) -> jax.Array:
            return learner.predict(net, fast, jnp.concatenate([support.x, x[None]]))[-1]

        _, more = net.loss(jax.lax.map(alone, query.x), query.y)
        metrics = metrics | {f"{name}_inductive": metric for name, metric in more.items()}
    if isinstance(learner, Measured):
        metrics = metrics | learner.measure(net, params, episode, k_measure)
    return metrics, outputs


def make_evaluate(
    learner: Learner, net: Net, tasks: Tasks, mesh: Mesh, task_chunk: int, most: int, inductive: bool, how: Inner
) -> Callable[..., Evaluation]:
    """(params, data, episodes, seed's key, numbers, after=None) -> an evaluation of so many episodes, at most `most`.

    `numbers` stand in for the learner's own floats, and `after` for its inner steps, without another compilation. The
    same seed gives the same episodes, whatever the learner, its inner steps or the hardware. Every half a second
    `pause`() is called, which may raise.
    """

    def per_task(
        k_episode: Key, k_adapt: Key, params: PyTree, data: PyTree, settings: dict[str, Any]
    ) -> tuple[Metrics, Answers]:
        own = dataclasses.replace(learner, **settings)  # type: ignore[type-var]
        with differentiated(how):
            episode = tasks.sample(data, k_episode)
            metrics, outputs = query_metrics(own, net, params, episode, k_adapt, inductive)
            return metrics, Answers(outputs, episode.query.y, episode.classes)

    over_tasks = engine.make_over_tasks(per_task, mesh, task_chunk, most)

    def evaluate(
        params: PyTree,
        data: PyTree,
        episodes: int,
        k_eval: Key,
        numbers: dict[str, Any],
        after: int | None = None,
        pause: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        inner_steps = getattr(learner, "inner_steps", None) if after is None else after
        steps = {} if inner_steps is None else {"inner_steps": jnp.int32(inner_steps)}
        metrics, answers = over_tasks(pause, episodes, k_eval, params, data, numbers | steps)
        return Evaluation({name: mean_and_interval(values) for name, values in metrics.items()}, answers)

    return evaluate


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """values (tasks,) -> their mean, and half the width of its 95% interval: 1.96 standard errors."""
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity's interval is no number
        return {"mean": float(values.mean()), "ci95": float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))}
