"""What gradient-based learners share: the inner loop, and the meta-gradient through it."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from metarun.core import Array, Batch, Episode, Key, Learner, Metrics, Net, PyTree

Reduction = Literal["mean", "sum_over_shots"]
InnerOptimizer = Literal["sgd", "adam"]


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
    return lambda params: scale * net.loss(apply(params, support.x)[:, : net.n_out], support.y)[0]


def linear(head: PyTree, z: Array) -> Array:
    """z (n, d) through a linear layer {kernel (d, k), bias (k,)} -> (n, k)."""
    return z @ head["kernel"] + head["bias"][None]


def optimizer(name: InnerOptimizer, inner_lr: float) -> optax.GradientTransformation:
    """Plain gradient descent, or Adam with beta1 = 0 (Nichol et al. 2018, section 6).

    Adam's second moment stands under a square root whose derivative at zero is infinite: `eps_root` keeps
    second-order meta-gradients finite where an inner gradient is zero.
    """
    return optax.sgd(inner_lr) if name == "sgd" else optax.adam(inner_lr, b1=0.0, b2=0.999, eps=1e-8, eps_root=1e-12)


def descend(
    loss: Callable[[PyTree, Array | int], Array],
    params: PyTree,
    update: optax.GradientTransformation,
    steps: int,
    first_order: bool,
) -> PyTree:
    """params after `steps` of descent on `loss`(params, step): theta <- theta - alpha grad L(theta).

    Finn et al. 2017, equation 1. Differentiable in `params`; with `first_order` the inner gradients
    count as constants (section 5.2), so the meta-gradient is the query gradient at the adapted point.
    `steps` may be a traced value where nothing is differentiated, as in evaluation.
    """

    def step(i: Array | int, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, opt_state = carry
        grads = jax.grad(loss)(params, i)
        if first_order:
            grads = jax.lax.stop_gradient(grads)
        updates, opt_state = update.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    carry = params, update.init(params)
    # One step needs no loop. In a loop the body is compiled once, however many steps there are.
    one = isinstance(steps, int) and steps == 1
    return (step(0, carry) if one else jax.lax.fori_loop(0, steps, step, carry))[0]


def partition(params: PyTree, freeze: tuple[str, ...]) -> tuple[PyTree, PyTree]:
    """Splits a nested dict into (adapted, frozen) flat dicts by path.

    A leaf is frozen if its path, written `layer/name`, contains one of the strings in `freeze`.
    """
    flat = flatten_dict(params, sep="/")
    frozen = {path: leaf for path, leaf in flat.items() if any(part in path for part in freeze)}
    return {path: leaf for path, leaf in flat.items() if path not in frozen}, frozen


def join(adapted: PyTree, frozen: PyTree) -> PyTree:
    """Undoes `partition`."""
    return unflatten_dict({**adapted, **frozen}, sep="/")


def query_grad(learner: Learner, net: Net, params: PyTree, episodes: Episode, keys: Key) -> tuple[PyTree, Metrics]:
    """The gradient of the mean query loss through `learner.adapt`: Finn et al. 2017, algorithm 2.

    episodes and keys have a leading task axis; returns (gradient like params, metrics averaged over tasks).
    """

    def query_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
        fast = learner.adapt(net, params, episode.support, key)
        return net.loss(learner.predict(net, fast, episode.query.x), episode.query.y)

    def mean_loss(params: PyTree) -> tuple[Array, Metrics]:
        losses, metrics = jax.vmap(query_loss, in_axes=(None, 0, 0))(params, episodes, keys)
        return losses.mean(), jax.tree.map(jnp.mean, metrics)

    return jax.grad(mean_loss, has_aux=True)(params)
