"""Sums over all axes but the last, which XLA's CPU compiler computes as fast as products."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from metarun.core import Array

ALIKE = 8  # rows of the matrix that sums: of one row XLA makes no product, but the loop that it is to be spared


def total(x: Array) -> Array:
    """x (..., n) -> its sum over all axes but the last (n,). All of jax's transformations pass.

    XLA (jax 0.10.1) makes ONE loop of a sum and of all that leads to what is summed. On a CPU it is faster to compute
    that first and then to multiply it by a matrix: without, MAML's meta-step takes 1.4 times as long.
    """
    return total_p.bind(x, tasks=0)


def spread(row: Array, shape: tuple[int, ...]) -> Array:
    """row (n,) -> copies of it (*shape, n), whose derivative is a `total`."""
    return spread_p.bind(row, shape=shape, tasks=0)


# With `tasks` of 1 operands and results have one more axis in front, along which nothing is summed or copied.
total_p = Primitive("total")
spread_p = Primitive("spread")


def _total(x: Array, *, tasks: int) -> Array:
    return x.sum(tuple(range(tasks, x.ndim - 1)))


def _total_on_cpu(x: Array, *, tasks: int) -> Array:
    rows = x.reshape(*x.shape[:tasks], -1, x.shape[-1])
    summing = jnp.full((*x.shape[:tasks], ALIKE, rows.shape[-2]), 1 / ALIKE, x.dtype)
    return jnp.matmul(summing, rows, precision="highest").sum(-2)


def _spread(row: Array, *, shape: tuple[int, ...], tasks: int) -> Array:
    kept = (*range(tasks), tasks + len(shape))
    return jax.lax.broadcast_in_dim(row, (*row.shape[:tasks], *shape, row.shape[-1]), kept)


def _batch(primitive: Any, operands: tuple[Array], axes: tuple[int], *, tasks: int, **shape: Any) -> tuple[Array, int]:
    x = jnp.moveaxis(operands[0], axes[0], 0)
    if tasks == 0:
        return primitive.bind(x, tasks=1, **shape), 0
    y = primitive.bind(x.reshape(-1, *x.shape[2:]), tasks=1, **shape)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


total_p.def_impl(_total)
spread_p.def_impl(_spread)
total_p.def_abstract_eval(
    lambda x, *, tasks: jax.core.ShapedArray((*x.shape[:tasks], x.shape[-1]), x.dtype),
)
spread_p.def_abstract_eval(
    lambda row, *, shape, tasks: jax.core.ShapedArray((*row.shape[:tasks], *shape, row.shape[-1]), row.dtype)
)
mlir.register_lowering(total_p, mlir.lower_fun(_total, multiple_results=False))
mlir.register_lowering(total_p, mlir.lower_fun(_total_on_cpu, multiple_results=False), platform="cpu")
mlir.register_lowering(spread_p, mlir.lower_fun(_spread, multiple_results=False))
ad.deflinear2(total_p, lambda y, x, *, tasks: [spread_p.bind(y, shape=x.aval.shape[tasks:-1], tasks=tasks)])
ad.deflinear2(spread_p, lambda y, row, *, shape, tasks: [total_p.bind(y, tasks=tasks)])
batching.primitive_batchers[total_p] = partial(_batch, total_p)
batching.primitive_batchers[spread_p] = partial(_batch, spread_p)
