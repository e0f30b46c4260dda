"""MAML's gradients against closed forms, finite differences and their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import LINEAR, classifier, episodes, learners_with, on_blobs, placed

from metarun import inner
from metarun.core import Batch, ConfigError, Episode
from metarun.learners.maml import MAML
from metarun.run import train


def maml(**changes: object) -> MAML:
    base = MAML(inner_lr=0.1, inner_steps=1, inner_optimizer="sgd", inner_loss="mean", first_order=False, freeze=())
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_descent_on_a_quadratic_has_a_closed_form(steps):
    a, lr = 3.0, 0.2
    end = lambda x: inner.descend(lambda x, _: 0.5 * a * x**2, x, optax.sgd(lr), steps, first_order=False)  # noqa: E731
    np.testing.assert_allclose(end(2.0), 2.0 * (1 - lr * a) ** steps, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(end)(2.0), (1 - lr * a) ** steps, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_descent_passes_the_gradient_through(steps):
    end = lambda x: inner.descend(lambda x, _: 0.5 * 3 * x**2, x, optax.sgd(0.2), steps, first_order=True)  # noqa: E731
    np.testing.assert_allclose(jax.grad(end)(2.0), 1.0)


def test_descent_with_a_traced_number_of_steps_is_the_same():
    descend = lambda n: inner.descend(lambda x, _: jnp.cosh(x), 1.5, optax.sgd(0.3), n, first_order=False)  # noqa: E731
    for n in (0, 1, 4):
        np.testing.assert_allclose(jax.jit(descend)(n), descend(n), rtol=1e-6)


def test_linear_regression_meta_gradient_in_closed_form():
    """One step on mean squares: w' = A w + c with A = I - (2 a / n) X'X, so the meta-gradient is A' g(w')."""
    k_support, k_query, k_w = jax.random.split(jax.random.key(0), 3)
    support = Batch(jax.random.normal(k_support, (5, 2)), jnp.ones((5, 1)))
    query = Batch(jax.random.normal(k_query, (4, 2)), jnp.zeros((4, 1)))
    learner, params = maml(inner_lr=0.3), LINEAR.init(k_w, support.x)
    one = jax.tree.map(lambda leaf: leaf[None], Episode(support, query))
    grads, _ = jax.jit(lambda *a: learner.meta_grad(LINEAR, *a))(params, one, jax.random.key(1)[None], 0)

    w, xs, xq = params["layer"]["w"], np.asarray(support.x), np.asarray(query.x)
    step = np.eye(2) - 0.3 * 2 / 5 * xs.T @ xs
    adapted = step @ w + 0.3 * 2 / 5 * xs.T @ support.y
    np.testing.assert_allclose(grads["layer"]["w"], step.T @ (2 / 4 * xq.T @ (xq @ adapted)), rtol=1e-4)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("freeze", [(), ("hidden",)])
def test_second_order_meta_gradient_equals_finite_differences(inner_steps, freeze):
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        k_net, k_episodes, k_adapt = jax.random.split(jax.random.key(2), 3)
        net, batch = classifier(3), episodes(4, 3, k_episodes)
        learner = maml(inner_steps=inner_steps, inner_lr=0.5, freeze=freeze)
        params, keys = net.init(k_net, batch.support.x[0]), jax.random.split(k_adapt, 4)

        def outer(params):
            def one(episode, key):
                fast = learner.adapt(net, params, episode.support, key)
                return net.loss(learner.predict(net, fast, episode.query.x), episode.query.y)[0]

            return jnp.mean(jax.vmap(one)(batch, keys))

        grads, metrics = jax.jit(lambda *a: learner.meta_grad(net, *a))(params, batch, keys, 0)
        np.testing.assert_allclose(metrics["loss"], jax.jit(outer)(params), rtol=1e-12)
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        got, _ = jax.flatten_util.ravel_pytree(grads)
        outer_of = jax.jit(lambda v: outer(unravel(v)))
        eps = 1e-5
        for i in range(0, flat.size, 5):
            shift = jnp.zeros_like(flat).at[i].set(eps)
            difference = (outer_of(flat + shift) - outer_of(flat - shift)) / (2 * eps)
            np.testing.assert_allclose(got[i], difference, rtol=1e-6, atol=1e-9)


def test_fomaml_is_the_query_gradient_at_the_adapted_parameters():
    k_net, k_episodes, k_adapt = jax.random.split(jax.random.key(3), 3)
    net, batch = classifier(3), episodes(2, 3, k_episodes)
    learner, keys = maml(first_order=True, inner_steps=3), jax.random.split(k_adapt, 2)
    params = net.init(k_net, batch.support.x[0])
    grads, _ = jax.jit(lambda *a: learner.meta_grad(net, *a))(params, batch, keys, 0)

    def by_definition(i):
        support, query, *_ = jax.tree.map(lambda v: v[i], batch)
        fast = learner.adapt(net, params, support, keys[i])
        return jax.grad(lambda p: net.loss(net.apply(p, query.x), query.y)[0])(fast)

    expected = jax.tree.map(lambda a, b: (a + b) / 2, by_definition(0), by_definition(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, expected)


def test_first_and_second_order_differ_where_curvature_does_not_vanish():
    k_net, k_episodes, k_adapt = jax.random.split(jax.random.key(3), 3)
    net, batch, keys = classifier(3), episodes(2, 3, k_episodes), jax.random.split(k_adapt, 2)
    params = net.init(k_net, batch.support.x[0])
    first, second = (
        jax.jit(lambda *a, order=order: maml(first_order=order, inner_lr=0.5).meta_grad(net, *a))(
            params, batch, keys, 0
        )[0]
        for order in (True, False)
    )
    assert np.abs(first["hidden"]["w"] - second["hidden"]["w"]).max() > 1e-3


@pytest.mark.parametrize("ways", [2, 5])
def test_sum_over_shots_multiplies_the_effective_step_by_the_ways(ways):
    k_net, k_episodes = jax.random.split(jax.random.key(4))
    net, support = classifier(ways), jax.tree.map(lambda v: v[0], episodes(1, ways, k_episodes)).support
    params = net.init(k_net, support.x)
    learners = maml(inner_loss="sum_over_shots", inner_lr=0.1), maml(inner_loss="mean", inner_lr=0.1 * ways)
    adapted, expected = jax.jit(lambda p: [learner.adapt(net, p, support, None) for learner in learners])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), adapted, expected)


def test_a_regression_has_no_ways_to_multiply_by():
    support = Batch(jnp.ones((4, 2)), jnp.ones((4, 3)))
    params, net = {"layer": {"w": jnp.zeros((2, 3))}}, LINEAR._replace(n_out=3)
    adapted = [maml(inner_loss=form).adapt(net, params, support, None) for form in ("mean", "sum_over_shots")]
    np.testing.assert_array_equal(adapted[0]["layer"]["w"], adapted[1]["layer"]["w"])


def test_frozen_parameters_are_meta_learned_but_not_adapted():
    k_net, k_episodes, k_adapt = jax.random.split(jax.random.key(5), 3)
    net, batch = classifier(3), episodes(1, 3, k_episodes)
    learner, params = maml(freeze=("hidden",)), net.init(k_net, batch.support.x[0])
    support = jax.tree.map(lambda v: v[0], batch).support
    fast = jax.jit(lambda params: learner.adapt(net, params, support, None))(params)
    np.testing.assert_array_equal(fast["hidden"]["w"], params["hidden"]["w"])
    assert np.abs(fast["head"]["kernel"] - params["head"]["kernel"]).max() > 0
    grads, _ = jax.jit(lambda *a: learner.meta_grad(net, *a))(params, batch, k_adapt[None], 0)
    assert np.abs(grads["hidden"]["w"]).max() > 0


@pytest.mark.parametrize("learner", learners_with("freeze"))
def test_what_freezes_nothing_is_refused_before_training_naming_what_there_is(tmp_path, learner):
    run = placed(on_blobs(f"learner={learner}", "learner.freeze=[head,nosuchlayer]", "logger=none"), tmp_path / "run")
    with pytest.raises(ConfigError) as refused:
        train.train(run)
    said = "learner.freeze=['head', 'nosuchlayer']: 'nosuchlayer' is in no parameter's path; there are: dense0, head"
    assert str(refused.value) == said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_all_learners_that_freeze_are_tried():
    assert {"boil", "fomaml", "maml"} <= set(learners_with("freeze"))
