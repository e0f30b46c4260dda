"""What environments share: trajectories, their advantages, and the losses of a policy gradient.

An environment is a task distribution (`InEnvironment`) whose file has the rules alone: `reset`, `observe` and `step`.
Its steps are examples in one order, trajectory by trajectory, all of one length; what comes after a trajectory's end
is not `valid`, and counts nowhere.
"""

import math
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from metarun.core import Act, Array, Batch, Episode, Key, Metrics, Policy, PyTree

Surrogate = Literal["logp", "lvc", "dice"]


class Steps(NamedTuple):
    """What was done at each of the observations, and what came of it: the y of examples, (steps, ...) each."""

    action: Array
    outputs: Array  # (steps, n_out): the policy's, which the actions are drawn from
    reward: Array  # (steps,)
    advantage: Array  # (steps,): see `advantages`
    valid: Array  # (steps,) bool: before the trajectory's end


class InEnvironment(Protocol):
    """What the functions here ask of a task distribution; `reset`, `observe` and `step` are of ONE trajectory."""

    @property
    def policy(self) -> Policy: ...
    @property
    def shots(self) -> int: ...  # trajectories that an inner step collects
    @property
    def queries(self) -> int: ...  # trajectories that judge what was learned
    @property
    def horizon(self) -> int: ...  # steps of a trajectory, at most
    @property
    def discount(self) -> float: ...  # gamma
    @property
    def gae_lambda(self) -> float: ...
    @property
    def surrogate(self) -> Surrogate: ...

    def reset(self, goal: PyTree, key: Key) -> PyTree:
        """The state at the start, any pytree."""
        ...

    def observe(self, state: PyTree) -> Array:
        """What the policy sees of it."""
        ...

    def step(self, goal: PyTree, state: PyTree, action: Array, key: Key) -> tuple[PyTree, Array, Array]:
        """The next state, the reward () and whether the trajectory ends there () bool."""
        ...


def n_classes(self: InEnvironment, split: str) -> None:
    """None: what is acted in has no classes."""


def load(self: InEnvironment, split: str) -> PyTree:
    """Nothing: environments are made up whole."""
    return ()


def digest(self: InEnvironment, split: str) -> str:
    """Every split draws from the same continuum of tasks."""
    return "continuum"


def sources(self: InEnvironment, goal: PyTree, key: Key) -> Episode:
    """The episode of a task that `goal` makes up: y of both sources is that goal for each trajectory."""

    def source(n: int, key: Key) -> Batch:
        goals = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), goal)
        states = jax.vmap(self.reset)(goals, jax.random.split(key, n))
        return Batch(jax.vmap(self.observe)(states), goals)

    k_support, k_query = jax.random.split(key)
    return Episode(source(self.shots, k_support), source(self.queries, k_query))


def collect(self: InEnvironment, source: Batch, act: Act, key: Key) -> Batch:
    """A trajectory for each of the source's goals, by the policy `act`: n * horizon steps, trajectory by trajectory."""
    goals, n = source.y, len(source.x)
    k_reset, k_steps = jax.random.split(key)

    def one_step(now: tuple[PyTree, PyTree, Array], t: Array) -> tuple[tuple[PyTree, PyTree, Array], tuple[Any, ...]]:
        state, memory, valid = now
        x = jax.vmap(self.observe)(state)
        outputs, memory = act.answer(memory, x)
        k_action, k_step = jax.random.split(jax.random.fold_in(k_steps, t))
        action = self.policy.sample(outputs, k_action)
        after, reward, ends = jax.vmap(self.step)(goals, state, action, jax.random.split(k_step, n))

        def stays(new: Array, old: Array) -> Array:
            return jnp.where(valid.reshape(-1, *(1 for _ in new.shape[1:])), new, old)

        return (jax.tree.map(stays, after, state), memory, valid & ~ends), (
            x,
            action,
            outputs,
            jnp.where(valid, reward, 0),
            valid,
        )

    start = jax.vmap(self.reset)(goals, jax.random.split(k_reset, n)), act.memory, jnp.ones(n, bool)
    _, found = jax.lax.scan(one_step, start, jnp.arange(self.horizon))
    x, action, outputs, reward, valid = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), found)  # (n, horizon, ...)
    advantage = advantages(x, reward, valid, self.discount, self.gae_lambda)
    steps = Steps(action, outputs, reward, advantage, valid)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), Batch(x, steps))  # type: ignore[arg-type]


def advantages(x: Array, reward: Array, valid: Array, discount: float, gae_lambda: float) -> Array:
    """x (n, horizon, ...), reward and valid (n, horizon) -> generalised advantages, normalised over all valid steps.

    They are over a baseline that is fitted to the same trajectories.
    """
    returns = discounted(reward, discount)
    advantage = generalised(baseline(x, returns, valid), reward, valid, discount, gae_lambda)
    count = valid.sum()
    mean = jnp.where(valid, advantage, 0).sum() / count
    std = jnp.sqrt(jnp.where(valid, jnp.square(advantage - mean), 0).sum() / count)
    return jnp.where(valid, (advantage - mean) / (std + 1e-8), 0)


def generalised(values: Array, reward: Array, valid: Array, discount: float, gae_lambda: float) -> Array:
    """(n, horizon) each -> the advantages of actions over `values`. Schulman et al. 2016, equation 16."""
    values = jnp.where(valid, values, 0)
    after = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))  # nothing comes after the end, nor after the last step
    return discounted(reward + discount * after - values, discount * gae_lambda)


def discounted(values: Array, discount: float) -> Array:
    """values (n, horizon) -> the sum of each and all that follow it, each later step times another `discount`."""

    def add(after: Array, value: Array) -> tuple[Array, Array]:
        total = value + discount * after
        return total, total

    return jax.lax.scan(add, jnp.zeros_like(values[:, 0]), values.T, reverse=True)[1].T


def baseline(x: Array, returns: Array, valid: Array, ridge: float = 1e-5) -> Array:
    """The returns (n, horizon) as linear in features of x (n, horizon, ...) and time, fitted to the valid steps.

    Duan et al. 2016, section 5 of the supplement.
    """
    n, horizon = returns.shape
    observed = jnp.clip(x.reshape(n, horizon, -1), -10, 10)
    time = jnp.broadcast_to(jnp.arange(horizon)[None, :, None] / 100, (n, horizon, 1))
    features = jnp.concatenate([observed, observed**2, time, time**2, time**3, jnp.ones_like(time)], -1)
    d = features.shape[-1]
    rows = jnp.where(valid[:, :, None], features, 0).reshape(-1, d)
    targets = jnp.where(valid, returns, 0).reshape(-1)
    return features @ least_squares(rows, targets, ridge)


def least_squares(a: Array, b: Array, ridge: float) -> Array:
    """a (n, d), b (n,) -> w (d,), the least of |a w - b|^2 + ridge |w|^2.

    By modified Gram-Schmidt, for the normal equations lose in float32 what the ridge is to keep. Not by LAPACK: on a
    CPU two batches of its decompositions at once, in one program or on two devices, can wait for each other for ever.
    """
    d = a.shape[1]
    whole = jnp.concatenate([jnp.column_stack([a, b]), math.sqrt(ridge) * jnp.eye(d, d + 1)])  # the target is a column

    def orthogonal(k: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        whole, r = found
        q = whole[:, k] / jnp.linalg.norm(whole[:, k])
        row = jnp.where(jnp.arange(d + 1) >= k, q @ whole, 0)
        return whole - jnp.outer(q, row), r.at[k].set(row)

    _, r = jax.lax.fori_loop(0, d, orthogonal, (whole, jnp.zeros((d, d + 1))))

    def backwards(i: Array, w: Array) -> Array:
        k = d - 1 - i
        return w.at[k].set((r[k, d] - r[k, :d] @ w) / r[k, k])

    return jax.lax.fori_loop(0, d, backwards, jnp.zeros(d))


def loss(self: InEnvironment, outputs: Array, y: Steps) -> tuple[Array, Metrics]:
    """outputs (steps, n_out) -> minus the mean of likelihood ratio times advantage; `return` is the trajectories' mean.

    Schulman et al. 2015, equation 14: at the policy that the steps were collected by, its gradient is the policy's.
    """
    value = mean_of_valid(-ratios(self.policy, outputs, y) * y.advantage, y)
    trajectories = len(y.reward) / self.horizon
    return value, {"loss": value, "return": y.reward.sum() / trajectories}


def inner_loss(self: InEnvironment, outputs: Array, y: Steps) -> Array:
    """() what inner steps follow: three losses of one gradient, whose own derivatives differ.

    `logp`: log-probability times advantage, as Finn et al. 2017; of the second derivatives it lacks a part. `lvc`: each
    step's likelihood ratio (Rothfuss et al. 2019, section 5), which has all of it for a single step, and of little
    variance. `dice`: all of it for trajectories (Foerster et al. 2018, with advantages as Farquhar et al. 2019).
    """
    if self.surrogate == "logp":
        return mean_of_valid(-self.policy.log_probability(outputs, y.action) * y.advantage, y)
    if self.surrogate == "lvc":
        return mean_of_valid(-ratios(self.policy, outputs, y) * y.advantage, y)
    log_ratios = jnp.where(y.valid, _log_ratios(self.policy, outputs, y), 0).reshape(-1, self.horizon)
    so_far = jnp.cumsum(log_ratios, axis=1)
    own = jnp.exp(so_far) - jnp.exp(so_far - log_ratios)  # what an action changes for all that follows it
    return mean_of_valid(-own.reshape(-1) * y.advantage, y)


def by_step(self: InEnvironment, y: Steps) -> Array:
    """(horizon,): the mean over trajectories of the reward of each step; nothing is paid after the end."""
    return y.reward.reshape(-1, self.horizon).mean(0)


def mean_of_valid(values: Array, y: Steps) -> Array:
    return jnp.where(y.valid, values, 0).sum() / y.valid.sum()


def divergence(policy: Policy, outputs: Array, y: Steps) -> Array:
    """(): the mean over steps of KL(policy that collected them || policy of `outputs`)."""
    return mean_of_valid(policy.divergence(y.outputs, outputs), y)


def entropy(policy: Policy, outputs: Array, y: Steps) -> Array:
    """(): the mean over steps."""
    return mean_of_valid(policy.entropy(outputs), y)


def ratios(policy: Policy, outputs: Array, y: Steps) -> Array:
    """(steps,): how much likelier the actions are now than when they were drawn; 1 after a trajectory's end."""
    return jnp.exp(jnp.where(y.valid, _log_ratios(policy, outputs, y), 0))


def _log_ratios(policy: Policy, outputs: Array, y: Steps) -> Array:
    before = policy.log_probability(y.outputs, y.action)
    return policy.log_probability(outputs, y.action) - jax.lax.stop_gradient(before)
