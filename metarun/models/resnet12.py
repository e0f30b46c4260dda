"""ResNet-12: twelve convolutions in four residual blocks, the deeper backbone of the few-shot papers."""

import flax.linen as nn

from metarun.core import Array, Count, NonNegative
from metarun.models.layers import Convolution, Norm, Normalisation, must_be_images
from metarun.models.pooling import max_pool_2x2


class ResNet12(nn.Module):
    """Images x (n, height, width, channels) -> (n, n_out), or features (n, d), flattened.

    Lee et al. 2019, section 4.1: 64, 160, 320 and 640 filters, without their dropout and DropBlock. Each block
    adds three convolutions to a 1x1 one of what it is given, then rectifies and pools.
    """

    filters: tuple[Count, ...]
    slope: NonNegative  # of the leaky ReLU, below zero
    norm: Norm
    n_out: int | None  # None: features, no head
    dtype: str | None = None  # to compute in; parameters and statistics keep theirs

    @property
    def transductive(self) -> bool:
        return self.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        must_be_images("resnet12", x, least=2 ** len(self.filters))
        for i, filters in enumerate(self.filters):
            shortcut = self.convolved(x, filters, 1, f"block{i}_shortcut")
            for k in range(3):
                x = self.convolved(x, filters, 3, f"block{i}_conv{k}")
                x = nn.leaky_relu(x if k < 2 else x + shortcut, self.slope)
            x = max_pool_2x2(x)
        x = x.reshape(x.shape[0], -1)
        return x if self.n_out is None else nn.Dense(self.n_out, dtype=self.dtype, name="head")(x)

    def convolved(self, x: Array, filters: int, side: int, name: str) -> Array:
        """x (n, height, width, channels) -> (n, height, width, filters), normalised. He et al. 2015's start."""
        start = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        of = Convolution(filters, side, use_bias=False, kernel_init=start, name=name, dtype=self.dtype)(x)
        return Normalisation(self.norm, name=f"{name}_norm")(of)
