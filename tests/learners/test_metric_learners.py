"""Metric-based and closed-form learners, and the baselines, against numpy, scipy and each other."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from support import LINEAR, classifier, close, drawn_like, episodes, identity, one_of

from metarun import losses
from metarun.core import Batch, Episode
from metarun.learners.cnp import CNP
from metarun.learners.finetune import Finetune
from metarun.learners.matching import Matching
from metarun.learners.metaoptnet import MetaOptNet, svm
from metarun.learners.nearest_neighbour import NearestNeighbour
from metarun.learners.proto_maml import ProtoMAML
from metarun.learners.protonet import ProtoNet
from metarun.learners.r2d2 import R2D2, ridge
from metarun.learners.scratch import Scratch

WAYS = 3
PROTONET = ProtoNet(distance="euclidean", temperature=1.0, learn_temperature=False)
PROTO_MAML = ProtoMAML(inner_lr=0.1, inner_steps=1, inner_optimizer="sgd", inner_loss="mean", first_order=False)
METAOPTNET = MetaOptNet(c=0.1, iterations=50, scale=1.0, label_smoothing=0.0)
R2D2_ = R2D2(penalty=0.5, learn_penalty=False, scale=2.0, bias=0.1)
CNP_ = CNP(encoder=(8, 8), decoder=(8,), min_sigma=0.1)
# Learners whose classes have no output of their own: they stand and fall with their support examples.
SYMMETRIC = [PROTONET, Matching("cosine", 0.5), PROTO_MAML, METAOPTNET, R2D2_, CNP_, NearestNeighbour("cosine")]
NET = classifier(WAYS)
SUPPORT, QUERY, *_ = one_of(episodes(1, WAYS, seed=1))
KEYS = jax.random.split(jax.random.key(9), 1)


def begun(learner, net, x=SUPPORT.x):
    """What a learner begins with, in one program."""
    return jax.jit(lambda key: learner.init(net, key, x))(jax.random.key(1))


def drawn(learner, net, x=SUPPORT.x):
    """Numbers in the shapes of what a learner begins with."""
    return drawn_like(lambda: learner.init(net, jax.random.key(1), x))


def predicted(learner, net, params, support=SUPPORT, x=QUERY.x, key=None):
    """What a learner that adapts to `support` says of `x`, in one program."""
    program = jax.jit(lambda params, *given: learner.predict(net, learner.adapt(net, params, given[0], key), given[1]))
    return jax.device_get(program(params, support, x))


@pytest.mark.parametrize("learner", SYMMETRIC, ids=lambda learner: type(learner).__name__)
def test_permuted_labels_permute_the_outputs_and_the_supports_order_is_immaterial(learner):
    params = drawn(learner, NET)

    @jax.jit
    def predict(support):
        return learner.predict(NET, learner.adapt(NET, params, support, None), QUERY.x)

    outputs = predict(SUPPORT)
    permutation = np.array([2, 0, 1])  # label k becomes permutation[k]
    x, y = np.asarray(SUPPORT.x), np.asarray(SUPPORT.y)
    permuted = np.asarray(predict(Batch(x, permutation[y])))
    close(permuted[:, permutation], outputs, rtol=1e-4, atol=1e-5)
    order = np.array([4, 2, 0, 5, 1, 3])
    close(predict(Batch(x[order], y[order])), outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learner", [PROTONET, Matching("euclidean", 0.5), NearestNeighbour("euclidean")], ids=str)
def test_where_the_inputs_lie_changes_no_distance(learner):
    """Kelvins, years, coordinates: classes 0.05 apart, 300 from zero, where a float32's steps are 0.00003."""
    noise = np.random.default_rng(0).normal(size=(2, WAYS, 8))
    net, y = identity(WAYS), np.arange(WAYS)
    support, query = (np.float32(300 + 0.05 * y[:, None] + 0.005 * part) for part in noise)
    outputs = predicted(learner, net, begun(learner, net, support), Batch(support, y), query)
    assert np.argmax(outputs, 1).tolist() == y.tolist()


def test_an_answer_that_is_no_number_is_a_wrong_one():
    outputs = np.float32([[2, 1], [np.nan, np.nan], [1, np.nan], [-np.inf, 0]])
    _, metrics = jax.device_get(jax.jit(losses.cross_entropy)(outputs, np.array([0, 0, 0, 1])))
    assert metrics["accuracy"] == 0.5


def test_protonet_in_closed_form():
    net = identity(2)
    support = Batch(np.float32([[0, 0], [2, 0], [0, 4], [0, 8]]), np.array([0, 0, 1, 1]))
    x = np.float32([[1, 0], [3, 4]])  # the prototypes are (1, 0) and (0, 6)
    for temperature, learned in ((1.0, False), (4.0, True)):
        learner = ProtoNet("euclidean", temperature, learned)
        outputs = predicted(learner, net, begun(learner, net, x), support, x)
        np.testing.assert_allclose(outputs, -np.array([[0, 37], [20, 13]]) / temperature, atol=1e-5)
    learner = ProtoNet("cosine", 1.0, False)
    outputs = predicted(learner, net, begun(learner, net, x), support, x)
    np.testing.assert_allclose(outputs, [[1, 0], [0.6, 0.8]], atol=1e-6)


def test_matching_outputs_are_the_logarithms_of_attention_summed_by_label():
    learner = Matching("cosine", 0.5)
    net = identity(WAYS)
    outputs = predicted(learner, net, {})
    unit = lambda v: np.asarray(v) / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    attention = np.exp(unit(QUERY.x) @ unit(SUPPORT.x).T / 0.5)
    attention /= attention.sum(1, keepdims=True)
    expected = attention @ np.eye(WAYS)[np.asarray(SUPPORT.y)]
    np.testing.assert_allclose(np.exp(outputs), expected, rtol=1e-5)


def test_full_context_embeddings_are_numpys():
    """Vinyals et al. 2016, appendix A: a bidirectional LSTM over the support set; a query reads it K times."""
    learner, net, key = Matching("cosine", 1.0, context_steps=3), identity(WAYS), lambda: jax.random.key(5)
    params = drawn_like(lambda: learner.init(net, jax.random.key(1), SUPPORT.x))
    d = SUPPORT.x.shape[1]
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731

    def lstm(name, x, hidden, cell):
        p = jax.tree.map(np.asarray, params[name])
        i, f, g, o = (x @ p[f"i{k}"]["kernel"] + hidden @ p[f"h{k}"]["kernel"] + p[f"h{k}"]["bias"] for k in "ifgo")
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(cell), cell

    order = np.asarray(jax.random.permutation(key(), len(SUPPORT.y)))
    z, y = np.asarray(SUPPORT.x)[order], np.asarray(SUPPORT.y)[order]
    g = z.copy()
    for name, places in (("forwards", range(len(z))), ("backwards", reversed(range(len(z))))):
        hidden = cell = np.zeros(d)
        for i in places:
            hidden, cell = lstm(name, z[i], hidden, cell)
            g[i] += hidden
    expected = []
    for x in np.asarray(QUERY.x):
        hidden = cell = read = np.zeros(d)
        for _ in range(3):
            out, cell = lstm("query", np.concatenate([x, read]), hidden, cell)
            hidden = out + x
            weights = np.exp(g @ hidden)
            read = weights / weights.sum() @ g
        similar = np.exp(g @ hidden / np.linalg.norm(g, axis=1) / np.linalg.norm(hidden))
        expected.append(similar / similar.sum() @ np.eye(WAYS)[y])
    outputs = predicted(learner, net, params, key=key())
    np.testing.assert_allclose(np.exp(outputs), expected, rtol=1e-4)


def test_proto_maml_before_its_first_step_is_a_prototypical_network():
    params = drawn_like(lambda: NET.init(jax.random.key(1), SUPPORT.x))
    unadapted = ProtoMAML(inner_lr=0.1, inner_steps=0, inner_optimizer="sgd", inner_loss="mean", first_order=False)
    outputs = predicted(unadapted, NET, params)
    expected = predicted(PROTONET, NET, {"embedding": params})
    close(jax.nn.log_softmax(outputs), jax.nn.log_softmax(expected), rtol=1e-4, atol=1e-5)


def test_proto_mamls_meta_gradient_passes_through_the_prototypes_and_equals_finite_differences():
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        batch = episodes(1, WAYS)
        support, query, *_ = one_of(batch)
        params = drawn_like(lambda: NET.init(jax.random.key(1), support.x))
        flat, unravel = jax.flatten_util.ravel_pytree(params["hidden"])
        head = jax.tree.map(np.zeros_like, params["head"])  # the model's, which nothing uses

        @jax.jit
        def outer(v):
            fast = PROTO_MAML.adapt(NET, {"hidden": unravel(v), "head": head}, support, None)
            return NET.loss(PROTO_MAML.predict(NET, fast, query.x), query.y)[0]

        @jax.jit
        def meta_gradient(v):
            params = {"hidden": unravel(v), "head": head}
            grads, _ = PROTO_MAML.meta_grad(NET, params, batch, KEYS, 0)
            return jax.flatten_util.ravel_pytree(grads["hidden"])[0]

        got, flat = np.asarray(meta_gradient(flat)), np.asarray(flat)
        for i in range(0, flat.size, 4):
            shift = 1e-5 * np.eye(flat.size)[i]
            difference = (float(outer(flat + shift)) - float(outer(flat - shift))) / 2e-5
            np.testing.assert_allclose(got[i], difference, rtol=1e-6, atol=1e-9)


def test_ridge_regression_in_woodburys_form_is_the_primal_solution():
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        draw = np.random.default_rng(1)
        for n, d in ((4, 9), (9, 4)):
            z, y = draw.normal(size=(n, d)), draw.normal(size=(n, 2))
            primal = np.linalg.solve(z.T @ z + 0.3 * np.eye(d), z.T @ y)
            np.testing.assert_allclose(jax.jit(ridge)(z, y, np.float64(0.3)), primal, rtol=1e-9)


def test_r2d2_scales_and_shifts_the_regression_on_one_hot_labels_and_regresses_targets_as_they_are():
    net = identity(WAYS)
    for learner in (R2D2_, replace(R2D2_, learn_penalty=True)):
        params = begun(learner, net)
        z, queries = (np.column_stack([x, np.ones(len(x))]) for x in (SUPPORT.x, QUERY.x))
        # The mean over the support set, not the sum, beside the penalty.
        w = np.linalg.solve(z.T @ z / len(z) + 0.5 * np.eye(4), z.T @ np.eye(WAYS)[SUPPORT.y] / len(z))
        outputs = predicted(learner, net, params)
        np.testing.assert_allclose(outputs, 2.0 * queries @ w + 0.1, rtol=1e-4, atol=1e-5)
    plain = R2D2(penalty=1e-6, learn_penalty=False, scale=1.0, bias=0.0)
    line = lambda x: np.float32(np.asarray(x) @ np.array([[1.0], [-2.0], [0.5]]) + 3)  # noqa: E731
    outputs = predicted(plain, LINEAR, begun(plain, LINEAR), Batch(SUPPORT.x, line(SUPPORT.x)))
    np.testing.assert_allclose(outputs, line(QUERY.x), 1e-3)


def test_r2d2_learns_its_penalty_if_asked_to():
    net, episodes = identity(WAYS), jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY))
    for learner, learned in ((replace(R2D2_, learn_penalty=True), True), (R2D2_, False)):
        params = begun(learner, net)
        grads, _ = jax.jit(learner.meta_grad, static_argnums=0)(net, params, episodes, KEYS, 0)
        assert ("log_penalty" in grads) == learned
        assert all(np.abs(grads[name]) > 1e-6 for name in ("scale", "log_penalty") if name in grads)


def test_the_svms_dual_agrees_with_a_reference_solver_and_its_gradient_with_finite_differences():
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        n, ways, c = 6, 3, 0.1
        z, direction = np.random.default_rng(2).normal(size=(2, n, 8))
        y = np.eye(ways)[np.arange(n) % ways]
        solve = jax.jit(lambda z: svm(z @ z.T, y, c, 300))
        alpha, gram = np.asarray(solve(z)), z @ z.T

        def objective(a):
            a = a.reshape(n, ways)
            return 0.5 * np.trace(a.T @ gram @ a) - (a * y).sum()

        reference = scipy.optimize.minimize(
            objective,
            np.zeros(n * ways),
            jac=lambda a: (gram @ a.reshape(n, ways) - y).reshape(-1),
            bounds=[(None, bound) for bound in (c * y).reshape(-1)],
            constraints={"type": "eq", "fun": lambda a: a.reshape(n, ways).sum(1)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(alpha, reference.x.reshape(n, ways), atol=1e-5)
        np.testing.assert_allclose(alpha.sum(1), 0, atol=1e-12)
        assert (alpha <= c * y + 1e-12).all()

        weight = jax.jit(lambda z: jnp.square(z.T @ solve(z)).sum())
        difference = (weight(z + 1e-5 * direction) - weight(z - 1e-5 * direction)) / 2e-5
        gradient = np.asarray(jax.jit(jax.grad(weight))(z))
        np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-5)


def test_the_svm_is_at_rest_with_the_iterations_of_the_yaml():
    given = (SUPPORT.x @ SUPPORT.x.T, np.float32(np.eye(WAYS)[SUPPORT.y]))
    few, many = jax.jit(lambda *given: [svm(*given, 0.1, n) for n in (50, 1000)])(*given)
    np.testing.assert_allclose(few, many, atol=1e-4)


def test_the_svm_of_many_rectified_features_is_nearly_solved_and_never_worse_than_none():
    """A large mean, as rectified features have, makes the problem stiff: 75 examples of 2,000 numbers."""
    draw, y = np.random.default_rng(4), np.float32(np.eye(5)[np.arange(75) % 5])
    z = np.float32(1 + 0.3 * (y @ draw.normal(size=(5, 2000))) + 0.5 * draw.normal(size=(75, 2000)))

    solutions = jax.jit(lambda gram: [svm(gram, y, 0.1, iterations) for iterations in (50, 200, 5000)])(z @ z.T)
    solutions = jax.device_get(solutions)
    after_50, after_200, solved = (0.5 * np.square(z.T @ alpha).sum() - (alpha * y).sum() for alpha in solutions)
    assert solved <= after_200 < 0.9 * solved
    assert after_50 < 0


def test_an_svm_on_features_that_are_all_zero_has_no_weights_and_finite_gradients():
    net = identity(WAYS)
    params = begun(METAOPTNET, net)
    zero = Batch(np.zeros_like(SUPPORT.x), SUPPORT.y)
    adapted = jax.jit(lambda x: METAOPTNET.adapt(net, params, Batch(x, SUPPORT.y), None)["w"])
    grad = jax.jit(jax.grad(lambda x: adapted(x).sum()))(zero.x)
    np.testing.assert_allclose(adapted(zero.x), 0)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_nearest_neighbour_is_numpys(distance):
    learner, net = NearestNeighbour(distance), identity(WAYS)
    outputs = predicted(learner, net, {})
    s, q = np.asarray(SUPPORT.x), np.asarray(QUERY.x)
    if distance == "cosine":
        s, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (s, q))
    nearest = np.linalg.norm(q[:, None] - s[None], axis=2).argmin(1)
    np.testing.assert_array_equal(outputs.argmax(1), np.asarray(SUPPORT.y)[nearest])


def test_a_neural_process_encodes_the_mean_of_its_examples_and_gives_a_density():
    support = Batch(SUPPORT.x, SUPPORT.x[:, :1])
    params = drawn(CNP_, LINEAR, support.x) | {"embedding": {}}
    adapt = jax.jit(lambda support: CNP_.adapt(LINEAR, params, support, None))
    fast = adapt(support)
    each = [adapt(jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i : i + 1], support))["r"] for i in range(6)]
    np.testing.assert_allclose(fast["r"], np.mean(each, axis=0), rtol=1e-5, atol=1e-6)

    y = np.asarray(QUERY.x[:, 1:2])

    @jax.jit
    def told(fast):
        likelihood = CNP_.log_likelihood(LINEAR, fast, Batch(QUERY.x, y))
        return CNP_.decode(LINEAR, fast, QUERY.x)[:, 0], likelihood, CNP_.predict(LINEAR, fast, QUERY.x)

    decoded, likelihood, means = told(fast)
    mu, raw = np.split(np.asarray(decoded), 2, axis=1)
    sigma = 0.1 + 0.9 * np.log1p(np.exp(raw))
    expected = (-0.5 * ((y - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)).mean()
    np.testing.assert_allclose(likelihood, expected, rtol=1e-5)
    np.testing.assert_allclose(means, mu, rtol=1e-6)


def test_a_neural_process_is_trained_on_the_density_of_all_points_the_observed_ones_too():
    support, query = (Batch(b.x, np.sin(b.x[:, :1])) for b in (SUPPORT, QUERY))
    params = drawn(CNP_, LINEAR, support.x)
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(support, query))
    grads, metrics = jax.jit(lambda p: CNP_.meta_grad(LINEAR, p, batch, KEYS, 0))(params)

    def densities(params):  # (support points), (query points)
        fast = CNP_.adapt(LINEAR, params, support, None)
        for points in (support, query):
            one_by_one = jax.tree.map(lambda leaf: leaf[:, None], points)
            yield jax.vmap(lambda point, fast=fast: CNP_.log_likelihood(LINEAR, fast, point))(one_by_one)

    def loss(params):
        found = [*densities(params)]
        return -jnp.concatenate(found).mean(), found[1].mean()

    expected, of_queries = jax.jit(jax.grad(loss, has_aux=True))(params)
    close(grads, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["log_likelihood"], of_queries, rtol=1e-4)
    measured = jax.jit(lambda params: CNP_.measure(LINEAR, params, Episode(support, query), None))(params)
    np.testing.assert_allclose(measured["log_likelihood"], of_queries, rtol=1e-4)


def test_finetuning_trains_one_classifier_of_all_classes_and_leaves_a_tasks_head_untrained():
    net = classifier(WAYS, n_classes=10)
    learner = Finetune(adapts="head", inner_lr=0.1, inner_steps=2, inner_optimizer="sgd")
    params = drawn(learner, net)
    classes = np.array([7, 2, 9])
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY, classes))
    grads, _ = jax.jit(lambda *a: learner.meta_grad(net, *a))(params, batch, jax.random.key(1)[None], 0)

    def pretraining(params):
        x, y = jnp.concatenate([SUPPORT.x, QUERY.x]), jnp.concatenate([SUPPORT.y, QUERY.y])
        outputs = net.features(params["net"], x) @ params["classes"]["kernel"] + params["classes"]["bias"][None]
        return losses.cross_entropy(outputs, jnp.asarray(classes)[y])[0]

    close(grads, jax.jit(jax.grad(pretraining))(params))
    np.testing.assert_array_equal(grads["net"]["head"]["kernel"], 0)

    everything = Finetune(adapts="all", inner_lr=0.1, inner_steps=2, inner_optimizer="sgd")
    both = jax.jit(lambda params: [one.adapt(net, params, SUPPORT, None) for one in (learner, everything)])
    fast, whole = jax.device_get(both(params))
    close(fast["hidden"], params["net"]["hidden"], rtol=0, atol=0)
    assert np.abs(whole["hidden"]["w"] - fast["hidden"]["w"]).max() > 1e-4


def test_finetuning_a_regression_trains_one_network_on_all_points():
    learner = Finetune(adapts="all", inner_lr=0.1, inner_steps=1, inner_optimizer="sgd")
    params = drawn(learner, LINEAR)
    support, query = (Batch(x, x[:, :1]) for x in (np.asarray(SUPPORT.x), np.asarray(QUERY.x)))
    batch = jax.tree.map(lambda leaf: leaf[None], Episode(support, query))
    grads, _ = jax.jit(lambda *a: learner.meta_grad(LINEAR, *a))(params, batch, jax.random.key(1)[None], 0)
    x, w = np.concatenate([support.x, query.x]), np.asarray(params["net"]["layer"]["w"])
    expected = 2 * x.T @ (x @ w - x[:, :1]) / len(x)
    np.testing.assert_allclose(grads["net"]["layer"]["w"], expected, rtol=1e-5)


def test_scratch_learns_each_task_from_a_start_of_its_own_and_nothing_between_them():
    learner = Scratch(inner_lr=0.1, inner_steps=0, inner_optimizer="sgd")
    adapt = jax.jit(lambda key: learner.adapt(NET, {}, SUPPORT, key))
    first, second = (jax.device_get(adapt(jax.random.key(seed))) for seed in (3, 4))
    assert np.abs(first["head"]["kernel"] - second["head"]["kernel"]).max() > 0.1
    close(first, jax.jit(NET.init)(jax.random.key(3), SUPPORT.x), rtol=0, atol=0)


def test_metaoptnets_logits_are_scaled_by_what_it_learns():
    net = identity(WAYS)
    outputs = []
    for learner in (METAOPTNET, replace(METAOPTNET, scale=7.0)):
        outputs.append(predicted(learner, net, begun(learner, net)))
    np.testing.assert_allclose(outputs[1], 7 * outputs[0], rtol=1e-5)
    assert np.abs(outputs[0]).max() > 0.01


def test_losses_are_means_and_accuracy_is_of_the_most_likely_label():
    outputs, y = np.array([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]]), np.array([0, 2])
    p = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    loss, metrics = jax.jit(losses.cross_entropy)(outputs, y)
    np.testing.assert_allclose(loss, -(np.log(p[0, 0]) + np.log(p[1, 2])) / 2, rtol=1e-5)
    assert metrics == {"loss": loss, "accuracy": 0.5}
    mse, metrics = jax.jit(losses.squared_error)(outputs, np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(mse, (outputs**2).sum() / 6, rtol=1e-5)
    assert metrics == {"loss": mse, "mse": mse}


def test_smoothed_labels_give_the_others_a_share():
    """Ways 3, smoothing 0.2: 0.8 of the label to its own, 0.1 to each other; the metrics are those of whole labels."""
    outputs, y = np.array([[2.0, 0.5, -1.0]], np.float32), np.array([1])
    log_p = outputs[0] - np.log(np.exp(outputs[0]).sum())
    loss, metrics = jax.jit(losses.smoothed(losses.cross_entropy, 0.2))(outputs, y)
    np.testing.assert_allclose(loss, -(0.1 * log_p[0] + 0.8 * log_p[1] + 0.1 * log_p[2]), rtol=1e-6)
    assert metrics == {"loss": loss, "accuracy": 0.0}
    one_way = jax.jit(losses.smoothed(losses.cross_entropy, 0.2))(outputs[:, :1], np.array([0]))
    assert one_way[0] == 0


def test_metaoptnet_trains_on_smoothed_labels():
    net, episodes = identity(WAYS), jax.tree.map(lambda leaf: leaf[None], Episode(SUPPORT, QUERY))
    params = begun(METAOPTNET, net)
    plain, smoothed = (
        jax.jit(learner.meta_grad, static_argnums=0)(net, params, episodes, KEYS, 0)[1]
        for learner in (METAOPTNET, replace(METAOPTNET, label_smoothing=0.3))
    )
    outputs = predicted(METAOPTNET, net, params)
    expected = jax.jit(losses.smoothed(net.loss, 0.3))(outputs, QUERY.y)[0]
    np.testing.assert_allclose(smoothed["loss"], expected, rtol=1e-4)
    assert smoothed["loss"] != plain["loss"]
