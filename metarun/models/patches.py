"""A convolution as every image's patches times the kernel as a matrix."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metarun.core import Array
from metarun.models.product import product

BLOCK_BYTES = 2**20  # of what is computed of some images at once, per task


def patches_times_matrix(x: Array, kernel: Array, strides: Sequence[int], pads: Sequence[Sequence[int]]) -> Array:
    """`convolve` as every image's patches times the kernel as a matrix.

    On a CPU many images are taken in blocks whose patches stay in its cache; they are made anew for the
    derivative, for to keep them for all images costs more time than that, and kh * kw times the memory.
    """
    kh, kw, channels, features = kernel.shape
    height, width = ((x.shape[1 + i] + sum(pads[i]) - k) // strides[i] + 1 for i, k in enumerate((kh, kw)))

    def images(x: Array) -> Array:
        """(n, height, width, c) -> (n, height', width', features)."""
        n = x.shape[0]
        # The pixels a stride apart are a phase, from each of the first ones on. A window's pixel is then a slice of ONE
        # phase, whose derivative is a phase and not an image with gaps.
        down, right = strides
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

        patches = jnp.concatenate([shifted(i, j) for i in range(kh) for j in range(kw)], axis=-1)
        rows = product(patches.reshape(n * height * width, -1), kernel.reshape(-1, features))
        return rows.reshape(n, height, width, features)

    block = block_of(x.shape[0], height * width * kh * kw * channels * x.dtype.itemsize)
    if block is None:
        return images(x)
    in_blocks = functools.partial(jax.lax.map, jax.checkpoint(lambda x: images(x[None])[0]), batch_size=block)
    return jax.lax.platform_dependent(x, cpu=in_blocks, default=jax.checkpoint(images))


def block_of(n: int, bytes_an_image: int) -> int | None:
    """How many of n images to take at once, so that what is computed of them stays in a CPU's cache; None: all."""
    block = max(1, BLOCK_BYTES // bytes_an_image)
    # A loop over a few does not pay; of an exported program the number is not known.
    if not isinstance(n, int) or n <= 10 * block:
        return None
    # Without a smaller block at the end, if there is a block that is nearly as large: a second body is to be compiled.
    return max((b for b in range(block // 2 + 1, block + 1) if n % b == 0), default=block)
