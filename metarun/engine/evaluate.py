"""The one evaluation: fixed held-out episodes, a mean with its 95% interval over tasks."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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
CHUNKS_AT_ONCE = 64  # at most, that the devices are asked for at a time: what they answer has its place in memory

Figures = dict[str, dict[str, float]]  # metric -> {"mean": ..., "ci95": ...}
Inductive = Literal["main", "all", "none"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluation tells beside the figures of the queries, after the learner's own number of inner steps."""

    after: int  # of how many other numbers of inner steps it tells the figures, too
    inductive: Inductive  # predictions of each query alone as well: after the own number, after all, after none
    measured: bool  # the learner's own figures as well


MAIN = Asked(after=0, inductive="none", measured=False)  # what selects a state


class Answers(NamedTuple):
    """What was asked and answered, of every task, on the host."""

    outputs: Array | np.ndarray  # (tasks, queries, n_out)
    y: Array | np.ndarray  # (tasks, queries) labels, or (tasks, queries, n_out) targets
    classes: Array | np.ndarray | None  # (tasks, ways): which of the split's classes the labels stand for


class Evaluation(NamedTuple):
    """One evaluation: its figures, and the answers that they are taken from."""

    figures: Figures
    answers: Answers


class Told(NamedTuple):
    """What one task tells, after each of the numbers of inner steps; the learner's own number is the first."""

    metrics: Metrics  # (numbers,) each
    inductive: Metrics  # (numbers,) each, or (1,) of the own number, or none at all
    measured: Metrics  # () each
    outputs: Array  # (numbers, queries, n_out)
    y: Array
    classes: Array | None


def query_metrics(
    learner: Learner, net: Net, params: PyTree, episode: Episode, key: Key, steps: Array, asked: Asked
) -> Told:
    """A task's metrics on its query set, after `learner.adapt` on its support set, and the outputs they judge.

    After each of the numbers of inner `steps` (numbers,), from one adaptation; a learner that takes none does not see
    its one number. Inductive metrics are those of predictions made for each query alone, in one batch with the support
    set: what normalisation by batch statistics gives to a learner that does not have all queries at once.
    """
    support, query = episode.support, episode.query
    k_adapt, k_measure = jax.random.split(key) if isinstance(learner, Measured) else (key, key)

    def after(n: Array) -> Any:
        return dataclasses.replace(learner, inner_steps=n) if hasattr(learner, "inner_steps") else learner  # type: ignore[type-var]

    def adapt(n: Array) -> PyTree:
        return after(n).adapt(net, params, support, k_adapt)

    def predict(reached: tuple[Array, PyTree]) -> tuple[Metrics, Array]:
        n, fast = reached
        outputs = after(n).predict(net, fast, query.x)
        return net.loss(outputs, query.y)[1], outputs

    def predict_alone(reached: tuple[Array, PyTree]) -> Metrics:
        n, fast = reached

        def alone(x: Array) -> Array:
            return after(n).predict(net, fast, jnp.concatenate([support.x, x[None]]))[-1]

        at_once = queries_at_once(len(support.x), len(query.x))
        return net.loss(jax.lax.map(alone, query.x, batch_size=at_once), query.y)[1]

    reached = (steps, each(adapt, steps, jax.vmap))  # one inner loop answers for all numbers: see inner.loop
    metrics, outputs = each(predict, reached)
    ways = {"none": None, "main": jax.tree.map(lambda leaf: leaf[:1], reached), "all": reached}
    inductive = ways[asked.inductive]
    return Told(
        metrics,
        {} if inductive is None else each(predict_alone, inductive),
        learner.measure(net, params, episode, k_measure) if asked.measured and isinstance(learner, Measured) else {},
        outputs,
        query.y,
        episode.classes,
    )


def each(f: Callable[[PyTree], PyTree], values: PyTree, mapped: Callable[..., Any] | None = None) -> PyTree:
    """f of each of the `values` (leading axis), one after another or as `mapped`; without a loop where there is one."""
    if len(jax.tree.leaves(values)[0]) == 1:
        return jax.tree.map(lambda leaf: leaf[None], f(jax.tree.map(lambda leaf: leaf[0], values)))
    return mapped(f)(values) if mapped else jax.lax.map(f, values)


def queries_at_once(support: int, queries: int) -> int:
    """How many queries are predicted alone at a time: together about as many examples as a whole episode has."""
    most = max(1, (support + queries) // (support + 1))
    return max(n for n in range(1, most + 1) if queries % n == 0)


def make_evaluate(
    learner: Learner, net: Net, tasks: Tasks, mesh: Mesh, task_chunk: int, asked: Asked, how: Inner
) -> Callable[..., list[Evaluation]]:
    """(params, data, episodes, seed's key, numbers, after=()) -> evaluations of so many episodes.

    The first after the learner's own number of inner steps, then one for each number of `after`, of which there are as
    many as is `asked`. They and the `numbers`, which stand in for the learner's floats, are arguments: others need no
    other compilation. The same seed gives the same episodes, whatever the learner, its inner steps or the hardware.
    Every half a second `pause`(tasks done) is called, which may raise.
    """

    def per_task(
        k_episode: Key, k_adapt: Key, params: PyTree, data: PyTree, numbers: dict[str, Any], steps: Array
    ) -> Told:
        own = dataclasses.replace(learner, **numbers)  # type: ignore[type-var]
        with differentiated(how):
            return query_metrics(own, net, params, tasks.sample(data, k_episode), k_adapt, steps, asked)

    over_tasks = make_over_tasks(per_task, mesh, task_chunk)

    def evaluate(
        params: PyTree,
        data: PyTree,
        episodes: int,
        k_eval: Key,
        numbers: dict[str, Any],
        after: tuple[int, ...] = (),
        pause: Callable[[int], None] = lambda done: None,
    ) -> list[Evaluation]:
        assert len(after) == asked.after
        steps = np.array([getattr(learner, "inner_steps", 0), *after], np.int32)
        told = over_tasks(pause, episodes, k_eval, params, data, numbers, steps)

        def evaluation(i: int) -> Evaluation:
            inductive = told.inductive if i == 0 or asked.inductive == "all" else {}
            metrics = {name: values[:, i] for name, values in told.metrics.items()}
            metrics |= {f"{name}_inductive": values[:, i] for name, values in inductive.items()}
            metrics |= told.measured if i == 0 else {}
            figures = {name: mean_and_interval(values) for name, values in metrics.items()}
            return Evaluation(figures, Answers(told.outputs[:, i], told.y, told.classes))

        return [evaluation(i) for i in range(len(steps))]

    return evaluate


def make_over_tasks(per_task: Callable[..., PyTree], mesh: Mesh, task_chunk: int) -> Callable[..., PyTree]:
    """(pause, tasks, k_eval, *arguments) -> per_task(k_episode, k_adapt, *arguments) for so many tasks, on the host.

    Compiled once for any number of tasks. The devices are asked for about half a second's worth at a time; in between
    `pause`(tasks done) is called, and may raise.
    """
    at_once = mesh.size * task_chunk

    def shard(first: Array, count: Array, k_eval: Key, arguments: tuple[PyTree, ...]) -> PyTree:
        def one(index: Array) -> PyTree:
            return per_task(*task_key(k_eval, index), *arguments)

        def chunk(row: Array | int) -> PyTree:
            index = row * at_once + jax.lax.axis_index("tasks") * task_chunk
            return jax.vmap(one)(index + jnp.arange(task_chunk))

        def add(i: Array, found: PyTree) -> PyTree:
            return jax.tree.map(lambda every, new: every.at[i].set(new), found, chunk(first + i))

        like = jax.eval_shape(chunk, 0)
        blank = jax.tree.map(lambda leaf: jnp.zeros((CHUNKS_AT_ONCE, *leaf.shape), leaf.dtype), like)
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
            count = min(max(1, int(count * faster)), CHUNKS_AT_ONCE, total - first)
            pause(min(first * at_once, tasks))
        every = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:tasks], every)

    return over_tasks


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """values (tasks,) -> their mean, and half the width of its 95% interval: 1.96 standard errors."""
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity's interval is no number
        return {"mean": float(values.mean()), "ci95": float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))}
