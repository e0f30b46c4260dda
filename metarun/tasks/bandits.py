"""Bernoulli bandits: find out which arm pays best, while pulling. Duan et al. 2016, section 3.1."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarun import acting
from metarun.core import Array, Count, Episode, Key, PyTree, Share, Ways
from metarun.policies import CATEGORICAL
from metarun.tasks.episode import must_fit


class Pulled(NamedTuple):
    """What is known of a trial: the last pull, and whether there was none yet."""

    arm: Array  # (arms,) one-hot; 0 where the trial begins
    reward: Array  # ()
    begins: Array  # () 1 where the trial begins


@dataclass(frozen=True)
class Bandits:
    """A task is the probability of each arm's reward of 1, uniform on [0, 1]. A trial is so many pulls.

    The policy sees the last arm (one-hot), its reward, and whether the trial begins: (arms + 2,). That each pull is an
    episode of its own, as in the paper, is the same: a flag for the end of one would be 1 after every pull.
    """

    arms: Ways
    pulls: Count  # of a trial
    shots: Count  # trials that an inner step collects
    queries: Count  # trials that judge the policy
    discount: Share  # gamma
    gae_lambda: Share
    surrogate: acting.Surrogate  # what inner steps follow
    metric = "return"
    policy = CATEGORICAL

    n_classes, load, digest = acting.n_classes, acting.load, acting.digest
    collect, loss, inner_loss, by_step = acting.collect, acting.loss, acting.inner_loss, acting.by_step

    @property
    def n_out(self) -> int:
        return self.arms

    @property
    def horizon(self) -> int:
        return self.pulls

    trial = horizon

    def check(self, split: str) -> None:
        """Every split draws from the same probabilities."""
        must_fit((self.pulls, self.arms + 2), self.shots, self.queries)

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_goal, k_start = jax.random.split(key)
        return acting.sources(self, jax.random.uniform(k_goal, (self.arms,)), k_start)

    def reset(self, goal: Array, key: Key) -> Pulled:
        return Pulled(jnp.zeros(self.arms), jnp.zeros(()), jnp.ones(()))

    def observe(self, state: Pulled) -> Array:
        return jnp.concatenate([state.arm, jnp.stack([state.reward, state.begins])])

    def step(self, goal: Array, state: Pulled, action: Array, key: Key) -> tuple[Pulled, Array, Array]:
        reward = jax.random.bernoulli(key, goal[action]).astype(goal.dtype)
        return Pulled(jax.nn.one_hot(action, self.arms), reward, jnp.zeros(())), reward, jnp.zeros((), bool)

    def best(self, goal: Array) -> Array:
        return jnp.full(self.pulls, goal.max())
