"""Rows times a matrix, with a derivative that XLA's CPU compiler computes with the grain of memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from metarun.core import Array


def product(rows: Array, matrix: Array) -> Array:
    """rows (m, k) @ matrix (k, n) -> (m, n). All of jax's transformations pass.

    Its derivative in `matrix` is rows^T y. jax's own is (y^T rows)^T, for which XLA computes what y comes from in the
    order of y^T: an eighth of a meta-step's time. It is as precise as jax's setting says here, where it is traced: by
    the time that it is lowered another may hold.
    """
    return product_p.bind(rows, matrix, precision=jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]


# Of operands (m, k) and (k, n), or with one more axis in front of both: tasks that each have a matrix.
product_p = Primitive("rows_times_matrix")


def _product(rows: Array, matrix: Array, *, precision: str | None) -> Array:
    return jnp.matmul(rows, matrix, precision=precision)


def _contracted(a: Array, b: Array, axes: tuple[int, int], precision: str | None) -> Array:
    """The sum of a times b over an axis of each, counted from behind; the front axis of three stays in front."""
    before = tuple(range(a.ndim - 2))
    dimensions = (((a.ndim + axes[0],), (b.ndim + axes[1],)), (before, before))
    return jax.lax.dot_general(a, b, dimensions, precision=precision)


def _of_rows(y: Array, rows: Any, matrix: Array, *, precision: str | None) -> Array:
    return _contracted(y, matrix, (-1, -1), precision)


def _of_matrix(y: Array, rows: Array, matrix: Any, *, precision: str | None) -> Array:
    return _contracted(rows, y, (-2, -2), precision)


def _batch(
    operands: tuple[Array, Array], axes: tuple[int | None, int | None], *, precision: str | None
) -> tuple[Array, int]:
    """One matrix for all: the rows of all are rows of ONE product. A matrix for each: one more axis in front."""
    rows, matrix = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True))
    if axes[1] is None:
        size, *before, m, k = rows.shape  # before: the tasks, where they each have a matrix
        together = jnp.moveaxis(rows, 0, -3).reshape(*before, size * m, k)
        y = product_p.bind(together, matrix, precision=precision)
        return jnp.moveaxis(y.reshape(*before, size, m, -1), -3, 0), 0
    if axes[0] is None:
        rows = jnp.broadcast_to(rows, (len(matrix), *rows.shape))
    if rows.ndim == 3:
        return product_p.bind(rows, matrix, precision=precision), 0
    every = (x.reshape(-1, *x.shape[2:]) for x in (rows, matrix))
    y = product_p.bind(*every, precision=precision)
    return y.reshape(*rows.shape[:2], *y.shape[1:]), 0


product_p.def_impl(_product)
product_p.def_abstract_eval(
    lambda rows, matrix, *, precision: jax.core.ShapedArray((*rows.shape[:-1], matrix.shape[-1]), rows.dtype)
)
mlir.register_lowering(product_p, mlir.lower_fun(_product, multiple_results=False))
ad.defbilinear(product_p, _of_rows, _of_matrix)
batching.primitive_batchers[product_p] = _batch
