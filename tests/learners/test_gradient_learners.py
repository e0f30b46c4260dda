"""Gradient-based learners against MAML, closed forms and finite differences: each has a neighbour it reduces to."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import LINEAR, classifier, close, episodes, one_of, run_of

from metarun import freezing, inner
from metarun.core import Batch, ConfigError, Episode, Net
from metarun.engine.net import make_net
from metarun.learners.anil import ANIL
from metarun.learners.finetune import Finetune
from metarun.learners.imaml import IMAML
from metarun.learners.maml import MAML
from metarun.learners.mamlpp import MAMLPP, step_weights
from metarun.learners.meta_sgd import MetaSGD
from metarun.learners.reptile import Reptile, minibatch
from metarun.learners.scratch import Scratch

WAYS, LR = 3, 0.3
BATCH = episodes(2, WAYS)
THETA = jax.device_get(jax.jit(classifier(WAYS).init)(jax.random.key(1), BATCH.support.x[0]))
NET = classifier(WAYS)._replace(init=lambda key, x: THETA)
MAML_ = MAML(inner_lr=LR, inner_steps=2, inner_optimizer="sgd", inner_loss="mean", first_order=False, freeze=())
MAMLPP_OFF = MAMLPP(
    inner_lr=LR, inner_steps=2, inner_loss="mean",
    multi_step_loss=0, learn_inner_lr=False, per_step_norm=False, first_order_steps=0,
)  # fmt: skip


def begun(learner, net, x=BATCH.support.x[0]):
    """What a learner begins with, in one program."""
    return jax.jit(lambda key: learner.init(net, key, x))(jax.random.key(1))


def keys():
    """Two tasks' keys: each is used once only."""
    return jax.random.split(jax.random.key(2), 2)


@cache
def compiled(learner, net):
    return jax.jit(lambda *a: learner.meta_grad(net, *a))


def gradient(learner, params, net=NET, batch=BATCH, step=0):
    return compiled(learner, net)(params, batch, keys()[: len(batch.support.y)], jnp.int32(step))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_anil_is_maml_with_everything_frozen_but_the_head(first_order, optimizer):
    anil = ANIL(inner_lr=LR, inner_steps=2, inner_optimizer=optimizer, inner_loss="mean", first_order=first_order)
    frozen = dataclasses.replace(MAML_, first_order=first_order, freeze=("hidden",), inner_optimizer=optimizer)
    close(gradient(anil, THETA), gradient(frozen, THETA), rtol=1e-4)


@pytest.mark.parametrize("where", ["after", "before"])
def test_a_head_adapts_by_the_whole_models_loss_where_it_is_not_all_that_follows_the_features(where):
    def apply(params, x):
        if where == "after":
            return 3.0 * NET.apply(params, x)
        return jnp.square(NET.features(params, x)) @ params["head"]["kernel"] + params["head"]["bias"][None]

    net = NET._replace(apply=apply)
    support = one_of(BATCH).support
    frozen = dataclasses.replace(MAML_, freeze=("hidden",))
    finetune = Finetune(adapts="head", inner_lr=LR, inner_steps=2, inner_optimizer="sgd")
    expected = jax.jit(lambda params: frozen.adapt(net, params, support, None))(THETA)
    for learner, params in ((ANIL(LR, 2, "sgd", "mean", first_order=False), THETA), (finetune, {"net": THETA})):
        found = jax.jit(lambda params, own=learner: own.adapt(net, params, support, None))(params)
        close(found, expected)


@pytest.mark.parametrize("settings", [("mlp",), ("mlp", "model.norm=batch"), ("conv4",), ("conv4_maxpool",)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_support_set_passes_through_the_body_once_where_the_head_is_all_that_follows(settings, precision):
    run = run_of("learner=anil", *(f"model={settings[0]}", *settings[1:]), f"hardware.precision={precision}")
    net, x = make_net(run.model, run.tasks, 5), jax.ShapeDtypeStruct((5, 28, 28, 1), np.float32)
    assert inner.ends_in_its_head(net, jax.eval_shape(net.init, jax.random.key(0), x), x)


def test_a_head_of_more_ways_than_the_task_adapts_by_the_tasks_own():
    """Trained with five ways and tested with three: the surplus outputs are no classes of the inner loss."""
    net = classifier(5)._replace(n_out=WAYS)
    support = one_of(BATCH).support
    params = jax.device_get(jax.jit(net.init)(jax.random.key(1), support.x))
    for learner in (ANIL(LR, 2, "sgd", "mean", first_order=False), MAML_):
        adapt = jax.jit(lambda params, learner=learner: learner.adapt(net, params, support, None)["head"])
        head = jax.device_get(adapt(params))
        np.testing.assert_array_equal(head["kernel"][:, WAYS:], params["head"]["kernel"][:, WAYS:])
        assert np.abs(head["kernel"] - params["head"]["kernel"])[:, :WAYS].max() > 1e-3


def test_boil_adapts_the_body_under_a_fixed_head():
    run = run_of("learner=boil", "model=mlp", "model.hidden=[8]", "task.ways=3")
    net = make_net(run.model, run.tasks, WAYS)
    support = one_of(BATCH).support
    params = begun(run.learner, net)
    fast = jax.jit(lambda params: run.learner.adapt(net, params, support, None))(params)
    close(fast["head"], params["head"], rtol=0, atol=0)
    assert np.abs(fast["dense0"]["kernel"] - params["dense0"]["kernel"]).max() > 1e-4


def test_meta_sgd_with_equal_steps_is_maml_and_its_steps_have_a_gradient():
    meta_sgd = MetaSGD(inner_lr=LR, inner_steps=2, inner_loss="mean", first_order=False)
    params = meta_sgd.init(NET, jax.random.key(1), BATCH.support.x[0])
    (grads, metrics), expected = gradient(meta_sgd, params), gradient(MAML_, THETA)
    close((grads["theta"], metrics), expected)

    # d/d alpha of one step is -grad L_support o grad L_query(theta'), element by element.
    one = dataclasses.replace(meta_sgd, inner_steps=1)
    support, query, *_ = one_of(BATCH)

    @jax.jit
    def expected(params):
        g_support = jax.grad(inner.support_loss(NET, support, "mean"))(params["theta"])
        g_query = jax.grad(inner.support_loss(NET, query, "mean"))(one.adapt(NET, params, support, None))
        return jax.tree.map(lambda s, q: -s * q, g_support, g_query)

    grads = gradient(one, params, batch=jax.tree.map(lambda v: v[:1], BATCH))[0]
    close(grads["alpha"], expected(params))


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_mamlpp_with_all_switches_off_is_maml(inner_steps):
    mamlpp = dataclasses.replace(MAMLPP_OFF, inner_steps=inner_steps)
    params = mamlpp.init(NET, jax.random.key(1), BATCH.support.x[0])
    grads, metrics = gradient(mamlpp, params)
    expected, of_maml = gradient(dataclasses.replace(MAML_, inner_steps=inner_steps), THETA)
    close((freezing.join(grads["theta"], {}), metrics), (expected, of_maml))


def test_the_multi_step_weights_anneal_to_the_last_step_alone():
    np.testing.assert_allclose(step_weights(jnp.int32(0), 5, 100), [0.2] * 5, rtol=1e-6)
    np.testing.assert_allclose(step_weights(jnp.int32(50), 5, 100), [0.1, 0.1, 0.1, 0.1, 0.6], rtol=1e-6)
    np.testing.assert_allclose(step_weights(jnp.int32(99), 5, 100), [0.006] * 4 + [0.976], rtol=1e-5)
    np.testing.assert_allclose(step_weights(jnp.int32(100), 5, 100), [0, 0, 0, 0, 1], atol=1e-7)


def test_the_multi_step_loss_is_the_weighted_sum_of_the_losses_after_each_step():
    mamlpp = dataclasses.replace(MAMLPP_OFF, multi_step_loss=10)
    params = mamlpp.init(NET, jax.random.key(1), BATCH.support.x[0])
    after = [jax.device_get(gradient(dataclasses.replace(MAML_, inner_steps=n), THETA)[0]) for n in (1, 2)]
    for step, weights in ((0, (0.5, 0.5)), (4, (0.3, 0.7)), (10, (0.0, 1.0))):
        expected = jax.tree.map(lambda a, b, w=weights: w[0] * a + w[1] * b, *after)
        close(freezing.join(gradient(mamlpp, params, step=step)[0]["theta"], {}), expected)


def test_the_losses_whose_weights_have_annealed_to_nothing_are_not_computed():
    """Two tasks, three inner steps: the query loss after each, then only after the last."""
    counted = []

    def loss(outputs, y):
        jax.debug.callback(lambda _: counted.append(1), outputs[0, 0])
        return NET.loss(outputs, y)

    mamlpp = dataclasses.replace(MAMLPP_OFF, inner_steps=3, multi_step_loss=10)
    params = mamlpp.init(NET, jax.random.key(1), BATCH.support.x[0])
    net = NET._replace(loss=loss)
    calls = []
    for step in (9, 10):
        jax.block_until_ready(gradient(mamlpp, params, net, step=step))
        jax.effects_barrier()
        calls.append(len(counted))
        counted.clear()
    tasks = len(BATCH.support.x)
    assert calls[0] - calls[1] == 2 * tasks


def test_mamlpp_begins_with_first_order_gradients():
    mamlpp = dataclasses.replace(MAMLPP_OFF, first_order_steps=5)
    params = mamlpp.init(NET, jax.random.key(1), BATCH.support.x[0])
    first = gradient(dataclasses.replace(MAML_, first_order=True), THETA)[0]
    second = gradient(MAML_, THETA)[0]
    close(freezing.join(gradient(mamlpp, params, step=4)[0]["theta"], {}), first)
    close(freezing.join(gradient(mamlpp, params, step=5)[0]["theta"], {}), second)
    assert np.abs(first["hidden"]["w"] - second["hidden"]["w"]).max() > 1e-3


def test_mamlpp_has_a_step_size_for_every_layer_and_step():
    """Step i of a parameter is its alpha[i]: with alphas a, b on one weight, two steps of descent by hand."""
    mamlpp = dataclasses.replace(MAMLPP_OFF, learn_inner_lr=True)
    params = mamlpp.init(NET, jax.random.key(1), BATCH.support.x[0])
    params["alpha"] = {path: np.float32([0.1, 0.4] if path == "hidden/w" else [0, 0]) for path in params["alpha"]}
    support = one_of(BATCH).support
    grad = jax.jit(jax.grad(inner.support_loss(NET, support, "mean")))
    by_hand = THETA
    for alpha in (0.1, 0.4):
        w = by_hand["hidden"]["w"] - alpha * np.asarray(grad(by_hand)["hidden"]["w"])
        by_hand = {**by_hand, "hidden": {**by_hand["hidden"], "w": w}}
    close(jax.jit(lambda params: mamlpp.adapt(NET, params, support, None))(params), by_hand)


def test_normalisation_per_step_is_meta_learned_for_each_step_and_not_adapted():
    run = run_of("model=mlp", "model.hidden=[8]", "model.norm=batch", "task.ways=3")
    net = make_net(run.model, run.tasks, 3)

    # One step, one normalisation: MAML whose normalisation is frozen.
    one = dataclasses.replace(MAMLPP_OFF, inner_steps=1, per_step_norm=True)
    frozen = dataclasses.replace(MAML_, inner_steps=1, freeze=("norm",))
    grads, _ = jax.device_get(gradient(one, begun(one, net), net))
    expected, _ = gradient(frozen, begun(frozen, net), net)
    close(freezing.join(grads["theta"], jax.tree.map(lambda leaf: leaf[0], grads["norms"])), expected)

    # Two steps: the first's scale acts on the first inner step, the second's on the second and on the prediction.
    two = dataclasses.replace(one, inner_steps=2)
    params = jax.device_get(begun(two, net))
    params["norms"]["norm0/scale"] = np.float32([[1.0] * 8, [2.0] * 8])
    flat, loss = params["theta"], inner.support_loss(net, one_of(BATCH).support, "mean")
    grad = jax.jit(jax.grad(lambda theta, norms: loss(freezing.join(theta, norms))))
    for scale in (1.0, 2.0):
        norms = {"norm0/scale": np.full(8, scale, np.float32), "norm0/bias": np.zeros(8, np.float32)}
        flat = jax.tree.map(lambda p, g: p - LR * np.asarray(g), flat, grad(flat, norms))
    fast = jax.jit(lambda params: two.adapt(net, params, one_of(BATCH).support, None))(params)
    close(fast, freezing.join(flat, norms), rtol=1e-4)


def test_the_multi_step_loss_after_a_step_has_the_normalisation_of_that_step():
    """Step sizes, normalisation and query loss of two inner steps, each with its own index, written out."""
    run = run_of("model=mlp", "model.hidden=[8]", "model.norm=batch", "task.ways=3")
    net = make_net(run.model, run.tasks, 3)
    mamlpp = dataclasses.replace(MAMLPP_OFF, multi_step_loss=10, per_step_norm=True, learn_inner_lr=True)
    params = jax.device_get(begun(mamlpp, net))
    params["norms"] = {path: leaf + np.float32([[0], [0.7]]) for path, leaf in params["norms"].items()}
    params["alpha"] = {path: leaf * np.float32([1, 0.1 / LR]) for path, leaf in params["alpha"].items()}

    def written_out(params, episode):
        support, query, *_ = episode
        theta, total = params["theta"], 0.0
        for i, weight in enumerate((0.3, 0.7)):
            norms = {path: leaf[i] for path, leaf in params["norms"].items()}
            loss = inner.support_loss(net, support, "mean")
            grads = jax.grad(lambda theta, n=norms, loss=loss: loss(freezing.join(theta, n)))(theta)
            theta = {path: leaf - params["alpha"][path][i] * grads[path] for path, leaf in theta.items()}
            total += weight * net.loss(net.apply(freezing.join(theta, norms), query.x), query.y)[0]
        return total

    def mean(params):
        return jax.vmap(written_out, (None, 0))(params, BATCH).mean()

    close(gradient(mamlpp, params, net, step=4)[0], jax.jit(jax.grad(mean))(params), rtol=1e-3)


def test_imaml_on_a_quadratic_is_the_exact_solution():
    """phi* = (A + lambda)^-1 (lambda theta + b), and its derivative by theta is lambda (A + lambda)^-1."""
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        draw = np.random.default_rng(0)
        support, query = (
            Batch(draw.normal(size=(6, 3)), np.ones((6, 1))),
            Batch(draw.normal(size=(6, 3)), np.zeros((6, 1))),
        )
        learner = IMAML(inner_lr=0.2, inner_steps=400, inner_optimizer="sgd", penalty=0.7, cg_steps=20)
        w, x = draw.normal(size=(3, 1)), support.x
        params = {"layer": {"w": w}}
        a, b = 2 / 6 * x.T @ x, 2 / 6 * x.T @ support.y

        def phi(w):
            return jnp.linalg.solve(a + 0.7 * np.eye(3), 0.7 * w + b)

        fast = jax.jit(lambda params: learner.adapt(LINEAR, params, support, None))(params)
        exact = np.linalg.solve(a + 0.7 * np.eye(3), 0.7 * w + b)
        np.testing.assert_allclose(fast["layer"]["w"], exact, rtol=1e-10)
        expected = jax.jit(jax.grad(lambda w: jnp.square(query.x @ phi(w)).mean()))(w)
        one = jax.tree.map(lambda leaf: leaf[None], Episode(support, query))
        grads, _ = gradient(learner, params, LINEAR, one)
        np.testing.assert_allclose(grads["layer"]["w"], expected, rtol=1e-8)


def test_imaml_solves_for_parameters_of_several_types_together():
    learner = IMAML(inner_lr=LR, inner_steps=1, inner_optimizer="sgd", penalty=1.0, cg_steps=5)
    mixed = THETA | {"hidden": jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), THETA["hidden"])}
    grads = gradient(learner, mixed)[0]
    assert jax.tree.map(lambda leaf: leaf.dtype, grads) == jax.tree.map(lambda leaf: leaf.dtype, mixed)
    close(jax.tree.map(np.float32, grads), gradient(learner, THETA)[0], rtol=0.05, atol=0.01)


def test_imaml_memory_does_not_grow_with_the_inner_steps_and_mamls_does():
    support, query = (Batch(np.zeros((2, 6, 40), np.float32), np.zeros((2, 6, 1), np.float32)) for _ in "sq")
    params = {"layer": {"w": np.zeros((40, 1), np.float32)}}
    net = LINEAR._replace(apply=lambda params, x: jnp.tanh(x @ params["layer"]["w"]))

    def temporary_bytes(learner):
        meta_grad = jax.jit(lambda p, b, k: learner.meta_grad(net, p, b, k, 0))
        compiled = meta_grad.lower(params, Episode(support, query), keys()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    imaml = IMAML(inner_lr=LR, inner_steps=4, inner_optimizer="sgd", penalty=1.0, cg_steps=3)
    few, many = (temporary_bytes(dataclasses.replace(imaml, inner_steps=n)) for n in (4, 64))
    assert many <= 1.05 * few
    few, many = (temporary_bytes(dataclasses.replace(MAML_, inner_steps=n)) for n in (4, 64))
    assert many > 4 * few


def test_cavias_context_on_the_first_bias_is_more_inputs_to_the_first_layer():
    run = run_of(
        "learner=cavia", "task=sinusoid", "model.hidden=[8]", "learner.context=4", "learner.layers=[dense0/bias]"
    )
    net = make_net(run.model, run.tasks, 1)
    x, phi = np.linspace(-1, 1, 5, dtype=np.float32)[:, None], np.arange(4, dtype=np.float32)
    params = jax.device_get(begun(run.learner, net, x))
    outputs = jax.jit(lambda params, phi, x: net.apply(run.learner.conditioned(params, phi), x))(params, phi, x)
    wider = {**params["theta"], "dense0": dict(params["theta"]["dense0"])}
    wider["dense0"]["kernel"] = np.concatenate([wider["dense0"]["kernel"], params["maps"]["dense0/bias"]])
    with_context = np.concatenate([x, np.tile(phi[None], (5, 1))], axis=1)
    close(outputs, jax.jit(net.apply)(wider, with_context))


def test_cavia_adapts_the_context_alone_and_begins_at_zero():
    run = run_of("learner=cavia", "model=mlp", "model.hidden=[8]", "learner.inner_steps=1", "learner.context=4")
    net = make_net(run.model, run.tasks, 5)
    support = one_of(BATCH).support
    params = jax.device_get(begun(run.learner, net))
    params["theta"]["dense0"]["bias"] = np.linspace(-0.5, 0.5, 8, dtype=np.float32)  # the context is added to it
    grad = jax.device_get(jax.jit(jax.grad(inner.support_loss(net, support, "mean")))(params["theta"]))
    phi = -run.learner.inner_lr * params["maps"]["dense0/bias"] @ grad["dense0"]["bias"]  # one step from zero
    fast = jax.jit(lambda params: run.learner.adapt(net, params, support, None))(params)
    shifted = {**params["theta"], "dense0": dict(params["theta"]["dense0"])}
    shifted["dense0"]["bias"] = shifted["dense0"]["bias"] + phi @ params["maps"]["dense0/bias"]
    close(fast, shifted)


REPTILE = Reptile(inner_lr=LR, inner_steps=1, inner_batch=2 * WAYS, inner_optimizer="sgd")


def test_reptile_with_one_step_on_all_of_the_support_set_is_the_support_gradient():
    grads, _ = gradient(REPTILE, THETA)
    of_support = jax.jit(lambda support: jax.grad(inner.support_loss(NET, support, "mean"))(THETA))
    of_task = [jax.device_get(of_support(one_of(BATCH, i).support)) for i in range(2)]
    close(grads, jax.tree.map(lambda a, b: LR * (a + b) / 2, *of_task))


def test_reptile_is_the_way_from_the_initialisation_to_the_mean_of_the_adapted_parameters():
    learner = dataclasses.replace(REPTILE, inner_steps=3, inner_batch=4, inner_optimizer="adam", inner_lr=0.01)
    grads, _ = gradient(learner, THETA)
    adapt = jax.jit(lambda support, key: learner.adapt(NET, THETA, support, key))
    fast = [jax.device_get(adapt(one_of(BATCH, i).support, keys()[i])) for i in range(2)]
    close(grads, jax.tree.map(lambda p, a, b: p - (a + b) / 2, THETA, *fast), rtol=1e-4)


KEPT = dataclasses.replace(REPTILE, inner_steps=2, inner_optimizer="adam", inner_lr=0.01, moments="kept")


def test_kept_moments_go_on_where_the_tasks_before_left_them():
    """Two tasks of the same examples, one after the other from where the first came to, are one of twice the steps."""
    learner, key = dataclasses.replace(KEPT, inner_batch=1), jax.random.key(3)
    support = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0, :1]), BATCH.support
    )  # one example: every mini-batch is alike
    params = learner.init(NET, jax.random.key(1), support.x)
    trained = jax.jit(lambda params: learner.trained(NET, params, support, key))
    after = trained(trained(params))
    new = dataclasses.replace(learner, moments="new", inner_steps=4)
    close(after["theta"], jax.jit(lambda theta: new.adapt(NET, theta, support, key))(params["theta"]), rtol=1e-4)
    assert float(after["adam"]["steps"]) == 4
    new = dataclasses.replace(new, inner_steps=2)
    again = jax.jit(lambda theta: new.adapt(NET, theta, support, key))(trained(params)["theta"])
    assert not np.allclose(after["theta"]["head"]["kernel"], again["head"]["kernel"], rtol=1e-3)


def test_what_adam_keeps_is_the_mean_of_what_the_tasks_leave():
    params = KEPT.init(NET, jax.random.key(1), BATCH.support.x[0])
    grads, _ = gradient(KEPT, params)
    trained = jax.jit(lambda support, key: KEPT.trained(NET, params, support, key))
    left = [jax.device_get(trained(one_of(BATCH, i).support, keys()[i])) for i in range(2)]
    close(grads, jax.tree.map(lambda p, a, b: np.asarray(p) - (a + b) / 2, params, *left), rtol=1e-4)
    adapted = jax.jit(lambda support, key: KEPT.adapt(NET, params, support, key))(one_of(BATCH).support, keys()[0])
    close(adapted, left[0]["theta"], rtol=1e-5)


def test_only_adam_has_moments_to_keep():
    with pytest.raises(ConfigError, match="moments=kept: new with inner_optimizer=sgd"):
        dataclasses.replace(KEPT, inner_optimizer="sgd").check(run_of("task=sinusoid").tasks)


def test_reptiles_mini_batches_draw_everything_once_before_anything_twice():
    support = Batch(jnp.arange(7)[:, None], jnp.arange(7))
    draw = jax.jit(lambda i: minibatch(support, jax.random.key(0), i, 3).y)
    drawn = np.concatenate([draw(i) for i in range(14)]).reshape(6, 7)  # 14 mini-batches of 3: six rounds of 7
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(7), (6, 1)))
    assert len({tuple(row) for row in drawn}) == 6  # in another order each time


def test_inner_adam_has_no_momentum_and_is_the_textbooks():
    """beta1 = 0: after gradients g1, g2 the step is lr * g2 / (sqrt(v2_hat) + eps)."""
    a, b = 2.0, -3.0
    update = inner.optimizer("adam", 0.1, first_order=False)
    end = inner.descend(lambda x, i: jnp.where(i == 0, a, b) * x, jnp.array(1.0), update, 2, first_order=False)
    v = 0.999 * (0.001 * a**2) + 0.001 * b**2
    np.testing.assert_allclose(end, 1.0 - 0.1 * a / abs(a) - 0.1 * b / np.sqrt(v / (1 - 0.999**2)), rtol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_mamlpp_leaves_a_models_parameters_of_the_type_they_are_of(learned):
    mamlpp = dataclasses.replace(MAMLPP_OFF, inner_steps=3, learn_inner_lr=learned)
    halves = NET._replace(init=lambda *a: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), NET.init(*a)))
    params = jax.device_get(begun(mamlpp, halves))  # as saved ones are: of no weak type
    support = one_of(BATCH).support

    def adapt(params, steps):
        return dataclasses.replace(mamlpp, inner_steps=steps).adapt(halves, params, support, keys()[0])

    adapted = jax.eval_shape(adapt, params, np.int32(3))  # as an evaluation has it
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(adapted)} == {"bfloat16"}


@pytest.mark.parametrize("first_order", [False, True])
def test_inner_adam_stays_finite_where_gradients_are_zero_also_in_the_meta_gradient(first_order):
    update = inner.optimizer("adam", 0.1, first_order)

    def end(x):  # x[1] has no gradient at all, x[0] none once it has come to rest
        return inner.descend(lambda x, _: x[0] ** 2, x, update, 3, first_order).sum()

    both = jax.jit(jax.value_and_grad(end))
    for start in np.float32([[0, 0], [1, 0]]):
        value, grads = both(start)
        assert np.isfinite(value)
        assert np.isfinite(grads).all()
    np.testing.assert_allclose(both(np.zeros(2, np.float32))[1][1], 1.0)
    assert isinstance(inner.optimizer("sgd", 0.1, first_order), optax.GradientTransformation)


SMALL = 1e-6  # a gradient beside which the root of Adam's eps_root, 1e-6 too, is not small
SLOPE = Net(  # one parameter w, whose loss is SMALL * w
    init=lambda key, x: {"w": np.float32(0)},
    apply=lambda params, x: params["w"] * x,
    features=lambda params, x: x,
    loss=lambda outputs, y: (outputs.mean(), {"loss": outputs.mean()}),
    n_out=1,
    classification=False,
    n_classes=None,
)
ADAM = {"inner_lr": 0.1, "inner_steps": 1, "inner_optimizer": "adam"}


@pytest.mark.parametrize(
    "learner",
    [
        dataclasses.replace(MAML_, **ADAM, first_order=True),
        Finetune(**ADAM, adapts="all"),
        IMAML(**ADAM, penalty=1.0, cg_steps=1),
        Reptile(**ADAM, inner_batch=2),
        Scratch(**ADAM),
        dataclasses.replace(MAML_, **ADAM, first_order=False),
    ],
    ids=["fomaml", "finetune", "imaml", "reptile", "scratch", "maml"],
)
def test_inner_adams_first_step_along_a_small_gradient_is_whole_unless_it_is_differentiated_twice(learner):
    """Adam's first step is lr g / (sqrt(g^2 + eps_root) + eps), and only second derivatives need an eps_root."""
    support = Batch(np.full((2, 1), SMALL, np.float32), np.zeros((2, 1), np.float32))
    params = learner.init(SLOPE, jax.random.key(0), support.x)
    adapt = jax.jit(lambda params, support: learner.adapt(SLOPE, params, support, jax.random.key(1)))
    fast = adapt(params, support)
    second_order = getattr(learner, "first_order", True) is False
    root = np.sqrt(SMALL**2 + (1e-12 if second_order else 0))
    np.testing.assert_allclose(fast["w"], -0.1 * SMALL / (root + 1e-8), rtol=1e-4)
    assert (-fast["w"] > 0.099) != second_order


def test_imaml_equals_finite_differences_through_the_converged_inner_problem(monkeypatch):
    """Conjugate gradients converged, too: jax ends them where 1e-5 of the residual is left, enough for float32."""
    monkeypatch.setattr(jax.scipy.sparse.linalg, "cg", partial(jax.scipy.sparse.linalg.cg, tol=1e-12))
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        batch, theta = episodes(1, WAYS), jax.tree.map(np.float64, THETA)
        learner = IMAML(inner_lr=0.3, inner_steps=2000, inner_optimizer="sgd", penalty=1.0, cg_steps=60)
        support, query, *_ = one_of(batch)
        flat, unravel = jax.flatten_util.ravel_pytree(theta)

        @jax.jit
        def meta_gradient(theta):
            return jax.flatten_util.ravel_pytree(learner.meta_grad(NET, theta, batch, keys()[:1], 0)[0])[0]

        got, flat = np.asarray(meta_gradient(theta)), np.asarray(flat)

        @jax.jit
        def outer(v):
            fast = learner.adapt(NET, unravel(v), support, None)
            return NET.loss(NET.apply(fast, query.x), query.y)[0]

        for i in range(0, flat.size, 7):
            shift = 1e-5 * np.eye(flat.size)[i]
            difference = (outer(flat + shift) - outer(flat - shift)) / 2e-5
            np.testing.assert_allclose(got[i], difference, rtol=1e-4, atol=1e-8)
