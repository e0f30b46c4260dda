"""Meta-steps that tell little of any one task: each task's meta-gradient is clipped, and noise is added to their sum.

DP-SGD (Abadi et al. 2016) with a task, all of a user's data, in the place of an example (McMahan et al. 2018): what is
learned is differentially private at the level of users. `run.privacy` counts what it tells.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Lt

from metarun.core import (
    Array,
    ConfigError,
    Count,
    Episode,
    Key,
    Metrics,
    NonNegative,
    OfGroups,
    Positive,
    PyTree,
    Tasks,
)
from metarun.engine.keys import task_key

# Folded into keys where no task's index and no meta-step ever comes.
NOISE, PRESENT, USERS = (np.uint32(2**32 - i) for i in (1, 2, 3))
GRID = 2**23  # users are drawn by numbers that are so many parts of 1: any other chance would be rounded up
MOST_OVERFLOW = 1e-18  # the chance that a meta-step has no room for all users who are drawn


@dataclass(frozen=True)
class Private:
    """How the meta-gradients of tasks are made private; without `clip` they are not."""

    clip: Positive | None  # a task's meta-gradient, all parameters together, is shortened to this
    noise: NonNegative  # of the tasks' sum, the noise's standard deviation in every parameter is this times clip
    users: Count | None  # so many tasks, or groups, are all there are; None: every task is a new user's, met once
    delta: Annotated[float, Gt(0), Lt(1)]  # results.json tells the epsilon that holds but for this probability

    def __post_init__(self) -> None:
        if self.clip is None and (self.noise or self.users is not None):
            key, given = ("noise", self.noise) if self.noise else ("users", self.users)
            raise ConfigError(key, given, "needs a bound of each task's meta-gradient: set train.private.clip, 1.0 say")
        if self.users is not None and self.delta * self.users >= 1:
            raise ConfigError("delta", self.delta, f"below 1 / train.private.users, which is {1 / self.users:.3g}")

    def must_fit(self, meta_batch: int) -> None:
        """Raises ConfigError unless a meta-step of so many tasks expects one user at least."""
        if self.users is not None and self.expected(meta_batch) < 1:
            least = next(n for n in range(meta_batch, 1024) if self.expected(n) >= 1)
            allowed = f"at least {least} with {self.users:,} users, as a meta-step has room for all whom chance draws"
            raise ConfigError("train.meta_batch", meta_batch, allowed)

    def rate(self, meta_batch: int) -> float:
        """The chance that a user is drawn for a meta-step of at most so many tasks."""
        return 1.0 if self.users is None else sampling_rate(self.users, meta_batch)

    def expected(self, meta_batch: int) -> float:
        """How many tasks count in a meta-step, on average: by so many their sum is divided."""
        return meta_batch if self.users is None else self.users * self.rate(meta_batch)


def among(private: Private, tasks: Tasks) -> Private:
    """Where tasks are of groups, each group is a user, and there are no others. Raises ConfigError for other users."""
    groups = tasks.n_groups("train") if isinstance(tasks, OfGroups) else None
    if private.clip is None or groups is None:
        return private
    if private.users not in (None, groups):
        allowed = f"null or {groups}: these tasks are of groups, and each training group is a user"
        raise ConfigError("users", private.users, allowed)
    return replace(private, users=groups)


@cache
def sampling_rate(users: int, most: int) -> float:
    """The largest chance for each of so many users by which more than `most` are drawn less often than MOST_OVERFLOW.

    Each is drawn or not whoever else is (Poisson sampling), since that is what the accountant counts.
    """
    from scipy.special import bdtrc  # a quarter of a second, of runs that need it

    if users <= most:
        return 1.0
    low, high = 0.0, most / users
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if bdtrc(most, users, middle) <= MOST_OVERFLOW else (low, middle)
    return math.floor(low * GRID) / GRID


class Drawn(NamedTuple):
    """Of the tasks of a meta-step (n,)."""

    k_episodes: Key  # as of `task_key`, but that a user's is the same in every meta-step
    k_adapts: Key
    users: Array  # whose it is
    counts: Array  # bool; there may be fewer users than tasks: the rest do not count


def task_keys(private: Private, k_train: Key, step: Array, indices: Array, meta_batch: int) -> Drawn:
    """The tasks with these indices (n,) in the meta-step after `step`."""
    k_step = jax.random.fold_in(k_train, step)
    k_episodes, k_adapts = jax.vmap(task_key, (None, 0))(k_step, indices)
    if private.users is None:
        return Drawn(k_episodes, k_adapts, indices, jnp.ones(len(indices), bool))
    drawn = jax.random.bernoulli(jax.random.fold_in(k_step, PRESENT), private.rate(meta_batch), (private.users,))
    found = jnp.nonzero(drawn, size=meta_batch, fill_value=-1)[0][indices]
    users = jnp.maximum(found, 0)
    k_users = jax.random.fold_in(k_train, USERS)
    return Drawn(jax.vmap(task_key, (None, 0))(k_users, users)[0], k_adapts, users, found >= 0)


def episode_of(private: Private, tasks: Tasks, data: PyTree, user: Array, key: Key) -> Episode:
    """A user's task; where tasks are of groups, it is of the group with the user's number."""
    if private.users is not None and isinstance(tasks, OfGroups):
        data = tasks.of_group(data, user)
    return tasks.sample(data, key)


MetaGrad = Callable[[Episode, Key], tuple[PyTree, Metrics]]  # of tasks (leading axis), their mean


def clipped_each(
    meta_grad: MetaGrad, episodes: Episode, keys: Key, counts: Array, clip: float
) -> tuple[PyTree, Metrics, Array]:
    """Over the tasks (leading axis) the means of meta-gradients of length `clip` at most, of metrics, and of 1.

    One that does not count is 0 in all three, and so is one whose meta-gradient or metrics are not finite: what a
    meta-step does about a single task must not tell of it. Meta-gradients are of float32 at least, as is what is
    promised of them: to bfloat16 a length is half a per cent off.
    """

    def one(episode: Episode, key: Key, counts: Array) -> tuple[PyTree, Metrics, Array]:
        grads, metrics = meta_grad(*jax.tree.map(lambda leaf: leaf[None], (episode, key)))
        grads = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), grads)
        length = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads)))
        for value in (length, *metrics.values()):
            counts &= jnp.isfinite(value)
        shorter = jnp.minimum(1.0, clip / jnp.maximum(length, 1e-30))
        grads = jax.tree.map(lambda leaf: jnp.where(counts, shorter * leaf, 0.0), grads)
        return grads, jax.tree.map(lambda metric: jnp.where(counts, metric, 0.0), metrics), counts.astype(jnp.float32)

    return jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(one)(episodes, keys, counts))


def noised(
    private: Private, means: tuple[PyTree, Metrics, Array], k_step: Key, of_run: Array, meta_batch: int
) -> tuple[PyTree, Metrics]:
    """What `clipped_each` gives of a whole meta-step -> its meta-gradient with noise, and metrics of those that count.

    From the meta-step's key and the run's own number (), so the same on every device, and another in another run.
    """
    grads, metrics, share = means
    each = meta_batch / private.expected(meta_batch)
    grads = jax.tree.map(lambda leaf: leaf * each, grads)
    if private.noise and private.clip is not None:
        leaves, structure = jax.tree.flatten(grads)
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(k_step, NOISE), of_run), len(leaves))
        deviation = private.noise * private.clip / private.expected(meta_batch)
        pairs = zip(leaves, keys, strict=True)
        leaves = [leaf + deviation * jax.random.normal(key, leaf.shape, leaf.dtype) for leaf, key in pairs]
        grads = jax.tree.unflatten(structure, leaves)
    return grads, jax.tree.map(lambda metric: metric / jnp.maximum(share, 1 / meta_batch), metrics)
