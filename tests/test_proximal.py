"""Proximal policies: the surrogate against its cases one by one, and what an update is made of."""

import dataclasses
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import close, run_of

from metarun import acting, engine, recorded
from metarun.core import ConfigError
from metarun.engine.net import make_net
from metarun.proximal import Proximal, minibatch

OUTER = Proximal(
    learning_rate=0.1, within=0.2, epochs=1, minibatches=1, value_weight=0.7, entropy_weight=0.3, clip_norm=1e9
)
TRIALS = ("learner=rl2", "task=bandits", "task.arms=3", "task.pulls=4", "train.task={queries: 2}")
PLANE = ("learner=maml", "task=navigation", "task.shots=2", "task.queries=2", "task.horizon=4", "model.hidden=[3]")


@dataclass(frozen=True)
class Forgetful:
    """A memory of the last step alone, quick to compile: what is tested here asks no more of one."""

    units: int = 5

    def init(self, key, width, length):
        return jax.random.normal(key, (width, self.units))

    def blank(self, n, length):
        return ()

    def step(self, params, kept, z):
        return self.read(params, z), kept

    def read(self, params, z):
        return jnp.tanh(z @ params)


def quick(run):
    """The run, and where its learner has a memory it is a `Forgetful` one."""
    if not hasattr(run.learner, "memory"):
        return run
    return dataclasses.replace(run, learner=dataclasses.replace(run.learner, memory=Forgetful()))


@cache
def collected(n, *settings):
    """Learner, net, parameters and what they collected for n tasks (n, ...)."""
    run = quick(run_of(*settings))
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))

    @jax.jit
    def found(key):
        keys = jax.random.split(key, n)
        episodes = jax.vmap(lambda key: run.tasks.sample((), key))(keys)
        params = run.learner.init(net, jax.random.key(1), episodes.query.x[0])
        params = jax.tree.map(lambda leaf: leaf + 0.05, params)
        return params, jax.vmap(partial(recorded.record, run.learner, net, params))(episodes, jax.random.clone(keys))

    return run.learner, net, *jax.device_get(found(jax.random.key(0)))


def mean(chunks, f):
    """Over the rows of one device."""
    return jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(f, chunks))


def slope_of(outer, learner, net, params, every, rows=1):
    chunks = jax.tree.map(lambda leaf: leaf.reshape(rows, -1, *leaf.shape[1:]), every)
    return outer.problem(learner, net, params, chunks, jnp.zeros((), jnp.int32), mean)


@pytest.mark.parametrize("settings", [TRIALS, PLANE], ids=["rl2", "maml"])
def test_what_is_followed_is_the_clipped_surrogate_and_the_critics_error_both_in_units_of_their_own(settings):
    """Case by case: where an action has become likelier by more than `within` and paid, or less likely and did not."""
    learner, net, params, every = collected(6, *settings)
    elsewhere = jax.tree.map(lambda leaf: leaf + 0.3 * np.sin(np.float32(range(leaf.size))).reshape(leaf.shape), params)
    y = every.query.y
    old = np.where(y.valid, y.advantage, np.nan)
    advantage = (y.advantage - np.nanmean(old)) / np.nanstd(old)

    def by_hand(params, start):
        def of(task):
            fast = recorded.adapted(learner, net, params, task)
            values = learner.read(net, params, task.query.x)[1] if hasattr(learner, "read") else jnp.zeros(())
            outputs = learner.predict(net, fast, task.query.x)
            return acting.ratios(net.policy, outputs, task.query.y), outputs, values

        ratios, outputs, values = jax.vmap(of)(every)
        if critic:  # logits
            p = jax.nn.softmax(outputs)
            entropy = -(p * jnp.log(p)).sum(-1)
        else:  # two means, two logarithms of deviations
            entropy = jnp.log(2 * jnp.pi * jnp.e) + outputs[..., 2:].sum(-1)
        gained = jnp.where(advantage > 0, jnp.minimum(ratios, 1.2), jnp.maximum(ratios, 0.8)) * advantage
        loss = -jnp.where(y.valid, gained + 0.3 * entropy, 0).sum() / y.valid.sum()
        if start is None:
            return loss, (ratios, None)
        targets = start + y.advantage
        return loss + 0.7 * jnp.square(values - targets).mean() / targets.var(), (ratios, values)

    critic = settings is TRIALS

    @jax.jit
    def both(params, elsewhere):
        values = by_hand(params, 0.0)[1][1] if critic else None
        expected, (ratios, _) = jax.grad(by_hand, has_aux=True)(elsewhere, values)
        return expected, slope_of(OUTER, learner, net, params, every)(elsewhere, 0), ratios

    expected, found, ratios = jax.device_get(both(params, elsewhere))
    close(found, expected, rtol=2e-3, atol=1e-5)
    for tried in ((ratios > 1.2) & (advantage > 0), (ratios < 0.8) & (advantage < 0)):
        assert tried.any()


def test_minibatches_part_the_tasks_however_these_lie_in_chunks_and_devices():
    """Each of a minibatch's tasks is there once, whatever their number; its gradient is the mean of theirs."""
    learner, net, params, every = collected(12, *TRIALS)
    fives = dataclasses.replace(OUTER, minibatches=5)

    def each(rows):
        slope = slope_of(fives, learner, net, params, every, rows)
        return jax.lax.map(lambda which: slope(params, which), jnp.arange(5))

    whole, parts, at_once = jax.jit(
        lambda: (each(1), each(6), slope_of(OUTER, learner, net, params, every)(params, 0))
    )()
    close(parts, whole, rtol=1e-3, atol=1e-6)
    shares = np.float32([3, 3, 2, 2, 2]) / 12  # of the tasks
    mean_of_all = jax.tree.map(lambda leaf: np.tensordot(shares, leaf, 1), whole)
    close(mean_of_all, at_once, rtol=1e-3, atol=1e-6)
    numbers = np.arange(12)
    part = jax.jit(minibatch, static_argnums=3)
    for devices in (1, 2, 4):
        own = numbers.reshape(devices, 1, -1)
        for which in range(5):
            found = jax.device_get([part(tasks, tasks[0, 0], which, 5) for tasks in own])
            kept = sorted(int(n) for part in found for n, w in zip(part.tasks[0], part.weights[0], strict=True) if w)
            assert kept == list(range(which, 12, 5))


def test_an_update_is_so_many_steps_of_adam_each_of_its_own_part_at_the_rate_of_the_meta_step():
    rates = optax.linear_schedule(0.1, 0.02, 4)
    outer = dataclasses.replace(OUTER, learning_rate=rates, epochs=2, minibatches=3, clip_norm=0.5)
    centres = np.float32([[0, 0], [1, 2], [2, 4]])

    def along(params, which):
        return params - jnp.asarray(centres)[which]

    params = by_hand = np.zeros(2, np.float32)
    state, adam = outer.init(params), optax.scale_by_adam()
    moments, of_adam = adam.init(by_hand), jax.jit(adam.update)
    of_outer = jax.jit(lambda params, state: outer.update((), state, params, along))
    for meta_step in range(2):
        update, state = jax.device_get(of_outer(params, state))
        params = params + update
        for i in range(6):
            grad = by_hand - centres[i % 3]
            shorter = np.float32(min(1, 0.5 / max(np.linalg.norm(grad), 1e-9)))
            step, moments = jax.device_get(of_adam(grad * shorter, moments))
            by_hand = by_hand - np.float32(0.1 - 0.02 * meta_step) * step
    np.testing.assert_allclose(params, by_hand, rtol=1e-5)
    assert state.meta_steps == 2


@pytest.mark.parametrize("optimizer", ["ppo", "trpo"])
def test_results_depend_on_neither_chunks_nor_devices(optimizer):
    own = {"ppo": "optimizer.minibatches=3", "trpo": "optimizer.damping=0.1"}  # conjugate gradients multiply rounding
    run = quick(run_of(*TRIALS, f"optimizer={optimizer}", own[optimizer], "train.meta_batch=8"))

    meshes = [Mesh(np.array(jax.devices()[:devices]), ("tasks",)) for devices in (1, 2)]
    shapes = engine.shapes_of_first_state(run.shape, meshes[0], (), run.numbers)
    first = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    start = jax.tree.map(
        lambda leaf: 0.5 * np.sin(1 + np.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), first.params
    )

    def trained(mesh, chunk):
        state = engine.placed(first._replace(params=start), mesh)
        held, *fixed = engine.Training(state, (), run.numbers, engine.stream(0, engine.TRAIN))
        return engine.programs(run.shape, mesh, chunk).meta_steps(held, *fixed, np.int32(2))[0].params

    one, two = trained(meshes[0], 8), trained(meshes[1], 1)
    close(one, two, rtol=1e-3, atol=1e-5)
    assert np.abs(one["policy"]["bias"] - start["policy"]["bias"]).max() > 1e-4  # a step was made


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((*TRIALS, "optimizer.learning_rate=-1"), r"optimizer.learning_rate=-1: must be a number > 0$"),
        ((*TRIALS, "train.meta_batch=3"), r"optimizer.minibatches=4: at most 3, the tasks of train.meta_batch"),
        ((*TRIALS, "train.clip_norm=1"), "train.clip_norm.*null with optimizer=ppo"),
        ((*TRIALS, "train.private.clip=1.0"), "train.private.clip.*null with optimizer=ppo"),
        (("task=sinusoid", "learner=maml"), "is for policies, and sinusoid has none; use adam or sgd"),
        (("task=navigation", "learner=finetune"), "sees no policy's gradient in what finetune follows; use adam"),
    ],
)
def test_what_it_is_not_for_is_told_in_a_line(settings, said):
    with pytest.raises(ConfigError, match=said):
        run_of(*settings, "optimizer=ppo")
