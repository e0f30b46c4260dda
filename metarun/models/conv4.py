"""Four convolutions and a linear head: the backbone of the few-shot classification papers."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from metarun.core import Array, Count
from metarun.models.layers import Convolution, Norm, Normalisation, must_be_images
from metarun.models.pooling import max_pool_2x2


class Conv4(nn.Module):
    """Images x (n, height, width, channels) -> (n, n_out), or features (n, d).

    Finn et al. 2017, section 5.2: 64 filters and stride 2, spatially averaged, for Omniglot; 32 filters
    and 2x2 max-pooling, flattened, for mini-ImageNet. Reptile's authors flatten on Omniglot, too.
    """

    filters: Count
    downsample: Literal["stride", "max_pool"]
    norm: Norm
    n_out: int | None  # None: features, no head
    features: Literal["auto", "mean", "all"] = "auto"  # of the last convolution: over positions, or at each of them
    dtype: str | None = None  # to compute in; parameters and statistics keep theirs

    @property
    def transductive(self) -> bool:
        return self.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        must_be_images("conv4", x)
        pool = self.downsample == "max_pool"
        for i in range(4):
            convolved = Convolution(self.filters, stride=1 if pool else 2, name=f"conv{i}", dtype=self.dtype)(x)
            then = pooled if pool and min(x.shape[1:3]) > 1 else nn.relu
            x = Normalisation(self.norm, name=f"norm{i}")(convolved, then)
        flat = self.features == "all" or (self.features == "auto" and pool)
        x = x.reshape(x.shape[0], -1) if flat else jnp.mean(x, axis=(1, 2))
        return x if self.n_out is None else nn.Dense(self.n_out, dtype=self.dtype, name="head")(x)


def pooled(x: Array) -> Array:
    """x (n, height, width, c), rectified -> (n, height // 2, width // 2, c)."""
    return max_pool_2x2(nn.relu(x))
