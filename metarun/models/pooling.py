"""Max-pooling that is fast to differentiate, and whose derivative is right however XLA rounds.

jax takes for the largest what equals the maximum. Where XLA computes the operands a second time for that, fused with
other operations and so rounded in another way, none does, and the derivative is nought or 0 / 0 (jax 0.10.1 on a CPU,
after a normalisation). Here the first of the largest is told by comparisons: there is one, always.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metarun.core import Array


def max_pool_2x2(x: Array, stride: Literal[1, 2] = 2) -> Array:
    """The largest of each 2x2 window of x (n, height, width, c).

    -> (n, height // 2, width // 2, c) with a stride of 2, an odd edge left out; (n, height - 1, width - 1, c) with 1.
    Without `nn.max_pool`, whose derivative, a select-and-scatter, takes ten times as long on a CPU. Windows that do not
    overlap are reduced as axes of their own: maxima of slices have derivatives full of zeros, to be written and added.
    """
    n, height, width, channels = x.shape
    if stride == 1:
        rows = larger(x[:, :-1], x[:, 1:])
        return larger(rows[:, :, :-1], rows[:, :, 1:])
    return largest(x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels))


@jax.custom_jvp
def larger(a: Array, b: Array) -> Array:
    """The larger of each two."""
    return jnp.maximum(a, b)


@larger.defjvp
def _larger(operands: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = operands
    return larger(a, b), jnp.where(a >= b, *tangents)


@jax.custom_jvp
def largest(windows: Array) -> Array:
    """The largest of each window (n, height, 2, width, 2, c) -> (n, height, width, c)."""
    return windows.max((2, 4))


@largest.defjvp
def _largest(operands: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (windows,), (tangent,) = operands, tangents
    a, b, c, d = (windows[:, :, i, :, j] for i in range(2) for j in range(2))
    first = jnp.where(jnp.maximum(a, b) >= jnp.maximum(c, d), jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3))
    places = jnp.arange(4).reshape(1, 1, 2, 1, 2, 1)
    chosen = first[:, :, None, :, None] == jnp.broadcast_to(places, windows.shape)
    return largest(windows), jnp.where(chosen, tangent, 0).sum((2, 4))
