"""Navigation: find a point of the plane by its rewards alone. Finn et al. 2017, section 5.3."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import acting
from metarun.core import Array, Count, Episode, Key, PyTree, Share
from metarun.policies import GAUSSIAN
from metarun.tasks.episode import must_fit


@dataclass(frozen=True)
class Navigation:
    """A task is a goal, uniform on the square [-0.5, 0.5]^2, that the policy is not told of.

    A trajectory begins at 0. The policy sees where it is, and moves by a tenth of its action, at most 0.1 along each
    axis; the reward is minus the distance that is left. It ends within 0.01 of the goal along both axes. As the
    authors' code, where the text has the squared distance.
    """

    shots: Count  # trajectories that an inner step collects
    queries: Count  # trajectories that judge the adapted policy
    horizon: Count  # steps of a trajectory, at most
    discount: Share  # gamma
    gae_lambda: Share
    surrogate: acting.Surrogate  # what inner steps follow
    n_out = 4  # means, and logarithms of standard deviations
    metric = "return"
    policy = GAUSSIAN

    n_classes, load, digest = acting.n_classes, acting.load, acting.digest
    collect, loss, inner_loss = acting.collect, acting.loss, acting.inner_loss

    def check(self, split: str) -> None:
        """Every split draws from the same square of goals."""
        must_fit((self.horizon, 2), self.shots, self.queries)

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_goal, k_start = jax.random.split(key)
        return acting.sources(self, jax.random.uniform(k_goal, (2,), minval=-0.5, maxval=0.5), k_start)

    def reset(self, goal: Array, key: Key) -> Array:
        return jnp.zeros(2)

    def observe(self, state: Array) -> Array:
        return state

    def step(self, goal: Array, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array]:
        state = state + jnp.clip(0.1 * action, -0.1, 0.1)
        left = state - goal
        return state, -jnp.sqrt(jnp.square(left).sum()), (jnp.abs(left) < 0.01).all()
