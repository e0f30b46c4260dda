"""Environments of gymnax (Lange 2022), or any of its interface: a task is what some of their parameters are."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import flax.core
import jax
import jax.numpy as jnp

from metarun import acting
from metarun.core import Array, ConfigError, Count, Episode, Key, PyTree, Share
from metarun.policies import CATEGORICAL, GAUSSIAN, Policy
from metarun.tasks.episode import must_fit


class Inside(NamedTuple):
    """A trajectory of gymnax: what is seen, and what it keeps."""

    seen: Array
    state: PyTree


class Varied(acting.InEnvironment, Protocol):
    """What the two task distributions here have in common."""

    @property
    def vary(self) -> Mapping[str, Any]: ...


def fits(self: Varied, split: str) -> None:
    """Every split draws from the same ranges."""
    seen = jax.eval_shape(lambda key: self.observe(self.reset({}, key)), jax.random.key(0))
    must_fit((self.horizon, *seen.shape), self.shots, self.queries)


def sampled(self: Varied, data: PyTree, key: Key) -> Episode:
    k_goal, k_start = jax.random.split(key)
    return acting.sources(self, drawn(self.vary, k_goal), k_start)


@dataclass(frozen=True)
class Gymnax:
    """A task draws each parameter that is varied from its range, uniformly; the others are the environment's own.

    Of discrete actions the policy has logits, of others means and logarithms of deviations, brought into their bounds.
    A trajectory ends where the environment says so, at its own limit of steps, too.
    """

    env: str  # as gymnax.make is given
    vary: Mapping[str, list[float]]  # a parameter's name -> the lowest and the highest value
    shots: Count  # trajectories that an inner step collects
    queries: Count  # trajectories that judge the adapted policy
    horizon: Count  # steps of a trajectory, at most
    discount: Share  # gamma
    gae_lambda: Share
    surrogate: acting.Surrogate  # what inner steps follow
    metric = "return"
    described_elsewhere = True  # in another package, or the user's own environment

    check, sample = fits, sampled
    n_classes, load, digest = acting.n_classes, acting.load, acting.digest
    collect, loss, inner_loss = acting.collect, acting.loss, acting.inner_loss

    def __post_init__(self) -> None:
        object.__setattr__(self, "vary", varied(self.env, self.vary))  # a frozen dataclass has to be hashable

    @property
    def space(self) -> Any:
        env, params = made(self.env)
        return env.action_space(params)

    @property
    def policy(self) -> Policy:
        return CATEGORICAL if hasattr(self.space, "n") else GAUSSIAN

    @property
    def actions(self) -> int:
        """How many there are to choose from, or how many numbers an action has."""
        return self.space.n if hasattr(self.space, "n") else math.prod(self.space.shape)

    @property
    def n_out(self) -> int:
        return self.actions if self.policy is CATEGORICAL else 2 * self.actions

    def reset(self, goal: PyTree, key: Key) -> Inside:
        env, params = made(self.env)
        seen, state = env.reset_env(key, of_task(params, goal))
        return Inside(jnp.asarray(seen, jnp.float32), jax.tree.map(jnp.asarray, state))

    def observe(self, state: Inside) -> Array:
        return state.seen

    def step(self, goal: PyTree, state: Inside, action: Array, key: Key) -> tuple[Inside, Array, Array]:
        env, params = made(self.env)
        params = of_task(params, goal)
        if self.policy is GAUSSIAN:
            action = jnp.clip(action.reshape(self.space.shape), self.space.low, self.space.high)
        seen, after, reward, ends, *_ = env.step_env(key, state.state, action, params)
        ends = ends | env.is_truncated(after, params)
        return Inside(jnp.asarray(seen, jnp.float32), after), jnp.asarray(reward, jnp.float32), ends


class Now(NamedTuple):
    """Where a trial is, and what was done last."""

    inside: Inside
    step: Array  # () int32: of the episode
    over: Array  # () bool: the episode has ended, and the next has not begun
    action: Array  # (actions,) one-hot, or its numbers; 0 where the trial begins
    reward: Array  # ()
    begins: Array  # () 1 where an episode begins


@dataclass(frozen=True)
class GymnaxTrials:
    """The same in trials, for learners that remember: so many episodes of one task, one after another.

    Each takes `steps` steps: when it has ended before, nothing more happens in it or is paid. The policy sees what is
    to be seen, flat, then the last action and reward, whether an episode has ended and whether one begins.
    """

    env: str
    vary: Mapping[str, list[float]]
    steps: Count  # of an episode
    episodes: Count  # of a trial
    shots: Count  # trials that an inner step collects
    queries: Count  # trials that judge the policy
    discount: Share  # gamma
    gae_lambda: Share
    surrogate: acting.Surrogate
    metric = "return"
    described_elsewhere = True

    check, sample = fits, sampled
    n_classes, load, digest = acting.n_classes, acting.load, acting.digest
    collect, loss, inner_loss, by_step = acting.collect, acting.loss, acting.inner_loss, acting.by_step

    def __post_init__(self) -> None:
        object.__setattr__(self, "vary", varied(self.env, self.vary))

    @property
    def one(self) -> Gymnax:
        """An episode's."""
        how = self.discount, self.gae_lambda, self.surrogate
        return Gymnax(self.env, self.vary, self.shots, self.queries, self.steps, *how)

    @property
    def policy(self) -> Policy:
        return self.one.policy

    @property
    def n_out(self) -> int:
        return self.one.n_out

    @property
    def horizon(self) -> int:
        return self.steps * self.episodes

    trial = horizon

    def reset(self, goal: PyTree, key: Key) -> Now:
        zero, nothing = jnp.zeros((), jnp.int32), jnp.zeros(())
        inside, not_over = self.one.reset(goal, key), jnp.zeros((), bool)
        return Now(inside, zero, not_over, jnp.zeros(self.one.actions), nothing, nothing + 1)

    def observe(self, state: Now) -> Array:
        told = jnp.stack([state.reward, state.over.astype(jnp.float32), state.begins])
        return jnp.concatenate([self.one.observe(state.inside).reshape(-1), state.action, told])

    def step(self, goal: PyTree, state: Now, action: Array, key: Key) -> tuple[Now, Array, Array]:
        k_step, k_reset = jax.random.split(key)
        moved, reward, ends = self.one.step(goal, state.inside, action, k_step)
        inside = jax.tree.map(lambda new, old: jnp.where(state.over, old, new), moved, state.inside)
        reward, over = jnp.where(state.over, 0, reward), state.over | ends
        last = state.step + 1 == self.steps
        anew = self.one.reset(goal, k_reset)
        after = Now(
            inside=jax.tree.map(lambda new, old: jnp.where(last, new, old), anew, inside),
            step=jnp.where(last, 0, state.step + 1),
            over=over & ~last,
            action=jax.nn.one_hot(action, self.one.actions) if self.policy is CATEGORICAL else action,
            reward=reward,
            begins=last.astype(reward.dtype),
        )
        return after, reward, jnp.zeros((), bool)


@lru_cache(maxsize=16)
def made(name: str) -> tuple[Any, Any]:
    """An environment, and its own parameters. Raises ConfigError."""
    try:
        import gymnax
    except ImportError as error:
        raise ConfigError("env", name, f"needs a package ({error}): pip install 'metarun[gymnax]'") from error
    if name not in gymnax.registered_envs:
        raise ConfigError("env", name, f"no such environment; allowed: {', '.join(sorted(gymnax.registered_envs))}")
    return gymnax.make(name)


def of_task(params: Any, goal: PyTree) -> Any:
    """The parameters with a task's own, and what an environment keeps beside these that follows from them."""
    found = params.replace(**goal)
    if hasattr(params, "polemass_length"):  # CartPole's
        follow = {"total_mass": found.masscart + found.masspole, "polemass_length": found.masspole * found.length}
        found = found.replace(**{name: value for name, value in follow.items() if name not in goal})
    return found


def varied(name: str, ranges: Mapping[str, Any]) -> Mapping[str, tuple[float, float]]:
    """The ranges, checked. Raises ConfigError."""
    _, params = made(name)
    values = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    allowed = [field for field, value in values.items() if isinstance(value, float)]
    said = f"of {name} there are: {', '.join(allowed)}"
    if not ranges:
        raise ConfigError("vary", "{}", f"which parameters tasks differ in, e.g. {{{allowed[0]}: [0.5, 1.0]}}; {said}")
    for parameter, bounds in ranges.items():
        if parameter not in allowed:
            raise ConfigError(f"vary.{parameter}", bounds, f"no such parameter that is a number; {said}")
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ConfigError(f"vary.{parameter}", list(bounds), "the lowest and the highest value, e.g. [0.5, 1.0]")
    return flax.core.freeze({parameter: tuple(bounds) for parameter, bounds in ranges.items()})


def drawn(ranges: Mapping[str, Any], key: Key) -> dict[str, Array]:
    keys = jax.random.split(key, len(ranges))
    each = zip(keys, sorted(ranges.items()), strict=True)
    return {name: jax.random.uniform(k, minval=low, maxval=high) for k, (name, (low, high)) in each}
