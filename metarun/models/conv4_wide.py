"""Four convolutions that widen, and features of two scales: R2-D2's backbone."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from metarun.core import Array, Count, NonNegative
from metarun.models.layers import Convolution, Norm, Normalisation, must_be_images
from metarun.models.pooling import max_pool_2x2


class Conv4Wide(nn.Module):
    """Images x (n, height, width, channels) -> (n, n_out), or features (n, d).

    Bertinetto et al. 2019, section 4.2, as in their code: each block convolves, normalises, pools and only then
    rectifies; the last one's pooling has a stride of 1. The features are the last two blocks' outputs, flattened.
    """

    filters: tuple[Count, Count, Count, Count]
    slope: NonNegative  # of the leaky ReLU, below zero
    norm: Norm
    n_out: int | None  # None: features, no head
    dtype: str | None = None  # to compute in; parameters and statistics keep theirs

    @property
    def transductive(self) -> bool:
        return self.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        must_be_images("conv4_wide", x, least=16)
        scales = []
        for i, filters in enumerate(self.filters):
            then = partial(pooled, stride=1 if i == 3 else 2, slope=self.slope)
            convolved = Convolution(filters, name=f"conv{i}", dtype=self.dtype)(x)
            x = Normalisation(self.norm, name=f"norm{i}")(convolved, then)
            if i == 2:
                scales.append(max_pool_2x2(x, stride=1))
        scales.append(x)
        x = jnp.concatenate([scale.reshape(x.shape[0], -1) for scale in scales], axis=1)
        return x if self.n_out is None else nn.Dense(self.n_out, dtype=self.dtype, name="head")(x)


def pooled(x: Array, stride: Literal[1, 2], slope: float) -> Array:
    """The largest of each 2x2 window, of which the leaky ReLU."""
    return nn.leaky_relu(max_pool_2x2(x, stride), slope)
