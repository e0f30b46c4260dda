"""A convolution as every image's patches times the kernel as a matrix."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from metarun.core import Array, PyTree
from metarun.models.product import product

BLOCK_BYTES = 2**20  # of what is computed of some images at once, per task


def patches_times_matrix(x: Array, kernel: Array, strides: Sequence[int], pads: Sequence[Sequence[int]]) -> Array:
    """`convolve` as every image's patches times the kernel as a matrix."""
    kh, kw, channels, features = kernel.shape
    height, width = windows(x, (kh, kw), strides, pads)

    def images(x: Array) -> Array:
        """(n, height, width, c) -> (n, height', width', features)."""
        rows = patches(x, (kh, kw), strides, pads).reshape(x.shape[0] * height * width, -1)
        return product(rows, kernel.reshape(-1, features)).reshape(x.shape[0], height, width, features)

    return in_blocks(images, x, height * width * kh * kw * channels * x.dtype.itemsize)


def in_blocks(of_images: Callable[[Array], PyTree], x: Array, bytes_an_image: int) -> PyTree:
    """`of_images` of x (n, ...), whose leaves have the images' axis in front as well.

    On a CPU many images are taken in blocks whose patches stay in its cache; they are made anew for the
    derivative, for to keep them for all images costs more time than that, and kh * kw times the memory.
    """
    block = block_of(x.shape[0], bytes_an_image)
    if block is None:
        return of_images(x)

    def of_image(x: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], of_images(x[None]))

    blocks = functools.partial(jax.lax.map, jax.checkpoint(of_image), batch_size=block)
    return jax.lax.platform_dependent(x, cpu=blocks, default=jax.checkpoint(of_images))


def windows(x: Array, sides: Sequence[int], strides: Sequence[int], pads: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many windows of such sides x (n, height, width, c) has, down and across."""
    height, width = ((x.shape[1 + i] + sum(pads[i]) - side) // strides[i] + 1 for i, side in enumerate(sides))
    return height, width


def patches(x: Array, sides: Sequence[int], strides: Sequence[int], pads: Sequence[Sequence[int]]) -> Array:
    """x (n, height, width, c) -> the pixels of each window (n, height', width', kh * kw * c), in a kernel's order.

    The pixels a stride apart are a phase, from each of the first ones on. A window's pixel is then a slice of ONE
    phase, whose derivative is a phase and not an image with gaps.
    """
    (kh, kw), (down, right), (n, *_, channels) = sides, strides, x.shape
    height, width = windows(x, sides, strides, pads)
    high, wide = height - 1 + -(-kh // down), width - 1 + -(-kw // right)  # a phase
    (top, _), (left, _) = pads
    below, beside = down * high - top - x.shape[1], right * wide - left - x.shape[2]  # no more than windows reach
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (top, below, 0), (left, beside, 0), (0, 0, 0)))
    x = x.reshape(n, high, down, wide, right, channels)
    phases = {(i, j): x[:, :, i, :, j] for i in range(down) for j in range(right)}

    def shifted(i: int, j: int) -> Array:
        """The pixel (i, j) of every window."""
        phase = phases[i % down, j % right]
        return phase[:, i // down : i // down + height, j // right : j // right + width]

    return jnp.concatenate([shifted(i, j) for i in range(kh) for j in range(kw)], axis=-1)


def block_of(n: int, bytes_an_image: int) -> int | None:
    """How many of n images to take at once, so that what is computed of them stays in a CPU's cache; None: all."""
    block = max(1, BLOCK_BYTES // bytes_an_image)
    # A loop over a few does not pay; of an exported program the number is not known.
    if not isinstance(n, int) or n <= 10 * block:
        return None
    # Without a smaller block at the end, if there is a block that is nearly as large: a second body is to be compiled.
    return max((b for b in range(block // 2 + 1, block + 1) if n % b == 0), default=block)
