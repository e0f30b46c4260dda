"""Reinforcement learning's parts against closed forms, plain loops and sums over all trajectories."""

from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarun import acting
from metarun.acting import Steps
from metarun.core import memoryless
from metarun.policies import CATEGORICAL, GAUSSIAN
from metarun.tasks.navigation import Navigation

LENGTHS = np.array([7, 3, 1, 5])
VALID = np.arange(7)[None] < LENGTHS[:, None]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 7, 2)).astype(np.float32)
REWARD = np.where(VALID, RNG.normal(size=(4, 7)), 0).astype(np.float32)


def returns_by_a_loop(reward, discount):
    found = np.zeros_like(reward)
    for i, row in enumerate(reward):
        for t in range(len(row)):
            found[i, t] = sum(discount**k * r for k, r in enumerate(row[t:]))
    return found


def test_what_follows_is_summed_as_by_a_loop():
    found = jax.jit(acting.discounted)(REWARD, 0.9)
    np.testing.assert_allclose(found, returns_by_a_loop(REWARD, 0.9), rtol=1e-5, atol=1e-6)


def test_the_baseline_is_numpys_least_squares_over_the_valid_steps():
    returns = returns_by_a_loop(REWARD, 0.9)
    time = np.broadcast_to(np.arange(7)[None, :, None] / 100, (4, 7, 1))
    features = np.concatenate([X, X**2, time, time**2, time**3, np.ones_like(time)], -1).astype(float)
    a = np.concatenate([features[VALID], np.sqrt(1e-5) * np.eye(8)])
    b = np.concatenate([returns[VALID], np.zeros(8)])
    expected = features @ np.linalg.lstsq(a, b, rcond=None)[0]
    found = jax.jit(acting.baseline)(X, returns, VALID)
    np.testing.assert_allclose(np.asarray(found)[VALID], expected[VALID], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.7])
def test_advantages_are_a_loops(gae_lambda):
    values = np.asarray(jax.jit(acting.baseline)(X, jax.jit(acting.discounted)(REWARD, 0.9), VALID))
    expected = np.zeros_like(REWARD)
    for i, n in enumerate(LENGTHS):
        for t in range(n):
            for k in range(t, n):
                after = values[i, k + 1] if k + 1 < n else 0
                expected[i, t] += (0.9 * gae_lambda) ** (k - t) * (REWARD[i, k] + 0.9 * after - values[i, k])
    own = expected[VALID]
    found = np.asarray(jax.jit(acting.advantages)(X, REWARD, VALID, 0.9, gae_lambda))
    np.testing.assert_allclose(found[VALID], (own - own.mean()) / own.std(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found[~VALID], 0)


NAVIGATION = Navigation(shots=3, queries=2, horizon=12, discount=0.99, gae_lambda=1.0, surrogate="logp")


def towards(goal):
    """A policy that goes to the goal, nearly without noise."""

    def act(x):
        mean = 7 * (goal[None] - x)
        return jnp.concatenate([mean, jnp.full_like(mean, -12.0)], -1)

    return memoryless(act)


def test_trajectories_are_those_of_a_plain_environment():
    source = jax.jit(lambda key: NAVIGATION.sample((), key))(jax.random.key(0)).support
    goal = np.asarray(source.y[0])
    x, y = jax.jit(lambda key: NAVIGATION.collect(source, towards(source.y[0]), key))(jax.random.key(1))
    at, seen, rewards, ended = np.zeros(2), [], [], False
    for _ in range(12):
        seen.append(at)
        if ended:
            rewards.append(0)
            continue
        at = at + np.clip(0.1 * 7 * (goal - at), -0.1, 0.1)
        rewards.append(-np.linalg.norm(at - goal))
        ended = bool((np.abs(at - goal) < 0.01).all())
    assert ended
    np.testing.assert_allclose(x, np.tile(seen, (3, 1)), atol=1e-4)
    np.testing.assert_allclose(y.reward, np.tile(rewards, 3), atol=1e-4)
    np.testing.assert_array_equal(y.valid, np.tile(np.array(rewards) != 0, 3))
    _, metrics = jax.jit(NAVIGATION.loss)(y.outputs, y)
    np.testing.assert_allclose(metrics["return"], sum(rewards), rtol=1e-3)


def test_the_gradient_of_a_linear_policy_is_the_analytic_one_whatever_inner_steps_follow():
    n, log_std = 6, jnp.array([0.3, -0.2])
    x, action = RNG.normal(size=(n, 3)).astype(np.float32), RNG.normal(size=(n, 2)).astype(np.float32)
    w = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    valid = np.array([1, 1, 1, 1, 1, 0], bool)  # two trajectories of three steps, the second one shorter

    def outputs(w):
        return jnp.concatenate([x @ w, jnp.broadcast_to(log_std[None], (n, 2))], -1)

    advantage = jnp.asarray(np.where(valid, RNG.normal(size=n), 0), jnp.float32)
    y = Steps(action, outputs(w), jnp.zeros(n), advantage, jnp.asarray(valid))
    residual = (action - x @ np.asarray(w)) / np.exp(2 * np.asarray(log_std))
    expected = -(x * np.asarray(advantage)[:, None]).T @ residual / 5
    for surrogate in ("logp", "lvc", "dice"):
        of = SimpleNamespace(policy=GAUSSIAN, horizon=3, surrogate=surrogate)
        inner_loss, loss = (
            jax.jit(jax.grad(lambda w, of=of, f=f: f(of, outputs(w), y)))(w)
            for f in (acting.inner_loss, lambda *given: acting.loss(*given)[0])
        )
        np.testing.assert_allclose(inner_loss, expected, rtol=1e-4, atol=1e-5, err_msg=surrogate)
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5, err_msg=surrogate)


# Two actions at each step; what is seen is how many of the actions before were 1.
LOGITS = np.float32([[0.3, -0.4], [0.1, 0.5]])
PRIZES = np.array([[0.2, 1.0], [-0.7, 0.4]])  # by step and action; the second counts twice after a first 1


def exact_and_expected(surrogate, horizon):
    """The Hessian of the expected return, summed over all trajectories, and the expected one of the surrogate."""
    every = list(product(range(2), repeat=horizon))

    def rewards(actions):
        return np.array([PRIZES[t, a] * (2 if t and actions[0] else 1) for t, a in enumerate(actions)], np.float32)

    def probability(logits, actions):
        log_p = jax.nn.log_softmax(logits)
        return jnp.exp(sum(log_p[t, a] for t, a in enumerate(actions)))

    def expected_return(logits):
        return sum(probability(logits, actions) * float(rewards(actions).sum()) for actions in every)

    of = SimpleNamespace(policy=CATEGORICAL, horizon=horizon, surrogate=surrogate)

    def surrogate_of(logits, actions):
        to_go = jnp.asarray(rewards(actions)[::-1].cumsum()[::-1].copy())
        old = LOGITS[:horizon]
        y = Steps(jnp.array(actions), old, jnp.zeros(horizon), to_go, jnp.ones(horizon, bool))
        return -horizon * acting.inner_loss(of, logits[:horizon], y)

    hessian = jax.jit(jax.hessian(expected_return))(LOGITS)
    log_p = np.asarray(LOGITS) - np.log(np.exp(np.asarray(LOGITS)).sum(1, keepdims=True))
    weights = [float(np.exp(sum(log_p[t, a] for t, a in enumerate(actions)))) for actions in every]
    expected = lambda logits: sum(w * surrogate_of(logits, one) for w, one in zip(weights, every, strict=True))  # noqa: E731
    return hessian, jax.jit(jax.hessian(expected))(LOGITS)


def test_dice_has_all_of_the_second_derivatives_lvc_those_of_a_single_step_and_logp_not_even_these():
    for surrogate, horizon, whole in (("dice", 2, True), ("lvc", 1, True), ("lvc", 2, False), ("logp", 1, False)):
        exact, expected = exact_and_expected(surrogate, horizon)
        assert np.allclose(exact, expected, atol=1e-5) == whole, (surrogate, horizon)


def test_the_divergence_of_policies_is_the_mean_of_the_ratio_of_their_densities():
    old, new = np.float32([[0.2, -0.1, 0.1, -0.3]]), np.float32([[0.5, 0.0, 0.0, 0.2]])

    @jax.jit
    def both(key):
        many = jnp.broadcast_to(old, (200_000, 4))
        actions = GAUSSIAN.sample(many, key)
        of_new = GAUSSIAN.log_probability(jnp.broadcast_to(new, many.shape), actions)
        return (GAUSSIAN.log_probability(many, actions) - of_new).mean(), GAUSSIAN.divergence(old, new)[0]

    np.testing.assert_allclose(*both(jax.random.key(0)), atol=5e-3)
    p, q = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    found = jax.jit(CATEGORICAL.divergence)(LOGITS[:1], LOGITS[1:])
    np.testing.assert_allclose(found, [(p * np.log(p / q)).sum()], rtol=1e-5)


def test_the_entropy_of_a_policy_is_the_mean_of_what_an_action_tells():
    outputs = np.float32([[0.2, -0.1, 0.1, -0.3]])

    @jax.jit
    def both(key):
        many = jnp.broadcast_to(outputs, (200_000, 4))
        return GAUSSIAN.entropy(outputs)[0], -GAUSSIAN.log_probability(many, GAUSSIAN.sample(many, key)).mean()

    np.testing.assert_allclose(*both(jax.random.key(0)), atol=5e-3)
    every = np.arange(LOGITS.shape[1])
    log_probability, entropy = jax.jit(CATEGORICAL.log_probability), jax.jit(CATEGORICAL.entropy)
    for logits in LOGITS:
        surprise = -log_probability(np.broadcast_to(logits, (len(every), len(every))), every)
        expected = (np.exp(logits) / np.exp(logits).sum() * surprise).sum()
        np.testing.assert_allclose(entropy(logits[None])[0], expected, rtol=1e-5)
