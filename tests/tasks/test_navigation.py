"""Learners that act, on navigation: which of them can, and whether results depend on how tasks are shared out."""

from functools import partial

import jax
import numpy as np
import pytest
from support import close, composed, drawn_like, no_meta_steps, placed, run_of, serving

from metarun.config import choices
from metarun.core import ConfigError, memoryless
from metarun.engine.net import check_shapes, make_net
from metarun.run import train
from metarun.run.restored import saved, stored

SMALL = (
    "task=navigation", "task.shots=2", "task.queries=2", "task.horizon=5", "model.hidden=[4]",
    "eval.task={shots: 2, queries: 2}",
    "eval.episodes=4", "eval.val_episodes=4", "train.steps=2", "train.meta_batch=4", "logger=none",
)  # fmt: skip


@pytest.mark.parametrize("learner", choices("learner"))
def test_a_learner_acts_or_says_in_a_line_which_do(learner):
    acts = serving("navigation")
    if learner not in acts:
        said = "(does not act, and navigation has to be acted in|as bandits have, and navigation has none); use "
        with pytest.raises(ConfigError, match=f"{said}{', '.join(acts)}$") as error:
            run_of(*SMALL, f"learner={learner}")
        assert error.value.key == "learner"
        return
    run = run_of(*SMALL, f"learner={learner}")
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    check_shapes(run.learner, net, run.tasks, (), check_shapes(run.learner, net, run.tasks, ()))


def test_which_learners_act_is_asked_of_each_of_them():
    acts = {"anil", "boil", "finetune", "fomaml", "maml", "meta_sgd", "scratch"}
    assert acts <= {*serving("navigation")} <= {*choices("learner")} - {"protonet", "rl2", "rl2_attention"}
    assert acts | {"rl2", "rl2_attention"} <= {*serving("bandits")} <= {*choices("learner")} - {"protonet"}


def test_a_step_has_trajectories_of_its_own_by_the_policy_of_its_start():
    """Two inner steps are two of one each, the second from where the first one ended."""
    run = run_of(*SMALL, "learner=maml", "learner.inner_steps=2", "learner.inner_lr=[0.5,0.25]")
    net = make_net(run.model, run.tasks, 4)
    support = jax.jit(lambda key: run.tasks.sample((), key).support)(jax.random.key(0))
    params = drawn_like(lambda: run.learner.init(net, jax.random.key(1), support.x))
    key = jax.random.key(2)

    @jax.jit
    def both(params):
        by_hand = params
        for step, rate in enumerate((0.5, 0.25)):
            x, y = run.tasks.collect(support, memoryless(partial(net.apply, by_hand)), jax.random.fold_in(key, step))
            grads = jax.grad(lambda params, x=x, y=y: run.tasks.inner_loss(net.apply(params, x), y))(by_hand)
            by_hand = jax.tree.map(lambda p, g, rate=rate: p - rate * g, by_hand, grads)
        return run.learner.adapt(net, params, support, key), by_hand

    found, expected = both(params)
    close(found, expected)


@pytest.mark.slow  # tests/test_proximal.py has the same of what is collected once
@pytest.mark.parametrize("optimizer", ["adam", "trpo"])
def test_results_depend_on_neither_chunks_nor_devices(tmp_path, optimizer):
    ways = {"two": (2, 1), "one": (1, 4)}  # in this order: jax makes no more devices than it began with
    damped = ["optimizer.damping=0.1"] if optimizer == "trpo" else []  # conjugate gradients multiply rounding
    for name, (devices, chunk) in ways.items():
        how = (f"hardware.devices={devices}", f"hardware.task_chunk={chunk}", "eval.inner_steps=[]")
        train.train(placed(composed(*SMALL, "learner=maml", f"optimizer={optimizer}", *damped, *how), tmp_path / name))
    one, two = (saved(stored(tmp_path / name), tmp_path / name, "last")[0] for name in ways)
    close(one, two, rtol=1e-3, atol=1e-4)


@no_meta_steps()
def test_a_test_keeps_its_trajectories(tmp_path):
    how = ("hardware.devices=1", "hardware.task_chunk=4", "eval.inner_steps=[]")
    train.train(placed(composed(*SMALL, "learner=maml", *how), tmp_path / "one"))
    start = run_of(*SMALL, "learner=maml")
    assert start.tasks.metric == "return"
    kept = np.load(tmp_path / "one" / "examples.npz")
    assert kept["outputs"].shape == (4, 2, 5, 2)
    assert (kept["outputs"][:, :, 0] == 0).all()  # where trajectories begin
    assert (np.sort(kept["rank"]) == np.arange(4)).all()
