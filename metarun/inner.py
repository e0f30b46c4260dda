"""What gradient-based learners share: the inner loop, and the meta-gradient through it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from metarun.core import (
    Act,
    Array,
    Batch,
    ConfigError,
    CountOrZero,
    Episode,
    Key,
    Learner,
    Metrics,
    Net,
    Positive,
    PyTree,
    Remembering,
    given,
    memoryless,
)

Reduction = Literal["mean", "sum_over_shots"]
InnerOptimizer = Literal["sgd", "adam"]
InnerRate = Positive | tuple[Positive, ...]


@dataclass(frozen=True)
class Inner:
    """How inner loops are differentiated (the numbers are the same, time and memory are not), and clipped."""

    mode: Literal["mixed", "reverse"]  # the derivative of an inner gradient: see `gradient`
    unroll: CountOrZero  # loops of at most so many steps are written out, step by step
    remat: bool  # keep every sqrt(steps)-th of the inner loop's states, and compute the others again
    clip_value: Positive | None = None  # every number of an inner gradient is brought between minus this and this
    clip_norm: Positive | None = None  # then a longer inner gradient, all parameters together, is shortened to this


_DEFAULT = Inner("mixed", unroll=1, remat=False)
_how: ContextVar[Inner] = ContextVar("inner", default=_DEFAULT)


@contextmanager
def differentiated(own: Inner) -> Iterator[None]:
    """Inner loops traced inside are differentiated so: no learner has to know."""
    token = _how.set(own)
    try:
        yield
    finally:
        _how.reset(token)


def how() -> Inner:
    """How inner loops that are traced now are differentiated."""
    return _how.get()


def support_loss(
    net: Net, support: Batch, reduction: Reduction, apply: Callable[[PyTree, Array], Array] | None = None
) -> Callable[[PyTree], Array]:
    """params -> the inner loss () on the support set, predicted by `apply`(params, x), which is `net.apply` by default.

    `mean` averages over the support set. `sum_over_shots` is the MAML authors' code: the sum of the
    examples' cross-entropies over shots, which is `ways` times the mean and so multiplies the effective
    step by `ways`. A regression has no ways: there both are the mean.
    """
    scale = net.n_out if reduction == "sum_over_shots" and net.classification else 1
    apply = apply or net.apply
    inner_loss = net.inner_loss or (lambda outputs, y: net.loss(outputs, y)[0])
    return lambda params: scale * inner_loss(apply(params, support.x)[:, : net.n_out], support.y)


def fit(
    net: Net,
    support: Batch,
    key: Key,
    reduction: Reduction,
    params: PyTree,
    update: optax.GradientTransformation,
    steps: int,
    first_order: bool,
    apply: Callable[[PyTree, Array], Array] | None = None,
) -> PyTree:
    """`descend` on the `support_loss`. Where examples are collected, each step has its own, by the policy of its start.

    Predictions are `apply`(params, x), which is `net.apply` by default.
    """
    apply = apply or net.apply

    def examples(params: PyTree, step: Array | int) -> Batch:
        return net.collect(support, memoryless(partial(apply, params)), key, step)

    def loss(params: PyTree, batch: Batch) -> Array:
        return support_loss(net, batch, reduction, apply)(params)

    return descend(loss, params, update, steps, first_order, examples)


def fit_head(
    net: Net,
    support: Batch,
    key: Key,
    reduction: Reduction,
    params: PyTree,
    update: optax.GradientTransformation,
    steps: int,
    first_order: bool,
) -> PyTree:
    """`fit` of the model's head alone. A support set that is given passes through the body once."""

    def whole(head: PyTree, x: Array) -> Array:
        return net.apply({**params, "head": head}, x)

    is_linear = set(params["head"]) == {"kernel", "bias"}
    if net.collect is given and is_linear:
        support = Batch(net.features(params, support.x), support.y)
    apply = linear if net.collect is given and is_linear else whole
    return {**params, "head": fit(net, support, key, reduction, params["head"], update, steps, first_order, apply)}


QUERIES = 2**31 - 1  # in the place of an inner step, for what is collected after the last one


def queries(learner: Learner, net: Net, fast: PyTree, source: Batch, key: Key) -> Batch:
    """The examples that a learner is judged by after `adapt` with this key: collected by what it has become."""
    act = memoryless(partial(learner.predict, net, fast))
    if isinstance(learner, Remembering):
        act = Act(partial(learner.remember, net, fast), learner.memory(net, fast, len(source.x)))
    return net.collect(source, act, key, QUERIES)


def linear(head: PyTree, z: Array) -> Array:
    """z (n, d) through a linear layer {kernel (d, k), bias (k,)} -> (n, k)."""
    return z @ head["kernel"] + head["bias"][None]


def optimizer(name: InnerOptimizer, inner_lr: InnerRate, first_order: bool) -> optax.GradientTransformation:
    """Plain gradient descent, or Adam with beta1 = 0 (Nichol et al. 2018, section 6).

    Of several step sizes, each is one step's; the last is that of all later steps, too.

    Adam's second moment stands under a square root whose derivative at zero is infinite: without `first_order` an
    `eps_root` keeps meta-gradients finite where an inner gradient is zero. It makes steps along small gradients
    shorter, the first one by |g| / sqrt(g^2 + eps_root): 0.707 of its length at |g| = 1e-6.
    """
    rate: Any = inner_lr
    if isinstance(inner_lr, tuple):
        rates = jnp.array(inner_lr)
        rate = lambda step: rates[jnp.minimum(step, len(rates) - 1)]  # noqa: E731
    if name == "sgd":
        return optax.sgd(rate)
    return optax.adam(rate, b1=0.0, b2=0.999, eps=1e-8, eps_root=0.0 if first_order else 1e-12)


def gradient(loss: Callable[[PyTree], Array]) -> Callable[[PyTree], PyTree]:
    """phi -> grad L(phi), to be differentiated again.

    The meta-gradient needs v -> H v for the Hessian H of L, from the last inner step to the first. In mode `reverse`
    it comes from the graph of the gradient, differentiated in reverse, which keeps that graph's activations. In mode
    `mixed` it is the derivative of the gradient along v (H is symmetric: forward over reverse), which keeps phi
    alone. Pearlmutter 1994; for meta-learning, Kemaev et al. 2025 (MixFlow-MG).
    """
    if how().mode == "reverse":
        return jax.grad(loss)

    def grad(phi: PyTree) -> PyTree:
        traced = jax.make_jaxpr(loss)(phi)  # a derivative rule may not close over values: they become arguments

        def pure(phi: PyTree, *outside: Array) -> Array:
            return jax.core.eval_jaxpr(traced.jaxpr, outside, *jax.tree.leaves(phi))[0]

        return _mixed_gradient(pure, phi, traced.consts)

    return grad


def step_gradient(loss: Callable[[PyTree], Array], first_order: bool) -> Callable[[PyTree], PyTree]:
    """phi -> the gradient that an inner step follows: clipped if `Inner` says so, a constant with `first_order`."""
    own = how()
    grad = jax.grad(loss) if first_order else gradient(loss)

    def step(phi: PyTree) -> PyTree:
        grads = clipped(grad(phi), own.clip_value, own.clip_norm)
        return jax.lax.stop_gradient(grads) if first_order else grads

    return step


def clipped(grads: PyTree, value: float | None, norm: float | None) -> PyTree:
    """`grads` with every number brought into [-value, value]; then, if all together are longer than `norm`, shortened.

    Differentiable where the gradient is zero, which a norm is not.
    """
    if value is not None:
        grads = jax.tree.map(lambda g: jnp.clip(g, -value, value), grads)
    if norm is not None and jax.tree.leaves(grads):
        squares = sum(jnp.square(g).sum() for g in jax.tree.leaves(grads))
        shorter = norm * jax.lax.rsqrt(jnp.maximum(squares, norm**2))
        grads = jax.tree.map(lambda g: g * shorter, grads)
    return grads


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixed_gradient(loss: Callable[..., Array], phi: PyTree, outside: list[Array]) -> PyTree:
    """The gradient of loss(phi, *outside) in phi; `outside` holds what else the loss depends on."""
    return jax.grad(loss)(phi, *outside)


def _forward(loss: Callable[..., Array], phi: PyTree, outside: list[Any]) -> tuple[PyTree, tuple[PyTree, ...]]:
    phi = jax.tree.map(lambda leaf: leaf.value, phi, is_leaf=lambda node: hasattr(node, "perturbed"))
    # What is not differentiated (images, labels) gets no derivative. The dicts' keys say which is which.
    varies = {i: leaf.value for i, leaf in enumerate(outside) if leaf.perturbed}
    stays = {i: leaf.value for i, leaf in enumerate(outside) if not leaf.perturbed}
    values = [leaf.value for leaf in outside]
    return jax.grad(loss)(phi, *values), (phi, varies, stays)


def _backward(loss: Callable[..., Array], kept: tuple[PyTree, ...], v: PyTree) -> tuple[PyTree, list[Array | None]]:
    phi, varies, stays = kept
    v = jax.tree.map(
        lambda leaf, p: jnp.zeros_like(p) if isinstance(leaf, jax.custom_derivatives.SymbolicZero) else leaf,
        v,
        phi,
        is_leaf=lambda node: isinstance(node, jax.custom_derivatives.SymbolicZero),
    )

    def of_both(phi: PyTree, varies: dict[int, Array]) -> Array:
        every = varies | stays
        return loss(phi, *(every[i] for i in range(len(every))))

    # Of the symmetric matrix of second derivatives in (phi, varies), the columns of phi times v.
    gradients = jax.grad(of_both, argnums=(0, 1))
    _, (hessian_v, cross_v) = jax.jvp(lambda phi: gradients(phi, varies), (phi,), (v,))
    return hessian_v, [cross_v.get(i) for i in range(len(varies) + len(stays))]


_mixed_gradient.defvjp(_forward, _backward, symbolic_zeros=True)


def descend(
    loss: Callable[[PyTree, Any], Array],
    params: PyTree,
    update: optax.GradientTransformation,
    steps: int,
    first_order: bool,
    examples: Callable[[PyTree, Array | int], Any] = lambda params, step: step,
) -> PyTree:
    """params after `steps` of descent on `loss`(params, step): theta <- theta - alpha grad L(theta).

    With `examples`, on `loss`(params, examples(theta, step)): what they are made of theta is not differentiated.

    Finn et al. 2017, equation 1. Differentiable in `params`; with `first_order` the inner gradients
    count as constants (section 5.2), so the meta-gradient is the query gradient at the adapted point.
    `steps` may be a traced value where nothing is differentiated, as in evaluation.
    """

    def step(i: Array | int, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, opt_state = carry
        of_step = examples(params, i)

        def at_step(params: PyTree) -> Array:
            return loss(params, of_step)

        grads = step_gradient(at_step, first_order)(params)
        updates, opt_state = update.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return loop(steps, step, (params, update.init(params)))[0]


def loop(steps: int, step: Callable[[Array | int, PyTree], PyTree], carry: PyTree) -> PyTree:
    """carry after step(0, carry), step(1, ...), ...: an inner loop, differentiated as `Inner` says.

    Written out, XLA sees that a step's gradient is the same in the way there and in the way back, and computes
    it once: a fifth faster at five steps, for twice the compilation, and activations are kept. In a loop the body
    is compiled once, however many steps there are.
    """
    own = how()
    if isinstance(steps, int) and steps <= own.unroll and not own.remat:
        for i in range(steps):
            carry = step(i, carry)
        return carry
    if not isinstance(steps, int):
        return _one_for_all(steps, step, carry)
    if not own.remat:
        return jax.lax.fori_loop(0, steps, step, carry)
    length = max(1, math.isqrt(steps))
    whole = steps // length

    @jax.checkpoint
    def segment(first: Array, carry: PyTree) -> PyTree:
        return jax.lax.fori_loop(0, length, lambda i, carry: step(first + i, carry), carry)

    carry = jax.lax.fori_loop(0, whole, lambda i, carry: segment(i * length, carry), carry)
    return jax.lax.fori_loop(whole * length, steps, step, carry)


def _one_for_all(steps: Array, step: Callable[[Array | int, PyTree], PyTree], carry: PyTree) -> PyTree:
    """The loop over a traced number of steps. Under vmap over that number alone, ONE loop passes by all the numbers.

    Left to itself jax would carry a copy of its own for each of them, and go the whole way with all.
    """
    carry = jax.tree.map(jnp.asarray, carry)
    traced = jax.make_jaxpr(step)(
        jnp.int32(0), carry
    )  # a batching rule may not close over values: they become arguments
    structure = jax.tree.structure(carry)

    def between(first: Array | int, end: Array, carry: PyTree, outside: list[Any]) -> PyTree:
        def one(i: Array, carry: PyTree) -> PyTree:
            return jax.tree.unflatten(structure, jax.core.eval_jaxpr(traced.jaxpr, outside, i, *jax.tree.leaves(carry)))

        return jax.lax.fori_loop(first, end, one, carry)

    @jax.custom_batching.custom_vmap
    def to_the_end(steps: Array, carry: PyTree, outside: list[Any]) -> PyTree:
        return between(0, steps, carry, outside)

    @to_the_end.def_vmap
    def passing_by(size: int, batched: list[Any], steps: Array, carry: PyTree, outside: list[Any]) -> tuple[Any, Any]:
        every = jax.tree.map(lambda _: True, carry)
        if not batched[0] or any(jax.tree.leaves(batched[1:])):
            axes = [jax.tree.map(lambda of_each: 0 if of_each else None, part) for part in batched]
            return jax.vmap(partial(between, 0), axes, axis_size=size)(steps, carry, outside), every

        def further(at: tuple[Array, PyTree], end: Array) -> tuple[tuple[Array, PyTree], PyTree]:
            carry = between(at[0], end, at[1], outside)
            return (end, carry), carry

        order = jnp.argsort(steps)
        _, reached = jax.lax.scan(further, (jnp.zeros_like(steps[0]), carry), steps[order])
        return jax.tree.map(lambda leaf: leaf[jnp.argsort(order)], reached), every

    return to_the_end(steps, carry, traced.consts)


def partition(params: PyTree, freeze: tuple[str, ...]) -> tuple[PyTree, PyTree]:
    """Splits a nested dict into (adapted, frozen) flat dicts by path.

    A leaf is frozen if its path, written `layer/name`, contains one of the strings in `freeze`.
    """
    flat = flatten_dict(params, sep="/")
    frozen = {path: leaf for path, leaf in flat.items() if any(part in path for part in freeze)}
    return {path: leaf for path, leaf in flat.items() if path not in frozen}, frozen


def must_be_there(params: PyTree, freeze: tuple[str, ...]) -> PyTree:
    """`params`, once each of the strings in `freeze` is in the path of some of them. Raises ConfigError if one is not.

    For a learner's `init`, which is traced before anything is trained.
    """
    paths = flatten_dict(params, sep="/")
    for part in freeze:
        if not any(part in path for path in paths):
            layers = sorted({path.rpartition("/")[0] or path for path in paths})
            raise ConfigError(
                "learner.freeze", list(freeze), f"{part!r} is in no parameter's path; there are: {', '.join(layers)}"
            )
    return params


def join(adapted: PyTree, frozen: PyTree) -> PyTree:
    """Undoes `partition`."""
    return unflatten_dict({**adapted, **frozen}, sep="/")


def mean_grad(
    task_loss: Callable[[PyTree, Episode, Key], tuple[Array, Metrics]], params: PyTree, episodes: Episode, keys: Key
) -> tuple[PyTree, Metrics]:
    """The gradient of the mean over tasks of `task_loss`(params, episode, key) -> loss (), metrics; and mean metrics.

    episodes and keys have a leading task axis.
    """

    def mean_loss(params: PyTree) -> tuple[Array, Metrics]:
        losses, metrics = jax.vmap(task_loss, in_axes=(None, 0, 0))(params, episodes, keys)
        return losses.mean(), jax.tree.map(jnp.mean, metrics)

    return jax.grad(mean_loss, has_aux=True)(params)


def query_grad(learner: Learner, net: Net, params: PyTree, episodes: Episode, keys: Key) -> tuple[PyTree, Metrics]:
    """The gradient of the mean query loss through `learner.adapt`: Finn et al. 2017, algorithm 2."""

    def query_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
        fast = learner.adapt(net, params, episode.support, key)
        x, y = queries(learner, net, fast, episode.query, key)
        return net.loss(learner.predict(net, fast, x), y)

    return mean_grad(query_loss, params, episodes, keys)
