"""A convolution of few channels and its normalisation over the batch, as ONE convolution.

The mean and the variance of what a kernel w makes of patches are m^T w and w^T C w, for the patches' mean m and their
covariance C: of 9 numbers for grey images, of 27 for coloured ones. So the first layer of a network, the largest in
memory, is normalised by its kernel and a bias. Nothing of it waits for other images: each is rectified and pooled while
it lies in the cache, where all of them would be written and read again several times.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarun.core import Array
from metarun.models.patches import in_blocks, patches, windows
from metarun.models.product import product
from metarun.models.total import spread

FEW = 32  # numbers of a patch, whose covariance costs less than it spares


class Convolved(NamedTuple):
    """A convolution that is yet to be computed, by whoever knows what comes after it."""

    x: Array  # (n, height, width, c)
    kernel: Array  # (kh, kw, c, features)
    bias: Array | None  # (features,)
    strides: tuple[int, int]
    pads: Sequence[Sequence[int]]


def suits(of: Convolved) -> bool:
    """Whether `folded` is as exact, and pays."""
    kh, kw, channels, _ = of.kernel.shape
    return kh * kw * channels <= FEW and of.x.dtype == of.kernel.dtype and of.x.dtype in (jnp.float32, jnp.float64)


def folded(of: Convolved, scale: Array, bias: Array, epsilon: float, then: Callable[[Array], Array]) -> Array:
    """A convolution, normalised over all images and positions, times `scale` plus `bias` (features,), and `then` of it.

    `then` is of each image by itself. The convolution's own bias is what normalisation takes away again.
    """
    x, kernel, _, strides, pads = of
    matrix = kernel.reshape(-1, kernel.shape[-1])
    height, width = windows(x, kernel.shape[:2], strides, pads)
    mean, covariance = moments(x, kernel.shape[:2], strides, pads)
    variance = jnp.sum(matrix * jnp.matmul(covariance, matrix, precision="highest"), 0)
    variance = jnp.where(variance > 0, variance, 0)  # by rounding: images of one colour and a large kernel
    normalised = matrix * (scale * jax.lax.rsqrt(variance + epsilon))[None]
    shift = bias - jnp.matmul(mean, normalised, precision="highest")

    def images(x: Array) -> Array:
        rows = patches(x, kernel.shape[:2], strides, pads).reshape(x.shape[0] * height * width, -1)
        y = product(rows, normalised).reshape(x.shape[0], height, width, -1)
        return then(y + spread(shift, y.shape[:-1]))

    return in_blocks(images, x, height * width * sum(matrix.shape) * x.dtype.itemsize)


def moments(
    x: Array, sides: Sequence[int], strides: Sequence[int], pads: Sequence[Sequence[int]]
) -> tuple[Array, Array]:
    """x (n, height, width, c) -> the mean (k,) and the covariance (k, k) of its patches of k numbers."""
    k, (height, width) = sides[0] * sides[1] * x.shape[-1], windows(x, sides, strides, pads)
    # Whatever is taken away first, the result is the same: the nearer to the mean, the less is lost by rounding.
    near = jnp.tile(jax.lax.stop_gradient(x.mean((0, 1, 2))), sides[0] * sides[1])

    def images(x: Array) -> tuple[Array, Array]:
        rows = patches(x, sides, strides, pads).reshape(x.shape[0], height * width, k)
        rows = rows - spread(near, rows.shape[:-1])
        squares = jax.lax.dot_general(rows, rows, (((1,), (1,)), ((0,), (0,))), precision="highest")
        return rows.mean(1), squares / (height * width)

    means, squares = in_blocks(images, x, height * width * k * x.dtype.itemsize)
    mean = means.mean(0)
    return mean + near, squares.mean(0) - jnp.outer(mean, mean)
