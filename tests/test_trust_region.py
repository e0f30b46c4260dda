"""The trust region against closed forms, and its problem against plain derivatives through the adaptation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import close, run_of

from metarun import trust_region
from metarun.core import ConfigError
from metarun.engine.net import make_net
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


@pytest.mark.parametrize("learner", ["maml", pytest.param("meta_sgd", marks=pytest.mark.slow)])
def test_the_problem_is_that_of_the_learners_own_meta_gradient(learner):
    """At its start the loss and its gradient are the learner's, and the curvature is the divergence's Hessian."""
    run = run_of(*SMALL, f"learner={learner}", "learner.inner_steps=2", "task.surrogate=dice")
    net = make_net(run.model, run.tasks, run.tasks.n_out)
    keys = jax.random.split(jax.random.key(0), 2)
    episodes = jax.vmap(lambda key: run.tasks.sample((), jax.random.clone(key)))(keys)
    params = run.learner.init(net, jax.random.key(1), episodes.support.x[0])
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)  # at 0, where trajectories begin, ReLU has a kink
    direction = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), params)

    @jax.jit
    def both(params, keys):
        recorded = jax.vmap(partial(trust_region.record, run.learner, net, params))(episodes, keys)
        found = trust_region.problem_of(run.learner, net, params, lambda f: f(recorded), recorded)
        grads, metrics = run.learner.meta_grad(net, params, episodes, jax.random.clone(keys), 0)
        slope = jax.grad(lambda params: found.judge(params)[0])(params)

        def along(params):
            grad = jax.grad(lambda params: found.judge(params)[1])(params)
            return trust_region.inner_product(grad, direction)

        return (metrics["loss"], 0.0, grads, jax.grad(along)(params)), (
            *found.judge(params),
            slope,
            found.curvature(direction),
        )

    expected, found = both(params, keys)
    close(found, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(jax.tree.leaves(found[3])[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("task=sinusoid", "learner=maml"), "is for policies, and sinusoid has none; use adam or sgd"),
        (("task=navigation", "learner=finetune"), "anil or meta_sgd, not finetune; use adam"),
    ],
)
def test_what_has_no_trust_region_is_told_in_a_line(settings, said):
    with pytest.raises(ConfigError, match=said):
        run_of(*settings, "optimizer=trpo")
