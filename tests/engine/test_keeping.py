"""What a learner keeps passes the outer optimizer by, on every device and in every meta-step."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import close, run_of

from metarun import engine
from metarun.core import ConfigError
from metarun.engine.meta_step import Guard, make_meta_steps, make_start
from metarun.engine.net import make_net

SMALL = ("task=sinusoid", "model.hidden=[8]", "learner=reptile", "learner.inner_batch=5", "learner.moments=kept")
RUN = run_of(*SMALL)
NET = make_net(RUN.model, RUN.tasks, 1)
K_TRAIN = engine.stream(0, engine.TRAIN)
RATE, NORM = 0.25, 0.01
NUMBERS = {"learner": {}, "optimizer": {"learning_rate": RATE}}


def sgd(numbers):
    return optax.sgd(**numbers)


def test_the_optimizer_and_its_bound_are_for_what_is_learned_and_what_is_kept_is_the_tasks_mean():
    given = (RUN.learner, NET, RUN.tasks, sgd, Mesh(np.array(jax.devices()[:2]), ("tasks",)), 4, 1, RUN.inner)
    steps = make_meta_steps(*given, Guard(clip_value=None, clip_norm=NORM, skip_at_most=0))
    start = make_start(RUN.learner, NET, RUN.tasks, sgd)
    first = jax.device_get(start((), NUMBERS, engine.stream(0, engine.INIT)))
    once = jax.device_get(steps(jax.device_put(first), (), NUMBERS, K_TRAIN, 1)[0])

    def trained(index):
        k_episode, k_adapt = engine.task_key(jax.random.fold_in(K_TRAIN, 0), index)
        return RUN.learner.trained(NET, first.params, RUN.tasks.sample((), k_episode).support, k_adapt)

    left = jax.device_get(jax.jit(jax.vmap(trained))(np.arange(4)))
    close(once.params["adam"], jax.tree.map(lambda leaf: leaf.mean(0), left["adam"]), rtol=1e-4)

    way = jax.tree.map(np.subtract, once.params["theta"], first.params["theta"])
    towards = jax.tree.map(lambda after, before: after.mean(0) - before, left["theta"], first.params["theta"])
    length = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(towards)))
    close(way, jax.tree.map(lambda leaf: leaf * RATE * NORM / length, towards), rtol=1e-3, atol=1e-7)

    twice = steps(jax.device_put(once), (), NUMBERS, K_TRAIN, 1)[0]
    assert float(twice.params["adam"]["steps"]) == 2 * RUN.learner.inner_steps


def test_moments_are_no_parameters():
    start = make_start(RUN.learner, NET, RUN.tasks, sgd)((), NUMBERS, engine.stream(0, engine.INIT))
    assert engine.size_of(RUN.learner, start.params) == 1 * 8 + 8 + 8 * 1 + 1


def test_noise_is_not_for_what_is_kept():
    with pytest.raises(
        ConfigError, match=r"^train.private.clip=1.0: null with a learner that keeps something \(adam\)"
    ):
        run_of(*SMALL, "train.private.clip=1.0")
