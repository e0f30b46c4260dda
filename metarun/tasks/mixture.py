"""Functions of the plane from six families: the 2-D regression of Yao et al. 2019 (HSML) and 2020 (ARML).

The text of 2020 draws inputs from [0, 5], the code from [-5, 5]: see `inputs`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, ConfigError, Count, Episode, Key, Metrics, NonNegative, PyTree
from metarun.tasks.episode import must_fit, of_rows

FAMILIES = ("sinusoid", "line", "quadratic", "cubic", "quadratic_surface", "ripple")
CURVES = 4  # the first of them, of x alone: there y is 1
# The lowest and highest values of each family's a, b, c and d; one that it has not is 0.
NONE = (0.0, 0.0)
RANGES = np.array(
    [
        [(0.1, 5.0), (0.8, 1.2), (0.0, 2 * np.pi), NONE],
        [(-3.0, 3.0), (-3.0, 3.0), NONE, NONE],
        [(-0.2, 0.2), (-2.0, 2.0), (-3.0, 3.0), NONE],
        [(-0.1, 0.1), (-0.2, 0.2), (-2.0, 2.0), (-3.0, 3.0)],
        [(-1.0, 1.0), (-1.0, 1.0), NONE, NONE],
        [(-0.2, 0.2), (-3.0, 3.0), NONE, NONE],
    ],
    np.float32,
)


def function(key: Key) -> tuple[Array, Array]:
    """A function: the number of its family () and its parameters (4,)."""
    k_family, k_parameters = jax.random.split(key)
    family = jax.random.randint(k_family, (), 0, len(FAMILIES))
    low, high = jnp.moveaxis(jnp.asarray(RANGES)[family], -1, 0)
    return family, jax.random.uniform(k_parameters, (4,), minval=low, maxval=high)


def values(family: Array, parameters: Array, x: Array, y: Array) -> Array:
    """The function of a family () with parameters (4,), at the points x (n,), y (n,): (n,)."""
    a, b, c, d = parameters
    every = [
        a * jnp.sin(b * x + c),
        a * x + b,
        a * x**2 + b * x + c,
        a * x**3 + b * x**2 + c * x + d,
        a * x**2 + b * y**2,
        jnp.sin(-a * (x**2 + y**2)) + b,
    ]
    return jnp.stack(every)[family]


@dataclass(frozen=True)
class Mixture:
    """A task is one function of a family, each family as likely as another; inputs are points (x, y)."""

    shots: Count
    queries: Count
    noise: NonNegative  # standard deviation, of the targets of support and query set alike
    inputs: tuple[float, float] = (0.0, 5.0)  # both coordinates are even between these
    n_out = 1
    metric = "mse"

    def __post_init__(self) -> None:
        low, high = self.inputs
        if not (math.isfinite(high - low) and low < high):
            raise ConfigError("inputs", list(self.inputs), "two numbers, the lower one first")

    def check(self, split: str) -> None:
        """Every split draws from the same continuum of functions."""
        must_fit((2,), self.shots, self.queries)

    def n_classes(self, split: str) -> None:
        """None: families are no classes."""

    def group_names(self, split: str) -> list[str]:
        return list(FAMILIES)

    def load(self, split: str) -> PyTree:
        return ()

    def digest(self, split: str) -> str:
        return "continuum"

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_function, k_x, k_noise = jax.random.split(key, 3)
        family, parameters = function(k_function)
        points = jax.random.uniform(k_x, (self.shots + self.queries, 2), minval=self.inputs[0], maxval=self.inputs[1])
        points = jnp.where((jnp.arange(2) == 1)[None] & (family < CURVES), 1.0, points)
        targets = values(family, parameters, points[:, 0], points[:, 1])
        targets = (targets + self.noise * jax.random.normal(k_noise, targets.shape))[:, None]
        return of_rows(points, targets, self.shots)._replace(group=family)

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.squared_error(outputs, y)
