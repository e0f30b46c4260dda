"""The one evaluation: fixed held-out episodes, a mean with its 95% interval over tasks."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metarun.core import Array, Episode, Key, Learner, Measured, Metrics, Net, PyTree, Tasks
from metarun.engine.keys import task_key
from metarun.engine.send import send
from metarun.inner import Inner, differentiated

SECONDS_BETWEEN_PAUSES = 0.5

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
    `pause`(tasks done) is called, which may raise.
    """

    def per_task(
        k_episode: Key, k_adapt: Key, params: PyTree, data: PyTree, settings: dict[str, Any]
    ) -> tuple[Metrics, Answers]:
        own = dataclasses.replace(learner, **settings)  # type: ignore[type-var]
        with differentiated(how):
            episode = tasks.sample(data, k_episode)
            metrics, outputs = query_metrics(own, net, params, episode, k_adapt, inductive)
            return metrics, Answers(outputs, episode.query.y, episode.classes)

    over_tasks = make_over_tasks(per_task, mesh, task_chunk, most)

    def evaluate(
        params: PyTree,
        data: PyTree,
        episodes: int,
        k_eval: Key,
        numbers: dict[str, Any],
        after: int | None = None,
        pause: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        inner_steps = getattr(learner, "inner_steps", None) if after is None else after
        steps = {} if inner_steps is None else {"inner_steps": jnp.int32(inner_steps)}
        metrics, answers = over_tasks(pause, episodes, k_eval, params, data, numbers | steps)
        return Evaluation({name: mean_and_interval(values) for name, values in metrics.items()}, answers)

    return evaluate


def make_over_tasks(per_task: Callable[..., PyTree], mesh: Mesh, task_chunk: int, most: int) -> Callable[..., PyTree]:
    """(pause, tasks, k_eval, *arguments) -> per_task(k_episode, k_adapt, *arguments) for so many tasks, on the host.

    Compiled once for any number of tasks up to `most`: the devices take so many chunks as it needs, no more. They are
    asked for about half a second's worth at a time; in between `pause`(tasks done) is called, and may raise.
    """
    at_once = mesh.size * task_chunk
    rows = -(-most // at_once)  # chunks a device may be asked for

    def shard(first: Array, count: Array, k_eval: Key, arguments: tuple[PyTree, ...]) -> PyTree:
        def one(index: Array) -> PyTree:
            return per_task(*task_key(k_eval, index), *arguments)

        def chunk(row: Array | int) -> PyTree:
            index = row * at_once + jax.lax.axis_index("tasks") * task_chunk
            return jax.vmap(one)(index + jnp.arange(task_chunk))

        def add(i: Array, found: PyTree) -> PyTree:
            return jax.tree.map(lambda every, new: every.at[i].set(new), found, chunk(first + i))

        like = jax.eval_shape(chunk, 0)
        blank = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape), leaf.dtype), like)
        return jax.lax.fori_loop(0, count, add, blank)

    # A row holds a chunk of every device, side by side: flattened, tasks stand in their order.
    sharded = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=P(), out_specs=P(None, "tasks"), check_vma=False))

    def over_tasks(pause: Callable[[int], None], tasks: int, k_eval: Key, *arguments: PyTree) -> PyTree:
        parts, first, count, total = [], 0, 1, -(-tasks // at_once)
        while first < total:
            begin = time.perf_counter()
            found = jax.device_get(send(sharded, np.int32(first), np.int32(count), k_eval, arguments))
            parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], found))
            first += count
            faster = SECONDS_BETWEEN_PAUSES / (time.perf_counter() - begin)
            count = min(max(1, int(count * faster)), total - first)
            pause(min(first * at_once, tasks))
        every = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:tasks], every)

    return over_tasks


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """values (tasks,) -> their mean, and half the width of its 95% interval: 1.96 standard errors."""
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity's interval is no number
        return {"mean": float(values.mean()), "ci95": float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))}
