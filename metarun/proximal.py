"""The outer step of proximal policies: several passes over what was collected once. Schulman et al. 2017."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from annotated_types import Gt, Lt

from metarun import acting
from metarun.acting import mean_of_valid
from metarun.core import Array, ConfigError, Count, Learner, Net, NonNegative, Positive, PyTree, Valuing
from metarun.gradients import clipped
from metarun.recorded import Mean, Recorded, adapted, steps_of


class Progress(NamedTuple):
    """A proximal optimizer's state."""

    adam: PyTree
    meta_steps: Array  # () int32: that were made


class Target(NamedTuple):
    """Of ONE task: what was collected, and what values should have been (steps,); None without a critic."""

    task: Recorded
    values: Array | None


class Part(NamedTuple):
    """Tasks of a minibatch."""

    tasks: Target
    weights: Array  # (tasks,) 1, or 0 for what is none of its


class Scale(NamedTuple):
    """Of all steps of a meta-step."""

    mean: Array  # () of advantages
    deviation: Array  # () of advantages
    variance: Array  # () of what values should have been


@dataclass(frozen=True)
class Proximal:
    """An outer optimizer: steps of Adam on the same trajectories, each along the gradient of a part of the tasks.

    What it follows is the surrogate of equation 7, through the adaptation, as ProMP does for MAML (Rothfuss et al.
    2019): an action that has become more likely, or less, by more than `within` gains nothing by becoming more so.
    Advantages are brought to mean 0 and deviation 1 over a meta-step, and a critic's squared errors are in units of
    the variance of their targets, so that neither rate nor weight depends on how much an environment pays.
    """

    learning_rate: Positive  # or a schedule over meta-steps, as of optax
    within: Annotated[float, Gt(0), Lt(1)]  # epsilon
    epochs: Count
    minibatches: Count  # of an epoch: so many parts of the tasks
    value_weight: NonNegative  # of a critic's error
    clip_norm: Positive  # of each gradient
    entropy_weight: NonNegative = 0.0  # of the policy's mean entropy: how dearly it pays for being sure
    name = "ppo"

    def init(self, params: PyTree) -> Progress:
        return Progress(optax.scale_by_adam().init(params), jnp.zeros((), jnp.int32))

    def must_fit(self, meta_batch: int) -> None:
        """Raises ConfigError if a minibatch had no task."""
        if self.minibatches > meta_batch:
            raise ConfigError("minibatches", self.minibatches, f"at most {meta_batch}, the tasks of train.meta_batch")

    def problem(
        self, learner: Learner, net: Net, params: PyTree, chunks: Recorded, first: Array, mean: Mean
    ) -> Callable[[PyTree, Array], PyTree]:
        """(params, which minibatch) -> the gradient there."""
        told = jax.lax.map(jax.vmap(lambda task: target_of(learner, net, params, task)), chunks)
        scale = scale_of(told, mean)

        def slope(params: PyTree, which: Array) -> PyTree:
            def weighed(params: PyTree, part: Part) -> Array:
                losses = jax.vmap(lambda task: self.loss(learner, net, params, task, scale))(part.tasks)
                return (part.weights * losses).sum()

            def of(part: Part) -> tuple[PyTree, Array]:
                return jax.grad(weighed)(params, part), part.weights.sum()

            total, weight = mean(minibatch(told, first, which, self.minibatches), of)
            return jax.tree.map(lambda leaf: leaf / weight, total)

        return slope

    def loss(self, learner: Learner, net: Net, params: PyTree, target: Target, scale: Scale) -> Array:
        """() of ONE task."""
        assert net.policy is not None
        task, y = target.task, steps_of(target.task)
        fast = adapted(learner, net, params, task)
        if isinstance(learner, Valuing):
            outputs, values = learner.read(net, fast, task.query.x)
        else:
            outputs, values = learner.predict(net, fast, task.query.x), None
        ratios = acting.ratios(net.policy, outputs, y)
        advantage = (y.advantage - scale.mean) / (scale.deviation + 1e-8)
        gained = jnp.minimum(ratios * advantage, jnp.clip(ratios, 1 - self.within, 1 + self.within) * advantage)
        loss = -mean_of_valid(gained, y) - self.entropy_weight * acting.entropy(net.policy, outputs, y)
        if values is None or target.values is None:
            return loss
        return loss + self.value_weight * mean_of_valid(jnp.square(values - target.values), y) / (scale.variance + 1e-8)

    def update(
        self, grads: PyTree, state: Progress, params: PyTree, problem: Callable[[PyTree, Array], PyTree]
    ) -> tuple[PyTree, Progress]:
        """What to add to `params`."""
        rate = self.learning_rate(state.meta_steps) if callable(self.learning_rate) else self.learning_rate

        def one_step(i: Array, now: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            params, adam = now
            along = clipped(problem(params, i % self.minibatches), None, self.clip_norm)
            along, adam = optax.scale_by_adam().update(along, adam)
            return jax.tree.map(lambda leaf, by: leaf - rate * by, params, along), adam

        after, adam = jax.lax.fori_loop(0, self.epochs * self.minibatches, one_step, (params, state.adam))
        return jax.tree.map(jnp.subtract, after, params), Progress(adam, state.meta_steps + 1)


def target_of(learner: Learner, net: Net, params: PyTree, task: Recorded) -> Target:
    """With the values of `params`, and the advantages that were found over them."""
    if not isinstance(learner, Valuing):
        return Target(task, None)
    return Target(task, learner.read(net, params, task.query.x)[1] + steps_of(task).advantage)


def scale_of(chunks: Target, mean: Mean) -> Scale:
    """Over all steps of the tasks, on all devices."""

    def moments(tasks: Target) -> PyTree:
        def of(task: Recorded, values: Array) -> PyTree:
            y = steps_of(task)
            return [mean_of_valid(x, y) for of_steps in (y.advantage, values) for x in (of_steps, jnp.square(of_steps))]

        values = steps_of(tasks.task).advantage if tasks.values is None else tasks.values
        return jax.tree.map(jnp.mean, jax.vmap(of)(tasks.task, values))

    first, second, value, squared = mean(chunks, moments)
    return Scale(first, jnp.sqrt(jnp.maximum(second - first**2, 0)), jnp.maximum(squared - value**2, 0))


def minibatch(chunks: Target, first: Array, which: Array, minibatches: int) -> Part:
    """A minibatch's own of a device's tasks, in rows no longer than theirs. Leaves (rows, tasks, ...) both ways.

    It has every so many-th task of the meta-batch, in which the device's begin with number `first`: so what a minibatch
    is depends on no device, and it may have more tasks on one than on another. What fills up its rows weighs nothing.
    """
    rows, tasks = jax.tree.leaves(chunks)[0].shape[:2]
    most = -(-rows * tasks // minibatches)
    at_once = min(tasks, most)
    place = jnp.arange(-(-most // at_once) * at_once) * minibatches + (which - first) % minibatches
    there = jnp.minimum(place, rows * tasks - 1)

    def of_leaf(leaf: Array) -> Array:
        flat = leaf.reshape(rows * tasks, *leaf.shape[2:])
        return flat[there].reshape(-1, at_once, *leaf.shape[2:])

    return Part(jax.tree.map(of_leaf, chunks), (place < rows * tasks).astype(jnp.float32).reshape(-1, at_once))
