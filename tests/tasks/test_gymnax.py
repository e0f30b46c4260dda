"""The door to gymnax's environments: against plain loops over its own functions, and what is told of mistakes."""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_in_gymnax
from support import run_of

from metarun.config import translate
from metarun.core import ConfigError, InTrials, memoryless
from metarun.engine.compiled import described
from metarun.engine.net import check_shapes, make_net
from metarun.tasks import gymnax
from metarun.tasks.gymnax import Gymnax, GymnaxTrials

HOW = {"shots": 1, "queries": 3, "discount": 0.9, "gae_lambda": 1.0, "surrogate": "dice"}


@pytest.fixture(autouse=True)
def _walkers(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", stand_in_gymnax)
    gymnax.made.cache_clear()
    yield
    gymnax.made.cache_clear()


def collected(tasks, outputs):
    """Trajectories of a task by a policy (observations -> outputs): goal, then x and y, (trajectories, steps, ...)."""
    source = jax.jit(lambda key: tasks.sample((), key))(jax.random.key(0)).query
    x, y = jax.jit(lambda key: tasks.collect(source, memoryless(outputs), key))(jax.random.key(1))
    found = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(3, tasks.horizon, *leaf.shape[1:]), (x, y))
    return {name: float(leaf[0]) for name, leaf in source.y.items()}, *found


def to_the_right(x):
    return jnp.broadcast_to(jnp.array([[0.0, 1e4]]), (len(x), 2))


def test_trajectories_are_those_of_a_plain_loop_and_end_where_the_environment_says():
    for longest, vary in ((200, {"length": [0.2, 0.4]}), (2, {"slope": [0.2, 0.3], "length": [0.1, 0.2]})):
        tasks = Gymnax(env="CartPole-v1", vary=vary, horizon=8, **HOW)
        env, params = gymnax.made("CartPole-v1")
        gymnax_params = params.replace(max_steps_in_episode=longest)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gymnax, "made", lambda name, both=(env, gymnax_params): both)
            goal, x, y = collected(tasks, to_the_right)
        assert goal.keys() == vary.keys()
        assert all(low <= goal[name] <= high for name, (low, high) in vary.items())
        for i in range(3):
            at, steps, ended = x[i, 0, 0], 0, False
            assert abs(at - goal.get("slope", 0)) <= 0.05
            for t in range(8):
                assert y.valid[i, t] == (not ended)
                assert y.reward[i, t] == (not ended)
                if not ended:
                    np.testing.assert_allclose(x[i, t], [at, steps], rtol=1e-5)
                    at, steps = at + goal["length"] + goal.get("slope", 0), steps + 1
                    ended = abs(at) > 1 or steps >= longest
            assert ended


class Pole(NamedTuple):
    """CartPole's parameters, of which two follow from others."""

    masscart: float = 1.0
    masspole: float = 0.1
    total_mass: float = 1.1
    length: float = 0.5
    polemass_length: float = 0.05

    def replace(self, **values):
        return self._replace(**values)


@pytest.mark.parametrize(
    ("goal", "total_mass", "polemass_length"),
    [
        ({"masscart": 5.0}, 5.1, 0.05),
        ({"length": 1.0}, 1.1, 0.1),
        ({"masspole": 0.5, "length": 2.0}, 1.5, 1.0),
        ({"total_mass": 3.0}, 3.0, 0.05),
        ({}, 1.1, 0.05),
    ],
)
def test_what_follows_from_a_tasks_parameters_is_its_own_too(goal, total_mass, polemass_length):
    found = gymnax.of_task(Pole(), goal)
    assert found[2::2] == pytest.approx((total_mass, polemass_length))
    assert {name: getattr(found, name) for name in goal} == goal


def test_an_action_that_is_a_number_is_brought_into_its_bounds():
    tasks = Gymnax(env="Pendulum-v1", vary={"length": [0.1, 0.3]}, horizon=3, **HOW)
    assert tasks.n_out == 2
    goal, x, _ = collected(tasks, lambda x: jnp.broadcast_to(jnp.array([[0.5, -12.0]]), (len(x), 2)))
    np.testing.assert_allclose(np.diff(x[:, :, 0], axis=1), 0.5 * goal["length"], rtol=1e-3)
    _, x, _ = collected(tasks, lambda x: jnp.broadcast_to(jnp.array([[-7.0, -12.0]]), (len(x), 2)))
    np.testing.assert_allclose(np.diff(x[:, :, 0], axis=1), -goal["length"], rtol=1e-3)


def test_trials_are_episodes_of_one_task_and_nothing_is_paid_after_a_fall():
    tasks = GymnaxTrials(env="CartPole-v1", vary={"length": [0.4, 0.45]}, steps=5, episodes=3, **HOW)
    assert isinstance(tasks, InTrials)
    assert tasks.trial == 15
    goal, x, y = collected(tasks, to_the_right)
    assert y.valid.all()
    np.testing.assert_array_equal(y.reward, np.tile([1, 1, 1, 0, 0], (3, 3)))  # beyond 1 at the third step
    np.testing.assert_allclose(tasks.by_step(jax.tree.map(lambda leaf: leaf.reshape(45, -1)[:, 0], y)), y.reward[0])
    for i in range(3):
        starts = x[i, ::5, 0]
        assert (np.abs(starts) <= 0.05).all()
        assert len({*starts.tolist()}) == 3
        for t in range(15):
            of = t % 5
            done = [0, 1] if t else [0, 0]
            over = float(of in (3, 4))
            paid = float(y.reward[i, t - 1]) if t else 0
            seen = [starts[t // 5] + min(of, 3) * goal["length"], min(of, 3)]
            np.testing.assert_allclose(x[i, t], [*seen, *done, paid, over, float(of == 0)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("task.env=Cart",), "task.env=Cart: no such environment; allowed: CartPole-v1, Pendulum-v1"),
        (
            ("task.vary={}",),
            r"task.vary={}: which parameters tasks differ in, .*; of CartPole-v1 there are: length, slope",
        ),
        (("task.vary={mass: [1.0, 2.0]}",), "task.vary.mass=.*: no such parameter that is a number; of CartPole-v1"),
        (("task.vary={max_steps_in_episode: [1.0, 2.0]}",), "no such parameter that is a number"),
        (("task.vary={length: [2.0, 1.0]}",), r"task.vary.length=\[2.0, 1.0\]: the lowest and the highest value"),
        (("task.vary={length: [2.0]}",), r"task.vary.length=\[2.0\]: the lowest and the highest value"),
    ],
)
@pytest.mark.parametrize("task", ["gymnax", "gymnax_trials"])
def test_a_mistake_is_told_in_a_line(task, settings, said):
    with pytest.raises(ConfigError, match=said) as error:
        run_of(f"task={task}", "learner=maml", *translate([*settings]))
    assert "\n" not in str(error.value)


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(
        ConfigError, match=r"task.env=CartPole-v1: needs a package \(.*\): pip install 'metarun\[gymnax\]'"
    ):
        run_of("task=gymnax")


@pytest.mark.parametrize(
    ("task", "learner", "model"),
    [
        ("gymnax", "maml", "mlp"),
        ("gymnax_trials", "maml", "mlp"),
        ("gymnax_trials", "rl2", "mlp"),
        ("gymnax", "maml", "gaussian"),
    ],
)
def test_learners_act_in_it_with_a_trust_region(task, learner, model):
    env = "Pendulum-v1" if model == "gaussian" else "CartPole-v1"
    how = (f"task.env={env}", f"learner={learner}", f"model={model}", "optimizer=trpo")
    run = run_of(f"task={task}", *how)
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    check_shapes(run.learner, net, run.tasks, (), check_shapes(run.learner, net, run.tasks, ()))
    assert hash(run.tasks) == hash(run_of(f"task={task}", *how).tasks)
    assert described(run.tasks) is None  # its code is another's: no executable may outlive the process


@pytest.mark.skipif(sys.modules.get("gymnax") is stand_in_gymnax, reason="pip install 'metarun[gymnax]'")
@pytest.mark.parametrize(
    ("env", "parameter"), [("CartPole-v1", "length"), ("MountainCar-v0", "gravity"), ("Pendulum-v1", "g")]
)
def test_the_real_ones_are_followed_as_their_own_steps_say(monkeypatch, env, parameter):
    monkeypatch.delitem(sys.modules, "gymnax")
    real, params = gymnax.made(env)
    value = getattr(params, parameter)
    tasks = Gymnax(env=env, vary={parameter: [0.5 * value, 0.9 * value]}, horizon=5, **HOW)
    with jax.numpy_rank_promotion("allow"):
        goal, x, y = collected(tasks, lambda x: jnp.zeros((len(x), tasks.n_out)))
        start = jax.jit(lambda key: real.reset_env(key, params)[1])(jax.random.key(0))
        for i in range(3):
            for t in range(4):
                if env == "Pendulum-v1":  # sees cos and sin of its angle, and how fast that changes
                    told = {"theta": np.arctan2(x[i, t, 1], x[i, t, 0]), "theta_dot": x[i, t, 2]}
                else:  # all of its state
                    names = [name for name in vars(start) if name not in ("time", "last_u")]
                    told = dict(zip(names, x[i, t], strict=True))
                state, own = start.replace(**told), params.replace(**goal)
                if env == "CartPole-v1":  # which keeps the product beside its factors
                    own = own.replace(polemass_length=params.masspole * goal["length"])
                seen, _, reward, *_ = real.step_env(jax.random.key(0), state, y.action[i, t], own)
                np.testing.assert_allclose(seen, x[i, t + 1], rtol=1e-3, atol=1e-5)
                np.testing.assert_allclose(reward, y.reward[i, t], rtol=1e-3, atol=1e-5)
