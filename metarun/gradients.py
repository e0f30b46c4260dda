"""The gradients that inner steps follow, and how they are differentiated again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from metarun.core import Array, CountOrZero, Positive, PyTree


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

    Shorter ones stay as they are. Differentiable where the gradient is zero, which a norm is not.
    """
    if value is not None:
        grads = jax.tree.map(lambda g: jnp.clip(g, -value, value), grads)
    if norm is not None and jax.tree.leaves(grads):
        # The squares of some numbers would be infinite, or nought: those are brought nearer to 1 first.
        largest = jnp.array([jnp.abs(g).max(initial=0.0) for g in jax.tree.leaves(grads)]).max()
        _, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
        scale = jnp.ldexp(1.0, jnp.where(jnp.abs(exponent) > 40, -jnp.clip(exponent, -120, 120), 0))
        squares = sum(jnp.square(scale * g).sum() for g in jax.tree.leaves(grads))
        longer = jnp.sqrt(jax.lax.stop_gradient(squares)) > scale * norm  # the square of a large bound is infinite
        shorter = jnp.where(longer, norm, 1.0) * jax.lax.rsqrt(jnp.where(longer, squares, 1.0))
        grads = jax.tree.map(lambda g: jnp.where(longer, (scale * g * shorter).astype(g.dtype), g), grads)
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
