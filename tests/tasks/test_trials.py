"""Bandits, tabular MDPs and RL^2: against plain Python with the same draws, step by step, and loops over a trial."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import close, composed, drawn_like, no_meta_steps, placed, run_of, serving

from metarun import inner
from metarun.config import choices
from metarun.core import ConfigError, InTrials, memoryless
from metarun.engine.net import check_shapes, make_net
from metarun.learners.rl2 import RL2
from metarun.memories.attention import Attention
from metarun.memories.gru import GRU
from metarun.models.mlp import MLP
from metarun.run import train
from metarun.tasks.bandits import Bandits
from metarun.tasks.tabular_mdp import TabularMDP

BANDITS = Bandits(arms=3, pulls=6, shots=1, queries=4, discount=0.9, gae_lambda=1.0, surrogate="dice")
MDP = TabularMDP(
    states=4, actions=3, steps=5, episodes=3, shots=1, queries=4, discount=0.9, gae_lambda=1.0, surrogate="dice"
)
MEMORIES = {"gru": GRU(units=7), "attention": Attention(units=6, heads=2, blocks=2)}


def at_random(tasks):
    return memoryless(lambda x: jnp.zeros((len(x), tasks.n_out)))


def collected(tasks, seed=1):
    """Trials of one task by a random policy, (trials, steps, ...), its goal, and each step's key (steps, trials)."""

    @jax.jit
    def found(k_task, key):
        source = tasks.sample((), k_task).query
        _, k_steps = jax.random.split(jax.random.clone(key))
        keys = jax.vmap(lambda t: jax.random.split(jax.random.split(jax.random.fold_in(k_steps, t))[1], 4))
        return tasks.collect(source, at_random(tasks), key), source.y[0], keys(jnp.arange(tasks.trial))

    of_all, goal, keys = found(jax.random.key(0), jax.random.key(seed))
    by_trial = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(4, tasks.trial, *leaf.shape[1:]), of_all)
    return *by_trial, np.asarray(goal), keys


def one_hot(k, n):
    return np.eye(n)[k]


def test_a_bandit_pays_as_plain_python_does():
    x, y, chances, keys = collected(BANDITS)
    draws = np.asarray(jax.jit(jax.vmap(jax.vmap(jax.random.uniform)))(keys))
    for i in range(4):
        seen = [*np.zeros(3), 0, 1]
        for t in range(6):
            np.testing.assert_array_equal(x[i, t], seen)
            arm = int(y.action[i, t])
            reward = float(draws[t, i] < chances[arm])
            assert y.reward[i, t] == reward
            seen = [*one_hot(arm, 3), reward, 0]
    assert 0 < y.reward.mean() < 1
    assert y.valid.all()


def test_a_table_is_followed_as_plain_python_does():
    x, y, goal, keys = collected(MDP)
    np.testing.assert_allclose(goal[..., :4].sum(-1), 1, rtol=1e-5)

    def draws(key):
        k_next, k_reward = jax.random.split(key)
        return jax.random.gumbel(k_next, (4,)), jax.random.normal(k_reward)

    gumbels, normals = jax.device_get(jax.jit(jax.vmap(jax.vmap(draws)))(keys))
    for i in range(4):
        state, seen = 0, [*np.zeros(3), 0, 0, 1]
        for t in range(15):
            np.testing.assert_allclose(x[i, t], [*one_hot(state, 4), *seen], rtol=1e-5)
            action = int(y.action[i, t])
            reward = goal[state, action, 4] + normals[t, i]
            np.testing.assert_allclose(y.reward[i, t], reward, rtol=1e-4, atol=1e-5)
            ends = t % 5 == 4
            state = 0 if ends else int((np.log(goal[state, action, :4]) + gumbels[t, i]).argmax())
            seen = [*one_hot(action, 3), y.reward[i, t], float(ends), 0]


def test_rewards_are_on_average_those_of_the_paper():
    """Half of the pulls of a bandit pay at random; an MDP's mean rewards are N(1, 1)."""
    for tasks, mean in ((BANDITS, 0.5), (MDP, 1.0)):

        def reward(key, tasks=tasks):
            k_task, k_collect = jax.random.split(key)
            return tasks.collect(tasks.sample((), k_task).query, at_random(tasks), k_collect).y.reward.mean()

        found = np.asarray(jax.jit(jax.vmap(reward))(jax.random.split(jax.random.key(0), 4000)))
        assert abs(found.mean() - mean) < 4 * found.std() / np.sqrt(4000)
        assert 4 * found.std() / np.sqrt(4000) < 0.05


def test_the_best_is_what_the_best_of_all_plans_is_paid():
    """On a table of two states, two actions and three steps, by trying all plans; of a bandit the best arm's chance."""
    small = TabularMDP(2, 2, steps=3, episodes=2, shots=1, queries=1, discount=0.9, gae_lambda=1.0, surrogate="dice")
    goal = np.asarray(jax.jit(lambda key: small.sample((), key).query.y[0])(jax.random.key(0)))

    def paid(plan):  # (steps, states): what is done
        here, found = np.array([1.0, 0.0]), []
        for actions in plan:
            rows = goal[[0, 1], list(actions)]
            found.append(here @ rows[:, 2])
            here = here @ rows[:, :2]
        return found

    every = [paid(plan) for plan in itertools.product(itertools.product(range(2), repeat=2), repeat=3)]
    np.testing.assert_allclose(jax.jit(small.best)(goal), 2 * max(every, key=sum), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(BANDITS.best(jnp.array([0.2, 0.7, 0.1])), np.full(6, 0.7, np.float32))


@no_meta_steps()
def test_a_test_tells_what_each_step_paid_beside_who_acts_at_random_and_who_knows_the_task(tmp_path):
    values = composed(
        "task=bandits", "task.arms=2", "task.pulls=5", "learner=rl2", "learner.memory.units=4", "train.steps=1",
        "train.meta_batch=4", "hardware.task_chunk=2", "hardware.devices=1", "eval.episodes=2000",
        "eval.val_episodes=2", "logger=none",
    )  # fmt: skip
    results = train.train(placed(values, tmp_path / "run"))
    told, figure = results["test_by_step"], results["test"]["return"]["mean"]
    np.testing.assert_allclose(sum(one["mean"] for one in told["reward"]), figure, rtol=1e-5)
    assert len(told["reward"]) == len(told["random"]) == len(told["best"]) == 5
    np.testing.assert_allclose(told["random"], 0.5, atol=0.06)
    np.testing.assert_allclose(told["best"], 2 / 3, atol=0.03)  # the larger of two uniform numbers


@cache
def learner_on(tasks, memory, recent):
    learner = RL2(MEMORIES[memory], discount=0.9, gae_lambda=0.8, value_weight=0.5, recent=recent)
    net = make_net(MLP((), "none", None), tasks, None)
    width = jax.eval_shape(tasks.sample, (), jax.random.key(0)).query.x.shape[1]
    return learner, net, drawn_like(lambda: learner.init(net, jax.random.key(2), jnp.zeros((1, width))))


@pytest.mark.parametrize(
    ("tasks", "memory", "recent"),
    [(BANDITS, "gru", 1), (BANDITS, "attention", 1), (MDP, "gru", 3)],
    ids=["gru", "attention", "recent"],
)
def test_whole_trials_are_predicted_as_they_were_acted_in_and_each_begins_with_an_empty_memory(tasks, memory, recent):
    learner, net, params = learner_on(tasks, memory, recent)

    @jax.jit
    def collected(params, key):
        return inner.queries(learner, net, params, tasks.sample((), key).query, key)

    x, y = jax.device_get(collected(params, jax.random.key(4)))
    predict = jax.jit(lambda x: learner.predict(net, params, x))
    rows = np.arange(len(x)).reshape(4, -1)[[2, 0, 3, 1]].reshape(-1)
    predicted, of_permuted = (np.asarray(predict(of)) for of in (x, x[rows]))
    np.testing.assert_allclose(y.outputs, predicted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_permuted, predicted[rows], rtol=1e-5, atol=1e-6)
    by_trial = predicted.reshape(4, tasks.trial, -1)
    np.testing.assert_allclose(by_trial[:, 0], by_trial[:1, 0].repeat(4, 0), rtol=1e-5, atol=1e-6)  # nothing is known
    assert np.abs(by_trial[:, -1] - by_trial[:1, -1])[1:].max() > 1e-3


def test_of_recent_observations_the_model_sees_this_one_first_and_nothing_before_the_trial():
    learner, net, params = learner_on(MDP, "gru", 3)
    x = np.float32(np.random.default_rng(5).normal(size=(4, MDP.trial, MDP.states + MDP.actions + 3)))
    before = np.pad(x, ((0, 0), (2, 0), (0, 0)))
    seen = np.concatenate([before[:, 2 - ago : 2 - ago + MDP.trial] for ago in range(3)], axis=-1)
    of_all_three, _, _ = learner_on(MDP, "gru", 1)
    both = jax.jit(lambda *of: [own.read(net, params, x) for own, x in zip((learner, of_all_three), of, strict=True)])
    found, expected = both(*(of.reshape(-1, of.shape[-1]) for of in (x, seen)))
    close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("times", "expected"), [("uniform", np.linspace(1, 49, 2000)), ("logarithmic", np.geomspace(1, 49, 2000))]
)
def test_units_of_a_gru_remember_for_times_up_to_a_sequences(times, expected):
    """At the start, without input, a state is t / (1 + t) of what it was, for times t from 1 to the length - 1."""
    gru = GRU(units=2000, times=times)
    params = jax.eval_shape(lambda: gru.init(jax.random.key(0), 1, 50))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    bias = jax.jit(lambda: gru.init(jax.random.key(0), 1, 50)["bias"])()
    after, _ = jax.jit(lambda bias: gru.steps(zero | {"bias": bias}, jnp.ones((1, 2000)), jnp.zeros((1, 1, 1))))(bias)
    found = np.asarray(after[0] / (1 - after[0]))
    assert (found.min() > 0.99, found.max() < 49.1) == (True, True)
    np.testing.assert_allclose(np.sort(found), expected, atol=2)
    np.testing.assert_array_equal(jax.jit(lambda: GRU(5, times).init(jax.random.key(0), 1, 1)["bias"])(), 0)


def by_hand(params, x):
    """A trial x (steps, d) -> logits (steps, actions) and values (steps,) of the equations of Cho et al. 2014."""
    gru = params["memory"]
    to_r, to_z, to_c = jnp.split(gru["hidden"], 3, axis=1)

    def step(h, row):
        r, z, c = jnp.split(row @ gru["inputs"] + gru["bias"], 3)
        r, z = (1 / (1 + jnp.exp(-v)) for v in (r + h @ to_r, z + h @ to_z))
        h = z * h + (1 - z) * jnp.tanh(c + (r * h) @ to_c)
        value = len(x) * (h @ params["value"]["kernel"] + params["value"]["bias"])[0]
        return h, (h @ params["policy"]["kernel"] + params["policy"]["bias"], value)

    return jax.lax.scan(step, jnp.zeros(7), x)[1]


def test_the_meta_gradient_is_that_of_a_loop_over_each_trial():
    learner, net, params = learner_on(BANDITS, "gru", 1)
    keys = jax.random.split(jax.random.key(5), 2)

    @jax.jit
    @jax.vmap
    def collected(key):
        episode = BANDITS.sample((), key)
        return episode, inner.queries(learner, net, params, episode.query, key)

    episodes, (x, y) = jax.device_get(collected(keys))
    x, action, reward = (leaf.reshape(8, 6, *leaf.shape[2:]) for leaf in (x, y.action, y.reward))
    told = np.pad(jax.jit(jax.vmap(lambda x: by_hand(params, x)[1]))(x), ((0, 0), (0, 1)))
    advantage = np.zeros((8, 6), np.float32)
    for i, t in np.ndindex(8, 6):
        for k in range(t, 6):
            advantage[i, t] += (0.9 * 0.8) ** (k - t) * (reward[i, k] + 0.9 * told[i, k + 1] - told[i, k])

    def loss(params):
        logits, values = jax.vmap(lambda x: by_hand(params, x))(x)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=2)[..., 0]
        return (-log_p * advantage + 0.5 * jnp.square((values - told[:, :6] - advantage) / 6)).mean()

    found, metrics = jax.jit(lambda params: learner.meta_grad(net, params, episodes, keys, 0))(params)
    expected = jax.jit(jax.grad(loss))(params)
    close(found, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["return"], reward.sum() / 8, rtol=1e-5)


@pytest.mark.parametrize("task", ["bandits", "tabular_mdp"])
@pytest.mark.parametrize("learner", choices("learner"))
def test_a_learner_acts_in_trials_or_says_in_a_line_which_do(learner, task):
    overrides = (f"task={task}", f"learner={learner}", "optimizer=adam", "logger=none")
    if learner not in (acts := serving(task)):
        said = f"does not act, and {task} has to be acted in; use {', '.join(acts)}$"
        with pytest.raises(ConfigError, match=said) as error:
            run_of(*overrides)
        assert error.value.key == "learner"
        return
    run = run_of(*overrides)
    assert isinstance(run.tasks, InTrials)
    if not isinstance(run.learner, RL2):  # the others are the same as in tests/tasks/test_navigation.py
        return
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    check_shapes(run.learner, net, run.tasks, ())


@pytest.mark.parametrize("task", ["sinusoid", "strokes", "navigation"])
def test_rl2_says_in_a_line_that_a_task_has_no_trials(task):
    with pytest.raises(ConfigError, match=f"learns within trials .*, as bandits have, and {task} has none") as error:
        run_of(f"task={task}", "learner=rl2")
    assert error.value.key == "learner"
