"""The outer step of natural policy gradients: as far as the policy may change, and no further. Schulman et al. 2015."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Gt, Lt

from metarun import acting, gradients
from metarun.core import Array, Count, CountOrZero, Learner, Net, NonNegative, Positive, PyTree, Valuing
from metarun.recorded import Mean, Recorded, adapted, at_once, steps_of


class Critic(NamedTuple):
    """Least squares, whose least is where a learner's values are right of what was collected."""

    name: str  # of its parameters among the learner's
    slope: Callable[[PyTree], PyTree]  # parameters of the critic alone -> the gradient there
    curvature: Callable[[PyTree], PyTree]  # v -> H v


class Problem(NamedTuple):
    """What a trust region is told of a meta-step: means over its tasks, of what was collected at its start."""

    curvature: Callable[[PyTree], PyTree]  # v -> H v, of the divergence at the start
    judge: Callable[[PyTree], tuple[Array, Array]]  # params -> loss (), divergence ()
    critic: Critic | None = None


@dataclass(frozen=True)
class TrustRegion:
    """An outer optimizer: the step along H^-1 g at whose end the policies, adapted, have diverged as far as allowed.

    H is the second derivative of the mean divergence, through the adaptation. Half as far, or less, where the loss at
    the end is not lower or the divergence is larger than that; nowhere if no shorter step will do. It needs tasks that
    are collected, and has no state.

    A critic is no policy: the divergence does not bound it, and a natural step of both would give each the other's
    length. It is fitted to what was collected, as in Duan et al. 2016: least squares, by the same conjugate gradients,
    from where it is. It needs no rate and no state, and what it learns is of use from the next meta-step on.
    """

    divergence: Positive  # delta: KL of the new policy from the old one, at most
    iterations: Count  # of conjugate gradient
    damping: NonNegative  # H + damping
    backtracks: CountOrZero  # shorter steps that are tried
    shrink: Annotated[float, Gt(0), Lt(1)]  # each of them, from the one before
    name = "trpo"

    def init(self, params: PyTree) -> tuple[()]:
        return ()

    def must_fit(self, meta_batch: int) -> None:
        """Any number will do."""

    def problem(
        self, learner: Learner, net: Net, params: PyTree, chunks: Recorded, first: Array, mean: Mean
    ) -> Problem:
        return problem_of(learner, net, params, partial(mean, chunks), at_once(chunks))

    def update(self, grads: PyTree, state: tuple[()], params: PyTree, problem: Problem) -> tuple[PyTree, tuple[()]]:
        """What to add to `params`."""
        damped = self.damped(problem.curvature)
        direction = conjugate_gradient(damped, grads, self.iterations)
        length = jnp.sqrt(2 * self.divergence / (inner_product(direction, damped(direction)) + 1e-8))
        # One mean over devices after another: two that wait at once can wait for each other (on a busy CPU, say).
        params, direction, length = jax.lax.optimization_barrier((params, direction, length))
        before, _ = problem.judge(params)
        before, direction = jax.lax.optimization_barrier((before, direction))

        def moved(share: Array | float) -> PyTree:
            return jax.tree.map(lambda d: -share * length * d, direction)

        def good(share: Array | float) -> Array:
            loss, divergence = problem.judge(jax.tree.map(jnp.add, params, moved(share)))
            return (loss < before) & (divergence <= self.divergence)

        def shorter(tried: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            n, share, _ = tried
            return n + 1, share * self.shrink, good(share * self.shrink)

        first = jnp.zeros((), jnp.int32), jnp.ones(()), good(1.0)
        _, share, found = jax.lax.while_loop(lambda tried: ~tried[2] & (tried[0] < self.backtracks), shorter, first)
        share = jnp.where(found, share, 0)
        updates = moved(share)
        if (critic := problem.critic) is not None:
            own, _ = jax.lax.optimization_barrier((params[critic.name], share))
            better = conjugate_gradient(self.damped(critic.curvature), critic.slope(own), self.iterations)
            updates = {**updates, critic.name: jax.tree.map(jnp.negative, better)}
        return updates, state

    def damped(self, curvature: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
        return lambda v: jax.tree.map(lambda h, v: h + self.damping * v, curvature(v), v)


def conjugate_gradient(product: Callable[[PyTree], PyTree], b: PyTree, iterations: int) -> PyTree:
    """x with product(x) = b, nearly, of a symmetric positive definite matrix: from 0, until |r|^2 < 1e-10."""

    def better(i: Array, carry: tuple[PyTree, PyTree, PyTree, Array]) -> tuple[PyTree, PyTree, PyTree, Array]:
        def one(carry: tuple[PyTree, PyTree, PyTree, Array]) -> tuple[PyTree, PyTree, PyTree, Array]:
            x, r, p, rr = carry
            z = product(p)
            share = rr / inner_product(p, z)
            x = jax.tree.map(lambda x, p: x + share * p, x, p)
            r = jax.tree.map(lambda r, z: r - share * z, r, z)
            now = inner_product(r, r)
            return x, r, jax.tree.map(lambda r, p: r + now / rr * p, r, p), now

        return jax.lax.cond(carry[3] < 1e-10, lambda carry: carry, one, carry)

    zeros = jax.tree.map(jnp.zeros_like, b)
    return jax.lax.fori_loop(0, iterations, better, (zeros, b, b, inner_product(b, b)))[0]


def inner_product(a: PyTree, b: PyTree) -> Array:
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), a, b)), jnp.zeros(()))


def problem_of(
    learner: Learner,
    net: Net,
    params: PyTree,
    mean: Callable[[Callable[[Recorded], PyTree]], PyTree],
    every: Recorded | None = None,
) -> Problem:
    """The problem of a meta-step. `mean` is over all of its tasks, of a function that is the mean over some of them.

    (They have a leading task axis.) If those are always the same, they are `every` one: their derivatives are then kept
    for all of the problem. Derivatives are of the outputs along a direction and back, so that nothing is differentiated
    three times: where nothing has changed the divergence's own derivative is 0. Along a direction is back, transposed,
    as a learner's own derivative rules (`sequence.scan`) know the way back alone.
    """
    assert net.policy is not None
    divergence = jax.vmap(partial(acting.divergence, net.policy))

    def outputs_of(params: PyTree, tasks: Recorded) -> Array:
        return jax.vmap(lambda task: learner.predict(net, adapted(learner, net, params, task), task.query.x))(tasks)

    def product(tasks: Recorded) -> Callable[[PyTree], PyTree]:
        with gradients.differentiated(replace(gradients.how(), mode="reverse")):  # `mixed` has a rule with a jvp in it
            outputs, back = jax.vjp(lambda params: outputs_of(params, tasks), params)
        along = jax.linear_transpose(back, outputs)

        def mean_divergence(outputs: Array) -> Array:
            return divergence(outputs, steps_of(tasks)).mean()

        return lambda v: back(jax.jvp(jax.grad(mean_divergence), (outputs,), along((v,)))[1])[0]

    kept = product(every) if every is not None else None

    def curvature(v: PyTree) -> PyTree:
        return mean(lambda tasks: (kept or product(tasks))(v))

    def judge(params: PyTree) -> tuple[Array, Array]:
        def of(tasks: Recorded) -> tuple[Array, Array]:
            outputs = outputs_of(params, tasks)
            losses, _ = jax.vmap(net.loss)(outputs, tasks.query.y)
            return losses.mean(), divergence(outputs, steps_of(tasks)).mean()

        return mean(of)

    return Problem(curvature, judge, critic_of(learner, net, params, mean, every))


def critic_of(
    learner: Learner,
    net: Net,
    params: PyTree,
    mean: Callable[[Callable[[Recorded], PyTree]], PyTree],
    every: Recorded | None,
) -> Critic | None:
    """The critic of `params`, judged by what was collected (see `problem_of`). None if the learner has none."""
    if not isinstance(learner, Valuing):
        return None

    def slope_by(own: PyTree, tasks: Recorded) -> PyTree:
        def loss(own: PyTree) -> Array:
            every = {**params, learner.critic: own}
            return jax.vmap(partial(learner.value_loss, net, every))(tasks.query).mean()

        return jax.grad(loss)(own)

    def product(tasks: Recorded) -> Callable[[PyTree], PyTree]:
        return jax.linearize(lambda own: slope_by(own, tasks), params[learner.critic])[1]

    kept = product(every) if every is not None else None

    def curvature(v: PyTree) -> PyTree:
        return mean(lambda tasks: (kept or product(tasks))(v))

    return Critic(learner.critic, lambda own: mean(lambda tasks: slope_by(own, tasks)), curvature)
