"""MAML's gradients against closed forms, finite differences and their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from support import LINEAR, classifier, episodes, learners_with, on_blobs, one_of, placed

from metarun import inner
from metarun.core import Batch, ConfigError, Episode
from metarun.learners.maml import MAML
from metarun.run import train

NET = classifier(3)


def maml(**changes: object) -> MAML:
    base = MAML(inner_lr=0.1, inner_steps=1, inner_optimizer="sgd", inner_loss="mean", first_order=False, freeze=())
    return dataclasses.replace(base, **changes)


def begun():
    """What MAML begins with: of the net, compiled once."""
    return jax.device_get(jax.jit(NET.init)(jax.random.key(3), np.zeros((1, 3))))


def keys():
    """Two tasks' keys: each is used once only."""
    return jax.random.split(jax.random.key(5), 2)


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_descent_on_a_quadratic_has_a_closed_form(steps):
    a, lr = 3.0, 0.2
    end = lambda x: inner.descend(lambda x, _: 0.5 * a * x**2, x, optax.sgd(lr), steps, first_order=False)  # noqa: E731
    found, slope = jax.jit(jax.value_and_grad(end))(2.0)
    np.testing.assert_allclose(found, 2.0 * (1 - lr * a) ** steps, rtol=1e-5)
    np.testing.assert_allclose(slope, (1 - lr * a) ** steps, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_descent_passes_the_gradient_through(steps):
    end = lambda x: inner.descend(lambda x, _: 0.5 * 3 * x**2, x, optax.sgd(0.2), steps, first_order=True)  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.grad(end))(2.0), 1.0)


def test_descent_with_a_traced_number_of_steps_is_the_same():
    descend = lambda n: inner.descend(lambda x, _: jnp.cosh(x), 1.5, optax.sgd(0.3), n, first_order=False)  # noqa: E731
    for n in (0, 1, 4):
        np.testing.assert_allclose(jax.jit(descend)(n), descend(n), rtol=1e-6)


def test_linear_regression_meta_gradient_in_closed_form():
    """One step on mean squares: w' = A w + c with A = I - (2 a / n) X'X, so the meta-gradient is A' g(w')."""
    draw = np.random.default_rng(0)
    xs, xq, w = (np.float32(draw.normal(size=shape)) for shape in ((5, 2), (4, 2), (2, 1)))
    support, query = Batch(xs, np.ones((5, 1), np.float32)), Batch(xq, np.zeros((4, 1), np.float32))
    learner, params = maml(inner_lr=0.3), {"layer": {"w": w}}
    one = jax.tree.map(lambda leaf: leaf[None], Episode(support, query))
    grads, _ = jax.jit(lambda *a: learner.meta_grad(LINEAR, *a))(params, one, jax.random.key(1)[None], 0)

    step = np.eye(2) - 0.3 * 2 / 5 * xs.T @ xs
    adapted = step @ w + 0.3 * 2 / 5 * xs.T @ support.y
    np.testing.assert_allclose(grads["layer"]["w"], step.T @ (2 / 4 * xq.T @ (xq @ adapted)), rtol=1e-4)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("freeze", [(), ("hidden",)])
def test_second_order_meta_gradient_equals_finite_differences(inner_steps, freeze):
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        batch, keys = episodes(4, 3), jax.random.split(jax.random.key(2), 4)
        learner = maml(inner_steps=inner_steps, inner_lr=0.5, freeze=freeze)
        params = begun()
        flat, unravel = ravel_pytree(params)

        @jax.jit
        def outer(flat, batch):
            def one(episode, key):
                fast = learner.adapt(NET, unravel(flat), episode.support, key)
                return NET.loss(learner.predict(NET, fast, episode.query.x), episode.query.y)[0]

            return jnp.mean(jax.vmap(one)(batch, keys))

        grads, metrics = jax.jit(lambda *a: learner.meta_grad(NET, *a))(params, batch, keys, 0)
        np.testing.assert_allclose(metrics["loss"], outer(flat, batch), rtol=1e-12)
        got, flat = np.asarray(ravel_pytree(grads)[0]), np.asarray(flat)
        eps = 1e-5
        for i in range(0, flat.size, 5):
            shift = eps * np.eye(flat.size)[i]
            difference = (outer(flat + shift, batch) - outer(flat - shift, batch)) / (2 * eps)
            np.testing.assert_allclose(got[i], difference, rtol=1e-6, atol=1e-9)


def test_fomaml_is_the_query_gradient_at_the_adapted_parameters():
    batch, learner = episodes(2, 3), maml(first_order=True, inner_steps=3)
    grads, _ = jax.jit(lambda *a: learner.meta_grad(NET, *a))(begun(), batch, keys(), 0)

    @jax.jit
    def by_definition(params, episode, key):
        fast = learner.adapt(NET, params, episode.support, key)
        return jax.grad(lambda p: NET.loss(NET.apply(p, episode.query.x), episode.query.y)[0])(fast)

    of_each = (by_definition(begun(), one_of(batch, i), keys()[i]) for i in range(2))
    expected = jax.tree.map(lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, *of_each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, expected)


def test_first_and_second_order_differ_where_curvature_does_not_vanish():
    batch = episodes(2, 3)
    first, second = (
        jax.jit(lambda *a, order=order: maml(first_order=order, inner_lr=0.5).meta_grad(NET, *a))(
            begun(), batch, keys(), 0
        )[0]
        for order in (True, False)
    )
    assert np.abs(first["hidden"]["w"] - second["hidden"]["w"]).max() > 1e-3


@pytest.mark.parametrize("ways", [2, 5])
def test_sum_over_shots_multiplies_the_effective_step_by_the_ways(ways):
    net, support = classifier(ways), one_of(episodes(1, ways)).support
    params = jax.jit(net.init)(jax.random.key(4), support.x)
    learners = maml(inner_loss="sum_over_shots", inner_lr=0.1), maml(inner_loss="mean", inner_lr=0.1 * ways)
    adapted, expected = jax.jit(lambda p: [learner.adapt(net, p, support, None) for learner in learners])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), adapted, expected)


def test_a_regression_has_no_ways_to_multiply_by():
    support = Batch(np.ones((4, 2), np.float32), np.ones((4, 3), np.float32))
    params, net = {"layer": {"w": np.zeros((2, 3), np.float32)}}, LINEAR._replace(n_out=3)
    learners = [maml(inner_loss=form) for form in ("mean", "sum_over_shots")]
    adapted = jax.jit(lambda params: [learner.adapt(net, params, support, None) for learner in learners])(params)
    np.testing.assert_array_equal(adapted[0]["layer"]["w"], adapted[1]["layer"]["w"])


def test_frozen_parameters_are_meta_learned_but_not_adapted():
    batch, learner, params = episodes(1, 3), maml(freeze=("hidden",)), begun()
    fast = jax.jit(lambda params: learner.adapt(NET, params, one_of(batch).support, None))(params)
    np.testing.assert_array_equal(fast["hidden"]["w"], params["hidden"]["w"])
    assert np.abs(fast["head"]["kernel"] - params["head"]["kernel"]).max() > 0
    grads, _ = jax.jit(lambda *a: learner.meta_grad(NET, *a))(params, batch, keys()[:1], 0)
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
