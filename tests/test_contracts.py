"""What every component promises, over every yaml in conf/: a new one is tested by being there."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import composed, drawn_like, on_blobs

from metarun import inner
from metarun.config import choices
from metarun.config.build import build
from metarun.config.run import build_run
from metarun.core import Collecting, Episode, Grouped, Key, PyTree, Tasks, memoryless
from metarun.engine.net import make_net
from metarun.run.transfer import leaves_of, network_of
from metarun.tasks.episode import by_class

TASKS = choices("task")
LEARNERS = choices("learner")
MODELS = choices("model")
SPLITS = ("train", "val", "test")


class Loaded(NamedTuple):
    tasks: Tasks
    data: dict[str, PyTree]  # of each split
    sample: Callable[[PyTree, Key], Episode]  # compiled


@pytest.fixture(scope="module")
def loaded() -> dict[str, Loaded]:
    """What the tests of a task share, by its name."""
    return {}


@pytest.fixture(params=TASKS)
def task(request, data_for, loaded):
    """A task distribution as its yaml gives it, and its data (a skip where they are not at hand)."""
    settings = data_for(request.param)
    if request.param not in loaded:
        tasks = build("task", composed(f"task={request.param}", *settings)["task"])
        data = {split: tasks.load(split) for split in SPLITS}
        loaded[request.param] = Loaded(tasks, data, jax.jit(tasks.sample))
    return loaded[request.param]


def test_a_key_gives_one_episode_and_another_key_another(task):
    tasks, data, sample = task
    one, same, other = (sample(data["train"], jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    differs = "y" if isinstance(tasks, Collecting) else "x"  # every trajectory may begin in the same place
    first, second = (jax.tree.leaves(getattr(episode.support, differs)) for episode in (one, other))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_episodes_have_the_shape_that_the_settings_ask_for(task):
    tasks, data, sample = task
    for split in SPLITS:
        support, query, *_ = sample(data[split], jax.random.key(0))
        ways = tasks.ways if tasks.metric == "accuracy" else 1
        for batch, per_class in ((support, tasks.shots), (query, tasks.queries)):
            assert {len(leaf) for leaf in jax.tree.leaves(batch)} == {ways * per_class}  # a goal may be any pytree
            assert np.isfinite(batch.x).all()
            if ways > 1:
                np.testing.assert_array_equal(np.bincount(batch.y, minlength=ways), per_class)
            elif not isinstance(tasks, Collecting):
                assert batch.y.shape[1:] == (tasks.n_out,)


def test_support_and_query_share_no_example(task):
    tasks, data, sample = task
    if isinstance(tasks, Collecting):
        pytest.skip("its episodes hold no examples")
    for seed in range(5):
        support, query, *_ = sample(data["train"], jax.random.key(seed))
        rows = {np.asarray(x).tobytes() for x in support.x}
        assert rows.isdisjoint(np.asarray(x).tobytes() for x in query.x)


def test_a_label_tells_nothing_of_which_class_it_stands_for(task):
    """In half of the episodes label 0 has the lower class number of the first two, in half of them label 1 has it."""
    tasks, data, _ = task
    classes = jax.jit(jax.vmap(lambda data, key: tasks.sample(data, key).classes, (None, 0)))
    drawn = jax.device_get(classes(data["train"], jax.random.split(jax.random.key(0), 400)))
    if drawn is not None:  # sine waves and groups are no classes
        assert 140 < (drawn[:, 0] < drawn[:, 1]).sum() < 260  # six standard deviations


def test_an_episodes_group_is_one_that_has_a_name(task):
    tasks, data, sample = task
    for split in SPLITS:
        names = tasks.group_names(split) if isinstance(tasks, Grouped) else None
        group = sample(data[split], jax.random.key(0)).group
        assert (names is None) == (group is None)
        if names is not None:
            assert len(set(names)) == len(names)
            assert 0 <= int(group) < len(names)


def test_sampling_many_at_once_is_sampling_each(task):
    tasks, data, sample = task
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.device_get(jax.jit(jax.vmap(tasks.sample, (None, 0)))(data["train"], keys))
    for i, key in enumerate(keys):
        one = sample(data["train"], key)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5), many, one)


def test_the_loss_is_one_of_the_metrics_and_so_is_what_selects(task):
    tasks, data, sample = task
    query = sample(data["train"], jax.random.key(0)).query
    if isinstance(tasks, Collecting):
        policy = memoryless(lambda x: jnp.zeros((len(x), tasks.n_out)))
        query = jax.jit(lambda sources, key: tasks.collect(sources, policy, key))(query, jax.random.key(1))
    loss, metrics = jax.jit(tasks.loss)(np.zeros((len(query.x), tasks.n_out), np.float32), query.y)
    assert metrics["loss"] == loss
    assert tasks.metric in metrics
    if tasks.metric == "accuracy":
        np.testing.assert_allclose(loss, np.log(tasks.n_out), rtol=1e-5)


@cache
def few_episodes(tasks: Tasks) -> Episode:
    """Two of them; most learners are asked about the same."""
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.device_get(jax.jit(jax.vmap(tasks.sample, (None, 0)))(tasks.load("train"), keys))


LARGE = ("conv4_wide", "resnet12")  # with few filters, too, they take long to compile


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_learner_keeps_its_protocol(learner):
    run = build_run(on_blobs(f"learner={learner}"))
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    batch = few_episodes(run.tasks)
    support, query, *_ = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch)
    params = jax.jit(lambda key: run.learner.init(net, key, support.x))(jax.random.key(2))

    # What it names as the model's, or all of its parameters, is nothing else: another run may start from it.
    network, of_model = network_of(run.learner), leaves_of(jax.eval_shape(net.init, jax.random.key(0), support.x))
    named = {path.removeprefix(network) for path in leaves_of(params) if path.startswith(network)}
    assert named <= of_model.keys()
    assert named or not params

    @jax.jit
    def meta_grad(params, order):
        ordered = jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], batch)
        return run.learner.meta_grad(net, params, ordered, jax.random.split(jax.random.key(1), 2)[order], jnp.int32(0))

    grads, metrics = meta_grad(params, np.array([0, 1]))
    jax.tree.map(lambda g, p: (g.shape, g.dtype) == (p.shape, p.dtype) or pytest.fail("not like params"), grads, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert all(value.shape == () for value in metrics.values())
    assert "loss" in metrics

    # The order of tasks does not matter to the meta-gradient.
    backward, _ = meta_grad(params, np.array([1, 0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, backward)

    @jax.jit
    def adapt_and_predict(params, key, order):
        fast = run.learner.adapt(net, params, support, key)
        return run.learner.predict(net, fast, inner.queries(run.learner, net, fast, query, key).x[order])

    rows = np.arange(len(query.x) * (net.trial or 1)).reshape(len(query.x), -1)  # a trial's steps stay together
    order = np.random.default_rng(0).permutation(rows).reshape(-1)
    outputs, of_ordered = (adapt_and_predict(params, jax.random.key(3), of) for of in (rows.reshape(-1), order))
    assert outputs.shape == (len(order), run.tasks.n_out)
    np.testing.assert_allclose(np.asarray(outputs)[order], of_ordered, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "model"),
    [
        *(("batch", model) for model in MODELS),
        *(pytest.param("layer", model, marks=() if model == "conv4" else pytest.mark.slow) for model in MODELS),
        *(pytest.param("none", model, marks=pytest.mark.slow if model in LARGE else ()) for model in MODELS),
    ],
)
def test_a_model_says_whether_its_outputs_depend_on_each_other(model, norm):
    values = composed(f"model={model}")["model"]
    if "filters" in values:  # as few as let inputs and outputs differ
        values["filters"] = 4 if isinstance(values["filters"], int) else [4] * len(values["filters"])
    if "norm" in values:
        values["norm"] = norm
    module = build("model", values, n_out=4, dtype=None)
    x = np.float32(np.random.default_rng(0).normal(size=(3, 28, 28, 1)))
    params = drawn_like(lambda: module.init(jax.random.key(1), x))
    apply = jax.jit(module.apply)
    outputs, changed = (np.asarray(apply(params, of)) for of in (x, x + np.float32([1, 0, 0])[:, None, None, None]))
    assert outputs.shape == (3, 4)
    assert np.allclose(outputs[1:], changed[1:], atol=1e-6) != module.transductive


# ppo and trpo go by trajectories: their own tests, and those of tasks that act.
@pytest.mark.parametrize("optimizer", [name for name in choices("optimizer") if name not in ("ppo", "trpo")])
def test_an_optimizer_goes_downhill(optimizer):
    update = build("optimizer", composed(f"optimizer={optimizer}")["optimizer"])
    step = jax.jit(lambda x: update.update(x, update.init(x), x)[0])
    assert step(np.float32(1)) < 0


def test_labels_stand_class_by_class():
    x = np.arange(12).reshape(3, 4)
    support, query, classes, *_ = jax.jit(lambda x, classes: by_class(x, shots=1, classes=classes))(x, [7, 5, 9])
    np.testing.assert_array_equal(support.x, [0, 4, 8])
    np.testing.assert_array_equal(support.y, [0, 1, 2])
    np.testing.assert_array_equal(query.x, [1, 2, 3, 5, 6, 7, 9, 10, 11])
    np.testing.assert_array_equal(query.y, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(classes, [7, 5, 9])
