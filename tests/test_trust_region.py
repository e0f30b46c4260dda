"""The trust region against closed forms, and its problem against plain derivatives through the adaptation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import close, run_of

from metarun import recorded, trust_region
from metarun.core import ConfigError
from metarun.engine.net import make_net
from metarun.learners.rl2 import RL2
from metarun.memories.attention import Attention
from metarun.memories.gru import GRU
from metarun.models.mlp import MLP
from metarun.tasks.bandits import Bandits
from metarun.trust_region import Problem, TrustRegion

A = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
H = A @ A.T + np.eye(5, dtype=np.float32)
G = np.arange(1, 6, dtype=np.float32)
OUTER = TrustRegion(divergence=0.01, iterations=10, damping=0.0, backtracks=4, shrink=0.5)


def test_conjugate_gradients_solve():
    found = trust_region.conjugate_gradient(lambda v: jnp.asarray(H) @ v, jnp.asarray(G), 8)
    np.testing.assert_allclose(found, np.linalg.solve(H, G), rtol=1e-3, atol=1e-4)


def problem(loss):
    return Problem(lambda v: jnp.asarray(H) @ v, lambda x: (loss(x), x @ jnp.asarray(H) @ x / 2))


def test_a_step_goes_as_far_as_the_divergence_allows():
    update, _ = jax.jit(lambda x: OUTER.update(jnp.asarray(G), (), x, problem(lambda x: x @ jnp.asarray(G))))(
        jnp.zeros(5)
    )
    whole = -np.linalg.solve(H, G) * np.sqrt(0.02 / (G @ np.linalg.solve(H, G)))
    # The divergence at the end is 0.01, give or take rounding: the whole step, or the first shorter one.
    share = np.linalg.norm(update) / np.linalg.norm(whole)
    np.testing.assert_allclose(min(abs(share - 1), abs(share - 0.5)), 0, atol=1e-3)
    np.testing.assert_allclose(update, share * whole, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("longest", "tried"), [(0.3, 2), (0.0, None)])
def test_a_step_is_shortened_until_the_loss_is_lower_or_not_made(longest, tried):
    whole = np.sqrt(0.02 / (G @ np.linalg.solve(H, G))) * np.linalg.norm(np.linalg.solve(H, G))
    rises = problem(
        lambda x: jnp.where(jnp.linalg.norm(x) > longest * whole, 1.0, jnp.where((x == 0).all(), 0.0, -1.0))
    )
    update, _ = jax.jit(lambda x: OUTER.update(jnp.asarray(G), (), x, rises))(jnp.zeros(5))
    expected = 0 if tried is None else 0.5**tried * whole
    np.testing.assert_allclose(np.linalg.norm(update), expected, rtol=1e-2, atol=1e-7)


SMALL = (
    "task=navigation", "task.shots=3", "task.queries=2", "task.horizon=4", "model.hidden=[3]", "learner.inner_lr=0.3",
)  # fmt: skip


PLANE = (*SMALL, "learner.inner_steps=1", "task.surrogate=dice")
TWO_STEPS = (*PLANE, "learner.inner_steps=2")
TRIALS = ("task=bandits", "task.arms=3", "task.pulls=4", "train.task={queries: 3}")


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        ("maml", PLANE),
        pytest.param("maml", TWO_STEPS, marks=pytest.mark.slow),
        pytest.param("meta_sgd", TWO_STEPS, marks=pytest.mark.slow),
        ("rl2", (*TRIALS, "learner.memory.units=5")),
        pytest.param(
            "rl2_attention", (*TRIALS, "learner.memory.units=4", "learner.memory.blocks=1"), marks=pytest.mark.slow
        ),
    ],
)
def test_the_problem_is_that_of_the_learners_own_meta_gradient(learner, settings):
    """At its start the loss and its gradient are the learner's, and the curvature is the divergence's Hessian."""
    run = run_of(f"learner={learner}", *settings)
    if isinstance(run.learner, RL2):
        run = dataclasses.replace(run, learner=dataclasses.replace(run.learner, value_weight=0.0))
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def start(keys):
        episodes = jax.vmap(lambda key: run.tasks.sample((), jax.random.clone(key)))(keys)
        params = run.learner.init(net, jax.random.key(1), episodes.support.x[0])
        # At 0, where trajectories begin, ReLU has a kink.
        return episodes, jax.tree.map(lambda leaf: leaf + 0.05, params)

    episodes, params = start(keys)
    direction = jax.tree.map(lambda leaf: np.sin(np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape), params)

    @jax.jit
    def both(params, keys):
        every = jax.vmap(partial(recorded.record, run.learner, net, params))(episodes, keys)
        found = trust_region.problem_of(run.learner, net, params, lambda f: f(every), every)
        grads, metrics = run.learner.meta_grad(net, params, episodes, jax.random.clone(keys), 0)
        slope = jax.grad(lambda params: found.judge(params)[0])(params)

        def along(params):
            grad = jax.grad(lambda params: found.judge(params)[1])(params)
            return trust_region.inner_product(grad, direction)

        expected = metrics["loss"], 0.0, grads, jax.grad(along)(params), grads, metrics
        judged = (*found.judge(params), slope, found.curvature(direction))
        return expected, (*judged, *recorded.policy_grad(run.learner, net, params, every))

    expected, found = both(params, keys)
    close(found, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(jax.tree.leaves(found[3])[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("task=sinusoid", "learner=maml"), "is for policies, and sinusoid has none; use adam or sgd"),
        (("task=navigation", "learner=finetune"), "sees no policy's gradient in what finetune follows; use adam"),
    ],
)
def test_what_has_no_trust_region_is_told_in_a_line(settings, said):
    with pytest.raises(ConfigError, match=said):
        run_of(*settings, "optimizer=trpo")


def trials_of(learner, tasks, outer, n):
    """A meta-step's update on n tasks, and what it is made from: net, params, what was collected (n, steps, ...)."""
    net = make_net(MLP((), "none", None), tasks, None)
    k_init, k_tasks, k_adapt = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def step():
        keys = jax.random.split(k_adapt, n)
        episodes = jax.vmap(lambda key: tasks.sample((), key))(jax.random.split(k_tasks, n))
        params = learner.init(net, k_init, episodes.query.x[0])
        params["value"] = jax.tree.map(lambda leaf: leaf + 0.1, params["value"])
        every = jax.vmap(partial(recorded.record, learner, net, params))(episodes, keys)
        problem = trust_region.problem_of(learner, net, params, lambda f: f(every), every)
        grads, _ = recorded.policy_grad(learner, net, params, every)
        return params, every.query, outer.update(grads, (), params, problem)[0]

    return net, *jax.device_get(step())


@pytest.mark.parametrize(
    "memory",
    [GRU(units=6), pytest.param(Attention(units=6, heads=2, blocks=1), marks=pytest.mark.slow)],
    ids=["gru", "attention"],
)
def test_a_policy_with_a_memory_goes_as_far_as_it_may_and_its_critic_to_the_least_squares(memory):
    tasks = Bandits(arms=3, pulls=5, shots=1, queries=4, discount=0.9, gae_lambda=1.0, surrogate="dice")
    learner = RL2(memory, discount=0.9, gae_lambda=0.8, value_weight=0.5)
    outer = dataclasses.replace(OUTER, iterations=20, damping=1e-3, backtracks=10, shrink=0.9)
    net, params, (x, y), update = trials_of(learner, tasks, outer, n=8)
    after = jax.tree.map(np.add, params, update)
    log_p = jax.jit(jax.vmap(lambda params, x: jax.nn.log_softmax(learner.predict(net, params, x)), (None, 0)))
    old, new = (np.asarray(log_p(each, x)) for each in (params, after))
    divergence = (np.exp(old) * (old - new)).sum(-1).mean()
    assert 0.5 * 0.01 <= divergence <= 0.01 * 1.001
    chosen = lambda logs: np.take_along_axis(logs, y.action[..., None], -1)[..., 0]  # noqa: E731
    assert (np.exp(chosen(new) - chosen(old)) * y.advantage).mean() > y.advantage.mean()

    # Targets are what followed each step, given the values before the update: here by a loop.
    read = jax.jit(lambda x: learner.read(net, {**params, "policy": BLANK}, x.reshape(-1, 5)))
    features, values = read(x)
    told = np.pad(np.asarray(values).reshape(-1, 5), ((0, 0), (0, 1)))
    reward = y.reward.reshape(-1, 5)
    targets = told[:, :5].copy()
    for t in range(5):
        for k in range(t, 5):
            targets[:, t] += (0.9 * 0.8) ** (k - t) * (reward[:, k] + 0.9 * told[:, k + 1] - told[:, k])
    rows = np.column_stack([features, np.ones(len(features))])
    hessian = 2 * rows.T @ rows / len(rows)
    slope = 2 * rows.T @ (np.asarray(values) - targets.reshape(-1)) / 5 / len(rows)
    moved = np.concatenate([update["value"]["kernel"][:, 0], update["value"]["bias"]])
    np.testing.assert_allclose(moved, -np.linalg.solve(hessian + 1e-3 * np.eye(7), slope), rtol=1e-2, atol=1e-3)
    assert np.abs(moved).max() > 0.05


# A policy whose outputs are the memory's features.
BLANK = {"kernel": np.eye(6, dtype=np.float32), "bias": np.zeros(6, np.float32)}


def test_a_step_on_a_bandit_of_one_pull_is_the_closed_one():
    """Logits go along what each arm was found to pay, as far as sqrt(2 delta / its variance).

    For F = diag(p) - p p^T has F (q - p q) = what the surrogate's gradient is of q, the rewards weighted by likelihood.
    """
    tasks = Bandits(arms=3, pulls=1, shots=1, queries=2000, discount=1.0, gae_lambda=1.0, surrogate="dice")
    learner = RL2(GRU(units=4), discount=1.0, gae_lambda=1.0, value_weight=0.5)
    outer = dataclasses.replace(OUTER, divergence=1e-4, damping=1e-9, shrink=0.9)
    net, params, (x, y), update = trials_of(learner, tasks, outer, n=1)
    predict = jax.jit(lambda params: learner.predict(net, params, x[0, :1])[0])
    before, after = predict(params), predict(jax.tree.map(np.add, params, update))
    p, advantage, action = np.asarray(jax.nn.softmax(before)), y.advantage[0], y.action[0]
    q = np.array([advantage[action == arm].sum() for arm in range(3)]) / (2000 * p)
    centred = q - p @ q
    whole = centred * np.sqrt(2e-4 / (p @ centred**2))
    moved = np.subtract(after, before)
    moved = moved - p @ moved
    share = np.sqrt((p @ moved**2) / (p @ whole**2))
    assert min(abs(share - 1), abs(share - 0.9)) < 0.02
    np.testing.assert_allclose(moved, share * whole, rtol=0.05, atol=1e-4)
