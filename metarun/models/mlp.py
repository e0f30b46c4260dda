"""Dense layers with ReLU between them."""

import flax.linen as nn

from metarun.core import Array, Count
from metarun.models.layers import Norm, Normalisation


class MLP(nn.Module):
    """x (n, ...), flattened -> (n, n_out), or features. Finn et al. 2017: 40, 40 for sine waves (section 5.1)."""

    hidden: tuple[Count, ...]
    norm: Norm
    n_out: int | None  # None: features, no head
    dtype: str | None = None  # to compute in; parameters and statistics keep theirs

    @property
    def transductive(self) -> bool:
        return self.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.hidden):
            x = nn.Dense(features, dtype=self.dtype, name=f"dense{i}")(x)
            x = nn.relu(Normalisation(self.norm, name=f"norm{i}")(x))
        return x if self.n_out is None else nn.Dense(self.n_out, dtype=self.dtype, name="head")(x)
