"""What a meta-step's policies collected, kept for an outer optimizer that looks at it more than once."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from metarun import acting, inner
from metarun.core import (
    Act,
    Array,
    Batch,
    Collecting,
    ConfigError,
    Episode,
    Key,
    Learner,
    Metrics,
    Net,
    PyTree,
    Tasks,
    Valuing,
    memoryless,
    name_of,
)


@runtime_checkable
class ThroughAdapt(Protocol):
    """A learner whose meta-gradient is that of the query loss through `adapt`, and of its critic's if it has one.

    It may take `inner_steps` of its own.
    """

    through_adapt: bool


class Recorded(NamedTuple):
    """What was collected for ONE task of a meta-step."""

    supports: tuple[Batch, ...]  # of each inner step
    query: Batch  # with the critic's advantages, if the learner has one


def steps_of(task: Recorded) -> acting.Steps:
    """What its actions are judged by."""
    return task.query.y  # type: ignore[return-value]


# (chunks, f) -> the mean of f(tasks) over all tasks of a meta-step. Each device has its own, (rows, tasks, ...), and f
# is the mean over a row of them.
Mean = Callable[[PyTree, Callable[[Any], PyTree]], PyTree]


@runtime_checkable
class SeesTasks(Protocol):
    """An outer optimizer that looks at what was collected, where optax's are told of the meta-gradient alone."""

    name: str  # as the command line has it

    def init(self, params: PyTree) -> PyTree:
        """Its state before the first meta-step."""
        ...

    def must_fit(self, meta_batch: int) -> None:
        """Raises ConfigError if so many tasks are too few."""
        ...

    def problem(self, learner: Learner, net: Net, params: PyTree, chunks: Recorded, first: Array, mean: Mean) -> Any:
        """What it is told of a meta-step from `params`: of this device's tasks, from number `first` () of all on."""
        ...

    def update(self, grads: PyTree, state: PyTree, params: PyTree, problem: Any) -> tuple[PyTree, PyTree]:
        """What to add to `params`, and its next state; `grads` is the policy's meta-gradient there."""
        ...


def check(optimizer: SeesTasks, learner: Learner, tasks: Tasks) -> None:
    """Raises ConfigError unless such an optimizer can be told of such a learner's meta-steps on such tasks."""
    task, name = map(name_of, (tasks, learner))
    if not isinstance(tasks, Collecting):
        raise ConfigError("optimizer", optimizer.name, f"is for policies, and {task} has none; use adam or sgd")
    if not isinstance(learner, ThroughAdapt):
        raise ConfigError("optimizer", optimizer.name, f"sees no policy's gradient in what {name} follows; use adam")


def record(learner: Any, net: Net, params: PyTree, episode: Episode, key: Key) -> Recorded:
    """Collects what `learner.adapt` would with these parameters and this key, and then the query's."""
    supports: tuple[Batch, ...] = ()
    inner_steps = getattr(learner, "inner_steps", 0)

    def after(steps: int) -> tuple[Learner, PyTree]:
        fewer = replace(learner, inner_steps=steps) if inner_steps else learner
        return fewer, fewer.adapt(replaying(net, supports), params, episode.support, key)

    for step in range(inner_steps):
        fewer, fast = after(step)
        act = memoryless(partial(fewer.predict, net, fast))
        supports += (net.collect(episode.support, act, key, step),)
    query = inner.queries(learner, net, after(inner_steps)[1], episode.query, key)
    return Recorded(supports, learner.judged(net, params, query) if isinstance(learner, Valuing) else query)


def replaying(net: Net, supports: tuple[Batch, ...]) -> Net:
    """The net of a task for which all has been collected, whatever the policy would do now."""

    def collect(source: Batch, act: Act, key: Key, step: Array | int) -> Batch:
        every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *supports)
        return jax.tree.map(lambda leaf: leaf[step], every)

    return net._replace(collect=collect)


def adapted(learner: Learner, net: Net, params: PyTree, task: Recorded) -> PyTree:
    """What a task's policy is after adaptation from `params` to what was collected for it."""
    any_key = jax.random.key(0)  # what it was for has been collected
    return learner.adapt(replaying(net, task.supports), params, task.query, any_key)


def at_once(chunks: Recorded) -> Recorded | None:
    """The only row of tasks; None if there are several."""
    rows = len(jax.tree.leaves(chunks)[0])
    return jax.tree.map(lambda leaf: leaf[0], chunks) if rows == 1 else None


def policy_grad(learner: Learner, net: Net, params: PyTree, tasks: Recorded) -> tuple[PyTree, Metrics]:
    """The mean gradient of the tasks' losses through the adaptation, and their metrics, as of `Learner.meta_grad`.

    But a critic's error is among the metrics alone.
    """

    def one(params: PyTree, task: Recorded) -> tuple[Array, Metrics]:
        fast = adapted(learner, net, params, task)
        return net.loss(learner.predict(net, fast, task.query.x), task.query.y)

    def mean(params: PyTree) -> tuple[Array, Metrics]:
        losses, metrics = jax.vmap(partial(one, params))(tasks)
        return losses.mean(), jax.tree.map(lambda metric: metric.mean(0), metrics)

    grads, metrics = jax.grad(mean, has_aux=True)(params)
    if isinstance(learner, Valuing):
        metrics["value_loss"] = jax.vmap(partial(learner.value_loss, net, params))(tasks.query).mean()
    return grads, metrics
