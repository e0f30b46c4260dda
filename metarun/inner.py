"""What gradient-based learners share: the inner loop, and the meta-gradient through it."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from annotated_types import MinLen

from metarun.core import (
    Act,
    Array,
    Batch,
    ConfigError,
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
from metarun.gradients import how, step_gradient

Reduction = Literal["mean", "sum_over_shots"]
InnerOptimizer = Literal["sgd", "adam"]
InnerRate = Positive | Annotated[tuple[Positive, ...], MinLen(1)]


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
    """`fit` of the model's head alone, by the whole model's loss: of a user's own it need not be the last layer.

    A support set that is given passes through the body once, where nothing else follows the features.
    """

    def whole(head: PyTree, x: Array) -> Array:
        return net.apply({**params, "head": head}, x)

    apply: Callable[[PyTree, Array], Array] = whole
    if net.collect is given and ends_in_its_head(net, params, support.x):
        apply = linear
        support = Batch(net.features(params, support.x), support.y)
    return {**params, "head": fit(net, support, key, reduction, params["head"], update, steps, first_order, apply)}


SHAPES = ("broadcast_in_dim", "convert_element_type", "reshape", "slice")  # operations that compute nothing


def ends_in_its_head(net: Net, params: PyTree, x: Array) -> bool:
    """Whether the model's outputs are its head, `linear`, of its features. Traces only.

    It is told by what outputs take beyond features: one product and one sum.
    """

    def operations(of: Callable[[PyTree, Array], Array]) -> Counter[str]:
        names = [equation.primitive.name for equation in jax.make_jaxpr(of)(params, x).eqns]
        return Counter(name for name in names if name not in SHAPES)

    one_layer = Counter(dot_general=1, add=1)
    return set(params["head"]) == {"kernel", "bias"} and operations(net.apply) == operations(net.features) + one_layer


def must_have_head(params: PyTree, learner: str) -> PyTree:
    """A model's `params`, for a learner whose `adapt` is `fit_head`. Raises ConfigError if no layer is named so."""
    if "head" not in params:
        layers = ", ".join(sorted(params)) or "no layers"
        raise ConfigError("model", f"({layers})", f"needs a last layer named head, which {learner} adapts")
    return params


QUERIES = 2**31 - 1  # in the place of an inner step, for what is collected after the last one


def queries(learner: Learner, net: Net, fast: PyTree, source: Batch, key: Key) -> Batch:
    """The examples that a learner is judged by after `adapt` with this key: collected by what it has become."""
    act = memoryless(partial(learner.predict, net, fast))
    if isinstance(learner, Remembering):
        act = Act(partial(learner.remember, net, fast), learner.blank(net, fast, source.x))
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
    return descend_from(loss, params, update.init(params), update, steps, first_order, examples)[0]


def descend_from(
    loss: Callable[[PyTree, Any], Array],
    params: PyTree,
    opt_state: PyTree,
    update: optax.GradientTransformation,
    steps: int,
    first_order: bool,
    examples: Callable[[PyTree, Array | int], Any] = lambda params, step: step,
) -> tuple[PyTree, PyTree]:
    """`descend` with an inner optimizer that is in the state `opt_state`: params, and the state it is in afterwards."""

    def step(i: Array | int, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, opt_state = carry
        of_step = examples(params, i)

        def at_step(params: PyTree) -> Array:
            return loss(params, of_step)

        grads = step_gradient(at_step, first_order)(params)
        updates, opt_state = update.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return loop(steps, step, (params, opt_state))


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
    # A batching rule may not close over values: they become arguments.
    traced = jax.make_jaxpr(step)(jnp.int32(0), carry)
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
