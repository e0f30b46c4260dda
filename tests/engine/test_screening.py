"""The selection of a meta-step's tasks, against candidates that are scored one by one and chosen with numpy."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import run_of

from metarun import engine
from metarun.core import ConfigError
from metarun.data import Pool
from metarun.engine.meta_step import make_meta_steps, make_start
from metarun.engine.net import make_net
from metarun.engine.selection import Selection, chosen, must_be_whole, score, window
from metarun.inner import queries
from metarun.run import nonfinite
from metarun.tasks import groups

RUN = run_of("task=sinusoid", "learner=fomaml", "model.hidden=[8]", "learner.inner_steps=1")
NET = make_net(RUN.model, RUN.tasks, 1)
BATCH = 4
HARD, CURRICULUM = Selection(11, 0), Selection(11, 4)  # of 11 candidates devices and chunks have uneven shares
NUMBERS = {"learner": {}, "optimizer": {"learning_rate": 0.01}}
K_TRAIN = engine.stream(0, engine.TRAIN)


def sgd(numbers):
    return optax.sgd(**numbers)


START = make_start(RUN.learner, NET, RUN.tasks, sgd)


def start():
    return START((), NUMBERS, engine.stream(0, engine.INIT))


@cache
def steps(selection, devices=1, task_chunk=BATCH, members=None):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("tasks",))
    mesh = mesh if members is None else engine.of_members(mesh, members)
    how = (mesh, BATCH, task_chunk, RUN.inner, RUN.train.guard)
    return make_meta_steps(RUN.learner, NET, RUN.tasks, sgd, *how, members=members, selection=selection)


@jax.jit
def one_by_one(params, k_step, number):
    """A candidate's loss and meta-gradient, by itself."""
    k_episode, k_adapt = engine.task_key(k_step, number)
    episode = RUN.tasks.sample((), k_episode)
    fast = RUN.learner.adapt(NET, params, episode.support, k_adapt)
    loss, _ = NET.loss(NET.apply(fast, episode.query.x), episode.query.y)
    episodes, keys = jax.tree.map(lambda leaf: leaf[None], (episode, k_adapt))
    return loss, RUN.learner.meta_grad(NET, params, episodes, keys, 0)


@pytest.mark.parametrize("selection", [HARD, CURRICULUM])
def test_the_tasks_of_a_meta_step_are_those_that_numpy_chooses_from_candidates_scored_one_by_one(selection):
    state, params, total = start(), start().params, 0.0
    program = steps(selection, devices=2, task_chunk=1)
    for step in range(6):
        k_step = jax.random.fold_in(K_TRAIN, step)
        found = [one_by_one(params, k_step, i) for i in range(selection.candidates)]
        order = np.argsort([loss for loss, _ in found])
        first = min(step / 4, 1) * (selection.candidates - BATCH) if selection is CURRICULUM else len(order) - BATCH
        own = order[int(first) :][:BATCH]
        grads = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *(found[i][1][0] for i in own))
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
        total += np.mean([found[i][1][1]["loss"] for i in own])
        state, report = program(state, (), NUMBERS, K_TRAIN, 1)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.params, params)
        np.testing.assert_allclose(report.sums["loss"], total, rtol=1e-4)


@pytest.mark.parametrize(
    ("devices", "task_chunk"), [(1, 1), (1, 2), (2, 2), pytest.param(2, 1, marks=pytest.mark.slow)]
)
def test_devices_and_chunks_change_no_selection(devices, task_chunk):
    expected = steps(CURRICULUM)(start(), (), NUMBERS, K_TRAIN, 5)[0]
    got = steps(CURRICULUM, devices, task_chunk)(start(), (), NUMBERS, K_TRAIN, 5)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_meta_steps_that_are_cut_into_calls_are_those_of_one_call_bit_for_bit():
    program = steps(CURRICULUM, devices=2, task_chunk=2)
    whole, state = program(start(), (), NUMBERS, K_TRAIN, 7)[0], start()
    for n in (1, 4, 2):
        state = program(state, (), NUMBERS, K_TRAIN, n)[0]
    jax.tree.map(np.testing.assert_array_equal, whole, state)


def test_runs_in_one_program_each_select_their_own_tasks():
    keys = [engine.stream(seed, engine.TRAIN) for seed in range(2)]
    alone = [steps(HARD)(start(), (), NUMBERS, key, 3)[0].params for key in keys]
    program = steps(HARD, devices=2, members=2)
    mesh = engine.of_members(Mesh(np.array(jax.devices()[:2]), ("tasks",)), 2)
    states, numbers, k_train = (
        engine.stacked(trees, mesh) for trees in ([start(), start()], [NUMBERS, NUMBERS], keys)
    )  # fmt: skip
    together = jax.device_get(program(states, (), numbers, k_train, np.full(2, 3, np.int32))[0].params)
    for i, one in enumerate(alone):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), engine.cut(together, i), one)


chosen_ = partial(jax.jit, static_argnums=(0, 1))(chosen)


def test_a_curriculum_moves_evenly_from_the_easiest_to_the_hardest_and_stays_there():
    selection = Selection(candidates=50, hardest_at=100)
    of_steps = jax.jit(jax.vmap(window, (None, None, 0)), static_argnums=(0, 1))
    found = of_steps(selection, 15, np.arange(0, 130, 10))
    assert found.tolist() == [0, 3, 7, 10, 14, 17, 21, 24, 28, 31, 35, 35, 35]
    assert of_steps(Selection(50, 0), 15, np.arange(1)).tolist() == [35]
    scores = np.random.default_rng(0).normal(size=50)
    for step, first in ((0, 0), (50, 17), (100, 35), (10**9, 35)):
        expected = sorted(np.argsort(scores)[first : first + 15])
        np.testing.assert_array_equal(chosen_(selection, 15, scores, step), expected)


def test_what_is_no_number_is_the_hardest():
    scores = np.array([1.0, np.nan, 3.0, np.inf, 2.0])
    np.testing.assert_array_equal(chosen_(Selection(5, 0), 2, scores, 0), [1, 3])


def test_a_policy_is_scored_by_its_return_as_its_loss_on_what_it_collected_is_none():
    small = ("task.shots=2", "task.queries=2", "task.horizon=3", "model.hidden=[2]", "learner.inner_steps=0")
    run = run_of("task=navigation", "learner=maml", *small)
    net = make_net(run.model, run.tasks, run.tasks.n_out)

    @jax.jit
    def scored(key):
        k_episode, k_init, k_adapt = jax.random.split(key, 3)
        episode = run.tasks.sample((), k_episode)
        params = run.learner.init(net, k_init, episode.support.x)
        collected = queries(run.learner, net, params, episode.query, k_adapt)
        loss, metrics = net.loss(net.apply(params, collected.x), collected.y)
        again = jax.random.clone(k_adapt)
        return score(run.learner, net, run.tasks, params, episode, again), loss, metrics["return"]

    found, loss, value = jax.device_get(scored(jax.random.key(0)))
    assert abs(loss) < 1e-6 < abs(value)
    np.testing.assert_allclose(found, -value, rtol=1e-6)


SMALL = ("task=sinusoid", "model.hidden=[8]", "train.meta_batch=15")


def test_the_share_that_is_left_out_says_how_many_candidates_there_are():
    def of(*overrides):
        return run_of(*SMALL, *overrides).shape.selection

    assert of() is None
    assert of("train.selection=hard") == Selection(30, 0)
    assert of("train.selection=hard", "train.tail=0.7") == Selection(50, 0)
    assert of("train.selection=curriculum", "train.steps=1000") == Selection(30, 999)
    assert of("train.selection=curriculum", "train.hardest_at=400") == Selection(30, 400)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("train.selection=hard", "train.tail=0.01"), r"train\.tail=0\.01: .*15 it makes 15 candidates; .*hard"),
        (("train.selection=hard", "train.tail=0.9999"), r"train\.tail=0\.9999: .*150,000 candidates.*at most 65,536"),
        (("train.selection=hard", "train.tail=1.0"), r"train\.tail=1\.0: must be a number >= 0 and < 1"),
        (("train.selection=worst",), r"train\.selection=worst: must be one of uniform, hard, curriculum"),
        (
            ("train.selection=hard", "hardware.data=host"),
            r"hardware\.data=host: auto or device, as train\.selection=hard",
        ),
    ],
)
def test_a_selection_that_cannot_be_is_refused_in_a_line(overrides, told):
    with pytest.raises(ConfigError, match=told) as refused:
        run_of(*SMALL, *overrides)
    assert "\n" not in str(refused.value)


@dataclass(frozen=True)
class Pairs:
    """A regression on groups of rows."""

    shots: int = 2
    queries: int = 3
    sample = groups.sample


def test_examples_that_stay_on_the_host_are_refused_only_where_tasks_are_selected():
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    pool = Pool(np.zeros((40, 5), np.float32), np.array([0, 20]), np.array([20, 20]), np.zeros((40, 1), np.float32))
    on_host, on_device = (engine.held(where, {"train": (Pairs(), pool)}, mesh)["train"] for where in ("host", "device"))
    must_be_whole(None, on_host, "auto")
    must_be_whole(HARD, on_device, "auto")
    with pytest.raises(
        ConfigError, match=r"hardware\.data=auto: the examples stay on the host, .*hardware\.data=device"
    ):
        must_be_whole(HARD, on_host, "auto")


def test_the_keys_of_a_meta_step_that_is_not_finite_are_all_of_its_candidates():
    keys = nonfinite.keys(run_of(*SMALL, "train.selection=hard", "train.tail=0.7"), step=3)
    assert len(keys) == 50
    assert keys[:15] == nonfinite.keys(run_of(*SMALL), step=3)
