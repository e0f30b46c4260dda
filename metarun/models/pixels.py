"""No features but the inputs themselves."""

import flax.linen as nn
import jax

from metarun.core import Array, Count


class Pixels(nn.Module):
    """Images x (n, height, width, channels), resized and flattened; whatever else x is, flattened -> (n, d).

    Santoro et al. 2016 (section 4.1) give their networks images of 20 x 20.
    """

    side: Count | None
    n_out: int | None  # None: no head
    dtype: str | None = None  # to compute in
    transductive = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim == 4 and self.side is not None and x.shape[1:3] != (self.side, self.side):
            x = jax.image.resize(x, (len(x), self.side, self.side, x.shape[3]), "linear")
        x = x.reshape(len(x), -1)
        return x if self.n_out is None else nn.Dense(self.n_out, dtype=self.dtype, name="head")(x)
