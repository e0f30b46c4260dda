"""3 x 3 convolutions with 4 multiplications where the definition has 9. Lavin and Gray 2016, section 4.1: F(2x2, 3x3).

An output of 2 x 2 pixels is A^T [(G g G^T) * (B^T d B)] A, for the kernel g and the 4 x 4 pixels d of the input that it
sees. All tiles of all images are then the rows of 16 products, one for each place in a tile; the transformations add,
subtract and halve. All are linear, and what a kernel's derivative needs is made of their transposes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from metarun.core import Array
from metarun.models.product import product

Pads = Sequence[Sequence[int]]  # pixels of zeros above and below, left and right


def tiles(height: int, width: int) -> tuple[int, int]:
    """How many tiles an output of so many pixels has, down and across: the last ones may reach beyond it."""
    return -(-height // 2), -(-width // 2)


def output(shape: tuple[int, ...], pads: Pads) -> tuple[int, int]:
    """The height and width of what comes of images (..., height, width, c)."""
    height, width = (side + sum(pad) - 2 for side, pad in zip(shape[-3:-1], pads, strict=True))
    return height, width


def convolved(x: Array, matrices: Array, pads: Pads) -> Array:
    """x (n, height, width, c), `of_kernel` (16, c, features) -> (n, height', width', features)."""
    n, c = x.shape[0], x.shape[-1]
    height, width = output(x.shape, pads)
    down, across = tiles(height, width)
    answers = product(of_inputs(x, pads).reshape(16, -1, c), matrices)
    return of_products(answers.reshape(4, 4, n, down, across, -1))[:, :height, :width]


def correlated(x: Array, y: Array, pads: Pads) -> Array:
    """x (n, height, width, c), y (n, height', width', features) -> (16, c, features).

    The derivative of the sum of `convolved` times y in the matrices.
    """
    n, height, width, features = y.shape
    down, across = tiles(height, width)
    beyond = ((0, 0, 0), (0, 2 * down - height, 0), (0, 2 * across - width, 0), (0, 0, 0))
    whole = jax.lax.pad(y, jnp.zeros((), y.dtype), beyond)
    of_answers = transposed(of_products, (4, 4, n, down, across, features), whole).reshape(16, -1, features)
    rows = of_inputs(x, pads).reshape(16, -1, x.shape[-1])
    return jax.lax.dot_general(rows, of_answers, (((1,), (1,)), ((0,), (0,))))


def transposed(linear: Callable[[Array], Array], shape: tuple[int, ...], y: Array) -> Array:
    """The transpose of a linear function of (*shape,), of y."""
    return jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, y.dtype))(y)[0]


def of_inputs(x: Array, pads: Pads) -> Array:
    """B^T d B of every tile: (n, height, width, c) -> (4, 4, n, down, across, c)."""
    down, across = tiles(*output(x.shape, pads))
    (top, _), (left, _) = pads
    below, right = 2 * down + 2 - top - x.shape[1], 2 * across + 2 - left - x.shape[2]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0)))
    return along(along(x, 1), 3)


def along(x: Array, axis: int) -> Array:
    """B^T d along an axis of 2 * t + 2 pixels: a new axis of 4 in front, and t in the place of that axis."""
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    first, third, second, fourth = (
        jax.lax.slice_in_dim(pixels, start, start + pixels.shape[axis] - 1, axis=axis)
        for pixels in (even, odd)
        for start in range(2)
    )
    return jnp.stack([first - third, second + third, third - second, second - fourth])


def of_kernel(kernel: Array) -> Array:
    """G g G^T: (3, 3, c, features) -> (16, c, features)."""

    def points(kernel: Array, axis: int) -> Array:
        first, middle, last = (jax.lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
        return jnp.stack([first, (first + middle + last) / 2, (first - middle + last) / 2, last])

    return points(points(kernel, 0), 1).reshape(16, *kernel.shape[2:])


def of_products(answers: Array) -> Array:
    """A^T m A of every tile: (4, 4, n, down, across, features) -> (n, 2 * down, 2 * across, features)."""

    def pair(of: Array) -> tuple[Array, Array]:
        return of[0] + of[1] + of[2], of[1] - of[2] - of[3]

    left, right = (pair(column) for column in pair(answers))
    rows = [jnp.stack(row, axis=3) for row in zip(left, right, strict=True)]
    y = jnp.stack(rows, axis=2)  # (n, down, 2, across, 2, features)
    return y.reshape(y.shape[0], 2 * y.shape[1], 2 * y.shape[3], -1)
