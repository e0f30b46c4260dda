"""Sine waves, y = A sin(x - phase): the regression of Finn et al. 2017, section 5.1.

With `intervals` amplitudes are in groups of unlike size, as Collins et al. 2020 (TR-MAML) have them: few of the tasks
that are trained on are waves as high as many of the tested ones.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, ConfigError, Count, Episode, Key, Metrics, NonNegative, PyTree
from metarun.tasks.episode import must_fit, of_rows

MOST_INTERVALS = 10_000
INTERVAL = 3  # what the key of a task's interval is folded with


@dataclass(frozen=True)
class Sinusoid:
    """A task is one wave: its amplitude and phase are uniform, and so is every x (n, 1)."""

    shots: Count
    queries: Count
    amplitude: tuple[NonNegative, NonNegative]  # lowest, highest
    phase: tuple[float, float]  # radians
    x: tuple[float, float]
    # Each from a lowest to a highest amplitude, in so many of equal width; one is as likely as another.
    intervals: tuple[tuple[NonNegative, NonNegative, Count], ...] = ()
    n_out = 1
    metric = "mse"

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "x"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(name, [low, high], "the lowest value first, then the highest")
        for low, high, count in self.intervals:
            if low > high:
                allowed = "the lowest amplitude first, then the highest, then how many intervals are between them"
                raise ConfigError("intervals", [low, high, count], allowed)
        if (intervals := sum(count for *_, count in self.intervals)) > MOST_INTERVALS:
            raise ConfigError("intervals", f"{intervals:,} together", f"at most {MOST_INTERVALS:,}")

    def check(self, split: str) -> None:
        """Every split draws from the same continuum of waves."""
        must_fit((1,), self.shots, self.queries)

    def n_classes(self, split: str) -> None:
        """None: waves are no classes."""

    def bounds(self) -> np.ndarray:
        """The lowest and the highest amplitude of each interval (intervals, 2)."""
        edges = [np.linspace(low, high, count + 1) for low, high, count in self.intervals]
        return np.concatenate([np.stack([each[:-1], each[1:]], 1) for each in edges]).astype(np.float32)

    def group_names(self, split: str) -> list[str] | None:
        """An interval's lowest and highest amplitude; None without intervals. Those that are the same are numbered."""
        if not self.intervals:
            return None
        names = [f"{low:.4g} to {high:.4g}" for low, high in self.bounds()]
        return names if len(set(names)) == len(names) else [f"{i + 1}: {name}" for i, name in enumerate(names)]

    def load(self, split: str) -> PyTree:
        return ()

    def digest(self, split: str) -> str:
        return "continuum"

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_amplitude, k_phase, k_x = jax.random.split(key, 3)
        group, (low, high) = self.interval(key) if self.intervals else (None, self.amplitude)
        amplitude = jax.random.uniform(k_amplitude, minval=low, maxval=high)
        phase = jax.random.uniform(k_phase, minval=self.phase[0], maxval=self.phase[1])
        x = jax.random.uniform(k_x, (self.shots + self.queries, 1), minval=self.x[0], maxval=self.x[1])
        return of_rows(x, amplitude * jnp.sin(x - phase), self.shots)._replace(group=group)

    def interval(self, key: Key) -> tuple[Array, Array]:
        """The number of a task's interval () and its lowest and highest amplitude (2,)."""
        bounds = self.bounds()
        number = jax.random.randint(jax.random.fold_in(key, INTERVAL), (), 0, len(bounds))
        return number, jnp.asarray(bounds)[number]

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.squared_error(outputs, y)
