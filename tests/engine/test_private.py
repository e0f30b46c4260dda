"""Private meta-steps: each task's meta-gradient clipped, noise of the right size, users drawn one by one."""

import dataclasses
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from scipy.stats import binom
from support import one_of, run_of

from metarun import engine
from metarun.config.private import noise_number
from metarun.core import ConfigError
from metarun.engine.meta_step import make_meta_steps, make_start
from metarun.engine.net import make_net
from metarun.engine.private import MOST_OVERFLOW, Private, clipped_each, noised, sampling_rate

RUN = run_of("task=sinusoid", "learner=fomaml", "model.hidden=[]", "learner.inner_steps=1", "learner.inner_lr=0.01")
NET = make_net(RUN.model, RUN.tasks, 1)
NUMBERS = {"learner": {}, "optimizer": {"learning_rate": 1.0}, "private": {"noise": np.uint32(7)}}
K_TRAIN = engine.stream(0, engine.TRAIN)
CLIP = 17.0
QUIET, LOUD = Private(CLIP, 0.0, None, 1e-5), Private(CLIP, 0.5, None, 1e-5)


def sgd(numbers):
    return optax.sgd(**numbers)


START = make_start(RUN.learner, NET, RUN.tasks, sgd)


def start():
    return START((), NUMBERS, engine.stream(0, engine.INIT))


@cache
def meta_steps(private, devices, task_chunk, meta_batch):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("tasks",))
    given = (RUN.learner, NET, RUN.tasks, sgd, mesh, meta_batch, task_chunk, RUN.inner, RUN.train.guard)
    return make_meta_steps(*given, private=private)


@cache
def after(private, devices=1, task_chunk=8, n=(1,), meta_batch=8):
    """The state after calls of n meta-steps each, by steps of length 1 against the meta-gradient."""
    program, state = meta_steps(private, devices, task_chunk, meta_batch), start()
    for some in n:
        state = program(state, (), NUMBERS, K_TRAIN, some)[0]
    return jax.device_get(state)


def vector(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]).astype(np.float64)


def meta_gradient(private, **kwargs):
    return vector(start().params) - vector(after(private, **kwargs).params)


def of_each(private, meta_batch=8):
    """Task by task: its meta-gradient, and whether it counts."""
    data, params = (), start().params
    _, counts, grads = tasks_of(RUN, NET, private, meta_batch)(data, params)
    return [vector(one_of(grads, i)) for i in range(meta_batch)], counts


def tasks_of(run, net, private, meta_batch):
    """(data, params) -> of the tasks of the first meta-step: episodes, whether they count, and meta-gradients."""

    @jax.jit
    def found(data, params):
        def of_task(user, k_episode, k_adapt):
            episode = engine.episode_of(private, run.tasks, data, user, k_episode)
            alone = jax.tree.map(lambda leaf: leaf[None], (episode, k_adapt))
            return episode, run.learner.meta_grad(net, params, *alone, 0)[0]

        drawn = engine.task_keys(private, K_TRAIN, jnp.int32(0), jnp.arange(meta_batch), meta_batch)
        k_episodes, k_adapts, users, counts = drawn
        episodes, grads = jax.vmap(of_task)(users, k_episodes, k_adapts)
        return episodes, counts, grads

    return lambda *given: jax.device_get(found(*given))


def test_each_tasks_meta_gradient_is_clipped_before_they_are_summed():
    each, _ = of_each(QUIET)
    lengths = np.linalg.norm(each, axis=1)
    assert lengths.min() < CLIP < lengths.max()  # some are clipped, and some are not
    expected = np.mean([g * min(1, CLIP / length) for g, length in zip(each, lengths, strict=True)], 0)
    np.testing.assert_allclose(meta_gradient(QUIET), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("users", [None, 40])
def test_devices_and_chunks_change_neither_the_noise_nor_who_is_drawn(users):
    private, meta_batch = dataclasses.replace(LOUD, users=users), 8 if users is None else 32
    expected = after(private, meta_batch=meta_batch, n=(2,))
    got = after(private, meta_batch=meta_batch, n=(1, 1), devices=2, task_chunk=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)
    again = after(private, meta_batch=meta_batch, n=(1, 1))
    jax.tree.map(np.testing.assert_array_equal, again, expected)  # a call that is cut, bit for bit


noised_ = partial(jax.jit, static_argnums=(0, 4))(noised)
ZEROS = {"a": np.zeros((100, 100), np.float32), "b": np.zeros(10_000, np.float32)}
MEANS = ZEROS, {"loss": np.float32(1.0)}, np.float32(0.5)


def test_the_noise_is_gaussian_of_noise_times_clip_over_the_tasks_and_another_in_each_meta_step():
    for private, tasks in ((LOUD, 8), (dataclasses.replace(LOUD, users=1000), 1000 * sampling_rate(1000, 64))):
        meta_batch = 8 if private.users is None else 64
        steps = [jax.random.fold_in(K_TRAIN, i) for i in (0, 1)]
        first, second = (jax.device_get(noised_(private, MEANS, k, 7, meta_batch)) for k in steps)
        a, b = np.ravel(first[0]["a"]), np.ravel(first[0]["b"])
        for one, other in ((a, b), (a, np.ravel(second[0]["a"]))):
            np.testing.assert_allclose(one.std(), 0.5 * CLIP / tasks, rtol=0.03)
            np.testing.assert_allclose((np.abs(one) < one.std()).mean(), 0.6827, atol=0.02)
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.04
        assert first[1]["loss"] == 2  # of those that count, which are half


def test_runs_of_one_seed_do_not_share_their_noise():
    """With shared noise of one and of two deviations, 2 p1 - p2 is what was learned without noise."""
    louder = dataclasses.replace(LOUD, noise=1.0)
    one, two = (
        noised_(private, MEANS, engine.stream(0, engine.TRAIN), own, 8)[0]["b"]
        for private, own in ((LOUD, 7), (louder, 8))
    )
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def noise_of(*settings):
    run = run_of("task=sinusoid", "learner=fomaml", "model.hidden=[8]", "train.private.clip=1", *settings)
    return int(run.numbers["private"]["noise"])


def test_a_runs_noise_is_of_all_that_it_learns_by_and_of_whom():
    differing = ("train.private.noise=1", "train.private.clip=2", "train.private.users=30", "train.private.delta=1e-6",
                 "train.meta_batch=8", "train.init_from=runs/first", "learner.inner_lr=0.3", "task.shots=3",
                 "optimizer.learning_rate=0.3", "model.hidden=[9]")  # fmt: skip
    assert len({noise_of(), *map(noise_of, differing)}) == 1 + len(differing)
    going_on = (
        "train.steps=77",
        "inner.remat=true",
        "run.name=other",
        "data_dir=/elsewhere",
        "train.on_nonfinite=skip",
    )
    assert {*map(noise_of, going_on)} == {noise_of()}  # a run that goes on may change these
    assert "private" not in RUN.numbers
    groups = [SimpleNamespace(n_groups=len, of_group=len, digest=lambda split, told=told: told) for told in "aab"]
    same, again, other = (noise_number(RUN.config, tasks) for tasks in groups)  # "b": someone left, or came
    assert same == again != other


def test_a_user_has_the_same_task_in_every_meta_step_and_is_drawn_whoever_else_is():
    private = Private(CLIP, 0.0, 300, 1e-5)
    rate = private.rate(64)
    steps = jax.jit(jax.vmap(lambda i: engine.task_keys(private, K_TRAIN, i, jnp.arange(64), 64)))(np.arange(400))
    keys, counts = np.asarray(jax.random.key_data(steps.k_episodes)), np.asarray(steps.counts)
    of_users = [tuple(key) for key in keys[counts]]
    times = np.array(list({key: of_users.count(key) for key in set(of_users)}.values()))
    assert len(times) <= 300
    np.testing.assert_allclose(times.sum() / (400 * 300), rate, rtol=0.05)
    in_a_step = counts.sum(1)
    np.testing.assert_allclose(in_a_step.var(), 300 * rate * (1 - rate), rtol=0.3)  # binomial, not a fixed number
    assert all(len({tuple(key) for key in k[c]}) == c.sum() for k, c in zip(keys, counts, strict=True))


def test_with_users_the_sum_is_divided_by_how_many_are_expected_and_metrics_are_of_those_that_count():
    private = Private(CLIP, 0.0, 40, 1e-5)
    each, counts = of_each(private, 32)
    assert 0 < counts.sum() < 32
    lengths = np.linalg.norm(each, axis=1)
    total = sum(g * min(1, CLIP / length) for g, length, there in zip(each, lengths, counts, strict=True) if there)
    expected = total / (40 * sampling_rate(40, 32))
    np.testing.assert_allclose(meta_gradient(private, meta_batch=32), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def of_groups(tmp_path_factory):
    """A run whose tasks are of three groups of training, rows of which tell whose they are."""
    file, group = tmp_path_factory.mktemp("groups") / "rows.npz", np.repeat(np.arange(5), 8)
    x = (group + np.linspace(0, 0.9, len(group)))[:, None].astype(np.float32)
    split = np.array(["train", "train", "train", "val", "test"])[group]
    np.savez(file, x=x, y=np.sin(x), group=group, split=split)
    settings = ("train.meta_batch=4", "train.private.clip=0.5", "train.private.delta=0.01")
    settings += ("learner.inner_steps=1", "learner.inner_lr=0.01", "task.shots=2", "task.queries=2")
    return lambda *more: run_of("task=arrays", f"task.path={file}", "learner=fomaml", "model=mlp", *settings, *more)


def test_where_tasks_are_of_groups_each_group_is_a_user_and_is_met_once_in_a_meta_step(of_groups):
    run = of_groups("model.hidden=[8]")
    assert run.private.users == 3
    assert run.private == of_groups("train.private.users=3").private
    data, net = run.tasks.load("train"), make_net(run.model, run.tasks, 1)
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    state = make_start(run.learner, net, run.tasks, sgd)(data, NUMBERS, engine.stream(0, engine.INIT))
    episodes, counts, grads = tasks_of(run, net, run.private, 4)(data, state.params)
    assert counts.tolist() == [True, True, True, False]
    for user in range(3):
        episode = one_of(episodes, user)
        assert {int(x) for x in np.ravel([episode.support.x, episode.query.x])} == {user}

    each = [vector(one_of(grads, user)) for user in range(3)]
    expected = np.mean([g * min(1, 0.5 / np.linalg.norm(g)) for g in each], 0)
    before = vector(state.params)
    given = (run.learner, net, run.tasks, sgd, mesh, 4, 4, run.inner, run.train.guard)
    after = make_meta_steps(*given, private=run.private)(state, data, NUMBERS, K_TRAIN, 1)[0]
    np.testing.assert_allclose(before - vector(after.params), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("train.private.users=30", r"train.private.users=30: null or 3: .* each training group is a user"),
        ("train.private.delta=0.5", r"train.private.delta=0.5: below 1 / train.private.users, which is 0.333"),
        ("hardware.data=host", r"hardware.data=host: auto or device"),
    ],
)
def test_what_groups_cannot_be_is_refused_in_a_line(of_groups, settings, told):
    with pytest.raises(ConfigError, match=told):
        of_groups(settings)


def test_more_are_drawn_than_there_is_room_for_next_to_never():
    for users, most in ((300, 64), (10_000, 128)):
        rate = sampling_rate(users, most)
        assert binom.sf(most, users, rate * 0.999) <= MOST_OVERFLOW < binom.sf(most, users, rate * 1.001)
    assert sampling_rate(20, 32) == 1


def test_a_user_is_drawn_no_more_often_than_is_counted():
    """What is drawn by has parts of 2^-23; the chance is a whole number of them, and so none is rounded up."""
    for users, most in ((10_000, 128), (20_000_000, 64)):
        parts = sampling_rate(users, most) * 2**23
        assert parts == int(parts) > 0
        drawn = np.asarray(jax.random.bernoulli(jax.random.key(1), sampling_rate(users, most), (2**23,)))
        assert abs(drawn.sum() - parts) < 5 * np.sqrt(parts)
    assert sampling_rate(2**31 - 1, 64) == 0
    with pytest.raises(ConfigError, match="meta_batch=64: at least 408"):
        Private(1.0, 1.0, 2**31 - 1, 1e-10).must_fit(64)


def test_a_meta_gradient_in_bfloat16_is_no_longer_than_the_clip_either():
    """Its length in bfloat16 is up to half a per cent off, of these too."""

    def meta_grad(tasks, keys):
        return {"w": tasks[0]}, {"loss": jnp.float32(0)}

    tasks = np.random.default_rng(0).normal(size=(40, 200)).astype(jnp.bfloat16)
    clipped = jax.jit(jax.vmap(lambda *task: clipped_each(meta_grad, *(part[None] for part in task), 1.0)[0]["w"]))
    found = clipped(tasks, np.arange(40), np.ones(40, bool))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_meta_steps_with_noise_leave_parameters_of_the_type_that_they_are_of():
    run = run_of("task=sinusoid", "learner=fomaml", "model.hidden=[8]", "train.private.clip=1", "train.private.noise=1")
    net = engine.nets(run.shape)[0]
    halves = net._replace(init=lambda *a: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), net.init(*a)))
    given = run.learner, halves, run.tasks, run.optimizer
    state = jax.eval_shape(make_start(*given).jitted, (), run.numbers, engine.stream(0, engine.INIT))
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    program = make_meta_steps(*given, mesh, 2, 1, run.inner, run.train.guard, private=run.private)
    after, _ = jax.eval_shape(program.jitted, state, (), run.numbers, engine.stream(0, engine.TRAIN), np.int32(1))
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)


def test_a_task_without_a_finite_meta_gradient_is_as_one_that_is_not_there():
    def meta_grad(episodes, keys):
        g = episodes.mean(0)
        return {"w": g}, {"loss": g.sum()}

    def finite_meta_grad(episodes, keys):
        grads, metrics = meta_grad(episodes, keys)
        return jax.tree.map(jnp.nan_to_num, grads), metrics

    tasks = np.float32([[3, 4], [np.nan, 1], [0.3, 0.4], [1, 1]])
    keys, there = np.arange(4), np.array([True, True, True, False])
    for how in (meta_grad, finite_meta_grad):  # of the second one the loss alone is not
        grads, metrics, share = jax.device_get(jax.jit(partial(clipped_each, how))(tasks, keys, there, 1.0))
        np.testing.assert_allclose(grads["w"], [(0.6 + 0.3) / 4, (0.8 + 0.4) / 4], rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], 7.7 / 4, rtol=1e-6)
        assert share == 0.5


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("train.private.noise=1", "train.private.noise"),
        ("train.private.users=100", "train.private.users"),
        ("train.private.clip=1 train.private.users=200000", "train.private.delta"),
        ("train.private.clip=1 train.private.users=2000 train.meta_batch=8", "train.meta_batch"),
        ("train.private.clip=0", "train.private.clip"),
        ("train.private.clip=1 train.private.users=2000 hardware.data=host", "hardware.data"),
    ],
)
def test_what_cannot_be_private_is_refused_by_its_key(settings, key):
    with pytest.raises(ConfigError) as error:
        run_of("task=sinusoid", *settings.split())
    assert error.value.key == key
    assert "\n" not in str(error.value)
