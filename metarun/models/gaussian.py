"""A policy for continuous actions: dense layers give the mean; deviations do not depend on what is seen."""

import flax.linen as nn
import jax.numpy as jnp

from metarun.core import Array, ConfigError, Count
from metarun.models.layers import Norm
from metarun.models.mlp import MLP


class Gaussian(nn.Module):
    """x (n, ...), flattened -> means and logarithms of standard deviations (n, n_out), or features.

    The deviations are parameters, from 1 at the start: Finn et al. 2017, section 5.3, with 100, 100.
    """

    hidden: tuple[Count, ...]
    norm: Norm
    n_out: int | None  # twice as many as actions; None: features, no head
    dtype: str | None = None  # to compute in; parameters and statistics keep theirs

    @property
    def transductive(self) -> bool:
        return self.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.n_out is not None and self.n_out % 2:
            allowed = "gives a mean and a deviation of each action, for tasks such as navigation; use mlp"
            raise ConfigError("model", "gaussian", allowed)
        features = MLP(self.hidden, self.norm, None, self.dtype, name="body")(x)
        return features if self.n_out is None else Head(self.n_out // 2, self.dtype, name="head")(features)


class Head(nn.Module):
    """Features (n, d) -> means and logarithms of standard deviations of so many actions."""

    actions: int
    dtype: str | None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        mean = nn.Dense(self.actions, dtype=self.dtype, name="mean")(z)
        log_std = self.param("log_std", nn.initializers.zeros, (self.actions,))
        return jnp.concatenate([mean, jnp.broadcast_to(log_std, mean.shape).astype(mean.dtype)], axis=-1)
