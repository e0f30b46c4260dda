"""Small Markov decision processes: learn the rules of one in a few episodes. Duan et al. 2016, section 3.2."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarun import acting
from metarun.core import Array, Count, Episode, Key, PyTree, Share, Ways
from metarun.policies import CATEGORICAL
from metarun.tasks.episode import must_fit


class Now(NamedTuple):
    """Where a trial is, and what was done last."""

    state: Array  # () int32
    step: Array  # () int32: of the episode
    action: Array  # (actions,) one-hot; 0 where the trial begins
    reward: Array  # ()
    ended: Array  # () 1 where an episode begins after another
    begins: Array  # () 1 where the trial begins


@dataclass(frozen=True)
class TabularMDP:
    """A task is a table: for each state and action, how likely each next state is, and the mean reward.

    Transitions are drawn from a flat Dirichlet distribution, means from N(1, 1); a reward is normal about its mean
    with deviation 1. A trial is so many episodes, each from state 0. The policy sees the state and the last action
    (one-hot each), the last reward, whether an episode has just ended, and whether the trial begins:
    (states + actions + 3,).
    """

    states: Ways
    actions: Ways
    steps: Count  # of an episode
    episodes: Count  # of a trial
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
        return self.actions

    @property
    def horizon(self) -> int:
        return self.steps * self.episodes

    trial = horizon

    def check(self, split: str) -> None:
        """Every split draws from the same tables."""
        must_fit((self.horizon, self.states + self.actions + 3), self.shots, self.queries)

    def sample(self, data: PyTree, key: Key) -> Episode:
        """A goal is (states, actions, states + 1): probabilities of the next state, then the mean reward."""
        k_transitions, k_means, k_start = jax.random.split(key, 3)
        many = (self.states, self.actions)
        transitions = jax.random.dirichlet(k_transitions, jnp.ones(self.states), many)
        means = 1 + jax.random.normal(k_means, (*many, 1))
        return acting.sources(self, jnp.concatenate([transitions, means], -1), k_start)

    def reset(self, goal: Array, key: Key) -> Now:
        zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros(())
        return Now(zero, zero, jnp.zeros(self.actions), nothing, nothing, jnp.ones(()))

    def observe(self, state: Now) -> Array:
        told = jnp.stack([state.reward, state.ended, state.begins])
        return jnp.concatenate([jax.nn.one_hot(state.state, self.states), state.action, told])

    def step(self, goal: Array, state: Now, action: Array, key: Key) -> tuple[Now, Array, Array]:
        k_next, k_reward = jax.random.split(key)
        row = goal[state.state, action]
        reward = row[-1] + jax.random.normal(k_reward)
        ends = state.step + 1 == self.steps
        after = Now(
            state=jnp.where(ends, 0, jax.random.categorical(k_next, jnp.log(row[:-1]))),
            step=jnp.where(ends, 0, state.step + 1),
            action=jax.nn.one_hot(action, self.actions),
            reward=reward,
            ended=ends.astype(reward.dtype),
            begins=jnp.zeros(()),
        )
        return after, reward, jnp.zeros((), bool)

    def best(self, goal: Array) -> Array:
        """By value iteration over an episode (Bellman 1957), the same in each."""
        transitions, means = goal[..., :-1], goal[..., -1]

        def back(values: Array, _: None) -> tuple[Array, Array]:
            q = means + transitions @ values  # (states, actions)
            return q.max(1), q.argmax(1)

        def forward(here: Array, best: Array) -> tuple[Array, Array]:
            """here (states,): how likely each is; best (states,): what is done there."""
            every = jnp.arange(self.states)
            return here @ transitions[every, best], here @ means[every, best]

        _, plan = jax.lax.scan(back, jnp.zeros(self.states), None, length=self.steps, reverse=True)
        _, rewards = jax.lax.scan(forward, jax.nn.one_hot(0, self.states), plan)
        return jnp.tile(rewards, self.episodes)
