"""Sine waves, y = A sin(x - phase): the regression of Finn et al. 2017, section 5.1."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import losses
from metarun.core import Array, ConfigError, Count, Episode, Key, Metrics, NonNegative, PyTree
from metarun.tasks.episode import must_fit, of_rows


@dataclass(frozen=True)
class Sinusoid:
    """A task is one wave: its amplitude and phase are uniform, and so is every x (n, 1)."""

    shots: Count
    queries: Count
    amplitude: tuple[NonNegative, NonNegative]  # lowest, highest
    phase: tuple[float, float]  # radians
    x: tuple[float, float]
    n_out = 1
    metric = "mse"

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "x"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(name, [low, high], "the lowest value first, then the highest")

    def check(self, split: str) -> None:
        """Every split draws from the same continuum of waves."""
        must_fit((1,), self.shots, self.queries)

    def n_classes(self, split: str) -> None:
        """None: waves are no classes."""

    def load(self, split: str) -> PyTree:
        return ()

    def digest(self, split: str) -> str:
        return "continuum"

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_amplitude, k_phase, k_x = jax.random.split(key, 3)
        amplitude = jax.random.uniform(k_amplitude, minval=self.amplitude[0], maxval=self.amplitude[1])
        phase = jax.random.uniform(k_phase, minval=self.phase[0], maxval=self.phase[1])
        x = jax.random.uniform(k_x, (self.shots + self.queries, 1), minval=self.x[0], maxval=self.x[1])
        return of_rows(x, amplitude * jnp.sin(x - phase), self.shots)

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.squared_error(outputs, y)
