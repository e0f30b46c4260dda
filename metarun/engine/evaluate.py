"""The one evaluation: fixed held-out episodes, a mean with its 95% interval over tasks."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metarun.core import Array, Episode, Key, Learner, Measured, Metrics, Net, PyTree, Tasks, given
from metarun.engine import hosts
from metarun.engine.compiled import Program
from metarun.engine.gathered import at, shares
from metarun.engine.keys import of_evaluation, task_key
from metarun.engine.send import on_host, send
from metarun.engine.source import Source, in_parts, stand_in
from metarun.gradients import Inner, differentiated
from metarun.inner import queries
from metarun.models.layers import answering

SECONDS_BETWEEN_PAUSES = 0.5
CHUNKS_AT_ONCE = 64  # at most, that the devices are asked for at a time: what they answer has its place in memory

Figures = dict[str, dict[str, float]]  # metric -> {"mean": ..., "ci95": ...}
Inductive = Literal["main", "all", "none"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a test tells beside the figures of the queries after the learner's own number of inner steps."""

    after: int  # of how many other numbers of inner steps it tells the figures, too
    inductive: Inductive  # predictions of each query alone as well: after the own number, after all, after none


class Answers(NamedTuple):
    """What was asked and answered, of every task, on the host."""

    outputs: Array | np.ndarray  # (tasks, queries, n_out); of tasks that are collected, what was seen (tasks, steps, d)
    y: Array | np.ndarray  # (tasks, queries) labels, or (tasks, queries, n_out) targets; goals (tasks, queries, ...)
    classes: Array | np.ndarray | None  # (tasks, ways): which of the split's classes the labels stand for
    groups: Array | np.ndarray | None = None  # (tasks,): which of the split's groups each is of
    metrics: Mapping[str, np.ndarray] = MappingProxyType({})  # (tasks,) each: what the figures are means of
    by_step: np.ndarray | None = None  # (tasks, trial): the mean reward of each step, of tasks in trials


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
    group: Array | None
    by_step: Array | None  # (numbers, trial)


def query_metrics(
    learner: Learner, net: Net, params: PyTree, episode: Episode, key: Key, steps: Array, whole: Array, asked: Asked
) -> Told:
    """A task's metrics on its query set, after `learner.adapt` on its support set, and the outputs they judge.

    After each of the numbers of inner `steps` (1 + asked.after,), from one adaptation; a learner that takes none does
    not see its one number. Inductive metrics are those of predictions made for each query alone, in one batch with the
    support set: what normalisation by batch statistics gives to a learner that does not have all queries at once.
    Unless it is to be `whole`, () bool, only the metrics and outputs after the first number are computed.
    """
    support, query = episode.support, episode.query
    k_adapt, k_measure = jax.random.split(key) if isinstance(learner, Measured) else (key, key)

    def after(n: Array) -> Any:
        return dataclasses.replace(learner, inner_steps=n) if hasattr(learner, "inner_steps") else learner  # type: ignore[type-var]

    def adapt(n: Array) -> PyTree:
        return after(n).adapt(net, params, support, k_adapt)

    def predict(n: Array, fast: PyTree) -> tuple[Metrics, Array, Array | None]:
        with answering():
            judged = queries(after(n), net, fast, query, k_adapt)
            outputs = after(n).predict(net, fast, judged.x)
        by_step = net.by_step(judged.y) if net.by_step else None
        return net.loss(outputs, judged.y)[1], outputs if net.collect is given else judged.x, by_step

    def predict_alone(n: Array, fast: PyTree) -> Metrics:
        def alone(x: Array) -> Array:
            return after(n).predict(net, fast, jnp.concatenate([support.x, x[None]]))[-1]

        at_once = queries_at_once(len(support.x), len(query.x))
        with answering():
            outputs = jax.lax.map(alone, query.x, batch_size=at_once)
        return net.loss(outputs, query.y)[1]

    one = len(steps) == 1
    fasts = jax.tree.map(lambda leaf: leaf[None], adapt(steps[0])) if one else jax.vmap(adapt)(steps)
    metrics, outputs, by_step = each(predict, (steps, fasts), jnp.where(whole, len(steps), 1))

    def alone_after_each() -> Metrics:
        some = (steps, fasts) if asked.inductive == "all" else jax.tree.map(lambda leaf: leaf[:1], (steps, fasts))
        return each(predict_alone, some, len(some[0]))

    measured = {}
    if isinstance(learner, Measured):
        measured = only_if(whole, partial(learner.measure, net, params, episode, k_measure))
    return Told(
        metrics,
        only_if(whole, alone_after_each) if asked.inductive != "none" else {},
        measured,
        outputs,
        query.y,
        episode.classes,
        episode.group,
        by_step,
    )


def each(f: Callable[..., PyTree], values: tuple[PyTree, ...], count: Array | int) -> PyTree:
    """f(*value) for the first `count` of the `values` (leading axis), one after another; 0 for the others."""

    def value(i: Array | int) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[i], values)

    def add(i: Array, found: PyTree) -> PyTree:
        return jax.tree.map(lambda every, new: every.at[i].set(new), found, f(*value(i)))

    n = len(jax.tree.leaves(values)[0])
    if n == 1:
        return jax.tree.map(lambda leaf: leaf[None], f(*value(0)))
    f = jax.jit(f, inline=True)  # traced once, for its shapes and in the loop
    blank = jax.tree.map(lambda leaf: jnp.zeros((n, *leaf.shape), leaf.dtype), jax.eval_shape(f, *value(0)))
    return jax.lax.fori_loop(0, count, add, blank)


def only_if(wanted: Array, f: Callable[[], PyTree]) -> PyTree:
    """f(), or zeros unless it is `wanted`. A loop of no rounds would not do: XLA takes out of it what never changes."""
    f = jax.jit(f, inline=True)  # traced once, for its shapes and in the condition
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(f))
    return jax.lax.cond(wanted, f, lambda: nothing)


def queries_at_once(support: int, queries: int) -> int:
    """How many queries are predicted alone at a time: together about as many examples as a whole episode has."""
    most = max(1, (support + queries) // (support + 1))
    return max(n for n in range(1, most + 1) if queries % n == 0)


class Evaluate(NamedTuple):
    """A compiled evaluation, for any number of episodes."""

    program: Program  # (first chunk, chunks, seed's key, (params, data, numbers, steps, whole)) -> Told of each task
    tasks: Tasks
    at_once: int  # tasks in a chunk, of all devices together
    own_steps: int  # the learner's own number of inner steps
    asked: Asked

    def arguments(
        self, params: PyTree, data: PyTree, k_eval: Key, numbers: dict[str, Any], after: tuple[int, ...] | None
    ) -> tuple[PyTree, ...]:
        """What `program` is given: of one chunk, the first. `data` as a source has them, or what stands for them."""
        steps = np.full(1 + self.asked.after, self.own_steps, np.int32)
        if after is not None:
            steps[1:] = after
        return np.int32(0), np.int32(1), k_eval, (params, data, numbers, steps, np.bool_(after is not None))

    def stand_in(self, data: PyTree) -> PyTree:
        """What stands for a split's data among the `arguments`, where the program is compiled ahead."""
        return stand_in(self.tasks, data, self.at_once, CHUNKS_AT_ONCE)

    def __call__(
        self,
        params: PyTree,
        data: PyTree,
        episodes: int,
        k_eval: Key,
        numbers: dict[str, Any],
        after: tuple[int, ...] | None = None,
        pause: Callable[[int], None] = lambda done: None,
    ) -> list[Evaluation]:
        """Evaluations of so many episodes: after the learner's own number of inner steps, then after each of `after`.

        With `after`, all is told that is `asked`; without, the metrics and answers after the learner's own number
        alone. All of this is one program: `after`, and the `numbers` that stand in for the learner's floats, are
        arguments. The same seed gives the same episodes, whatever the learner, its inner steps or the hardware. Every
        half a second `pause`(tasks done) is called, which may raise.
        """
        end = -(-episodes // self.at_once)
        rows = in_parts(self.tasks, data, of_evaluation, k_eval, self.at_once, end, CHUNKS_AT_ONCE)
        told = in_chunks(self, episodes, rows, lambda data: self.arguments(params, data, k_eval, numbers, after), pause)

        def evaluation(i: int) -> Evaluation:
            metrics = {name: values[:, i] for name, values in told.metrics.items()}
            if after is not None and (i == 0 or self.asked.inductive == "all"):
                metrics |= {f"{name}_inductive": values[:, i] for name, values in told.inductive.items()}
            if after is not None and i == 0:
                metrics |= told.measured
            of_each = {name: np.asarray(values) for name, values in metrics.items()}
            figures = {name: mean_and_interval(values) for name, values in of_each.items()}
            by_step = None if told.by_step is None else np.asarray(told.by_step[:, i])
            return Evaluation(figures, Answers(told.outputs[:, i], told.y, told.classes, told.group, of_each, by_step))

        return [evaluation(i) for i in range(1 + len(after or ()))]


def make_evaluate(
    learner: Learner,
    net: Net,
    tasks: Tasks,
    mesh: Mesh,
    task_chunk: int,
    asked: Asked,
    how: Inner,
    made_from: str | None = None,
) -> Evaluate:
    """The evaluation of such learners on such tasks; `made_from` as in `compiled.Program`."""

    def one(
        row: Array | int,
        index: Array,
        k_eval: Key,
        params: PyTree,
        data: PyTree,
        numbers: dict[str, Any],
        steps: Array,
        whole: Array,
    ) -> Told:
        k_episode, k_adapt = task_key(k_eval, index)
        own = dataclasses.replace(learner, **numbers)  # type: ignore[type-var]
        with differentiated(how):
            episode = tasks.sample(at(data, row, index), k_episode)
            return query_metrics(own, net, params, episode, k_adapt, steps, whole, asked)

    def on_a_device(first: Array, count: Array, k_eval: Key, arguments: tuple[PyTree, ...]) -> Told:
        @partial(jax.jit, inline=True)  # traced once, for its shapes and in the loop
        def chunk(row: Array) -> Told:
            index = (row * mesh.size + jax.lax.axis_index("tasks")) * task_chunk + jnp.arange(task_chunk)
            return jax.vmap(lambda index: one(row, index, k_eval, *arguments))(index)

        def add(i: Array, found: Told) -> Told:
            return jax.tree.map(lambda every, new: every.at[i].set(new), found, chunk(first + i))

        like = jax.eval_shape(chunk, first)
        blank = jax.tree.map(lambda leaf: jnp.zeros((CHUNKS_AT_ONCE, *leaf.shape), leaf.dtype), like)
        return jax.lax.fori_loop(0, count, add, blank)

    def evaluate(first: Array, count: Array, k_eval: Key, arguments: tuple[PyTree, ...]) -> Told:
        _, data, *others = arguments
        # A row holds a chunk of every device, side by side: flattened, tasks stand in their order.
        specs = (P(), P(), P(), (P(), shares(data), *[P()] * len(others)))
        sharded = jax.shard_map(on_a_device, mesh=mesh, in_specs=specs, out_specs=P(None, "tasks"), check_vma=False)
        return sharded(first, count, k_eval, arguments)

    return Evaluate(
        Program(evaluate, made_from), tasks, mesh.size * task_chunk, getattr(learner, "inner_steps", 0), asked
    )


def in_chunks(
    evaluate: Evaluate,
    tasks: int,
    rows: Source,
    arguments: Callable[[PyTree], tuple[PyTree, ...]],
    pause: Callable[[int], None],
) -> Told:
    """What the program tells of so many tasks, on the host: asked for about half a second's worth at a time."""
    parts, first, count, total = [], 0, 1, -(-tasks // evaluate.at_once)
    while first < total:
        begin = time.perf_counter()
        data, most = rows.at(first)
        count = min(count, most)
        found = on_host(send(evaluate.program, np.int32(first), np.int32(count), *arguments(data)[2:]))
        parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], found))
        first += count
        faster = hosts.agreed(SECONDS_BETWEEN_PAUSES / (time.perf_counter() - begin))
        count = min(max(1, int(count * faster)), CHUNKS_AT_ONCE, total - first)
        pause(min(first * evaluate.at_once, tasks))
    every = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:tasks], every)


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """values (tasks,) -> their mean, and half the width of its 95% interval: 1.96 standard errors."""
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity's interval is no number
        return {"mean": float(values.mean()), "ci95": float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))}
