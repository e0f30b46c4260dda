"""A few hundred meta-steps beat the untrained learner clearly: every learner that learns, on a small network."""

import jax
import jax.numpy as jnp
import pytest
from support import run_of

from metarun import engine
from metarun.conf import choices
from metarun.evaluate import make_evaluate

WITHOUT_TRAINING = ("nearest_neighbour", "scratch")
READERS = ("lstm", "mann")
ON_STROKES = ("matching", "metaoptnet", "proto_maml", "protonet", *READERS)  # the others do sine waves
STROKES = ("task=strokes", "task.ways=3", "task.queries=2", "model=mlp", "model.hidden=[64]", "train.meta_batch=16")
# Without jitter the drawings of a class are all the same: what has to be learned is to remember, not to see.
REMEMBER = ("task.jitter=0", "task.ways=2", "model.hidden=[32]", "++train.task.queries=3")
OVERRIDES = {
    "lstm": (*REMEMBER, "learner.units=128"),
    "mann": (*REMEMBER, "learner.units=64", "learner.memory=[16,16]"),
    "protonet": ("++train.task.ways=6", "++train.task.queries=2"),
    "proto_maml": ("++train.task.ways=6",),
    "reptile": ("learner.inner_lr=0.01", "train.meta_batch=5"),
    "cavia": ("learner.context=4",),
    "imaml": ("learner.inner_optimizer=adam", "learner.inner_lr=0.02", "learner.inner_steps=10", "learner.penalty=0.5"),
    "finetune": ("learner.adapts=all", "learner.inner_steps=5"),
}
STEPS = {"imaml": 1000, "lstm": 1800, "mann": 300, "reptile": 1000, "finetune": 600, "cnp": 1000, "proto_maml": 600}


@pytest.mark.parametrize("learner", [name for name in choices("learner") if name not in WITHOUT_TRAINING])
def test_a_few_hundred_meta_steps_beat_the_untrained_learner(learner):
    task = STROKES if learner in ON_STROKES else ("task=sinusoid", "train.meta_batch=25")
    steps = STEPS.get(learner, 300)
    run = run_of(f"learner={learner}", *task, f"train.steps={steps}", *OVERRIDES.get(learner, ()))
    rate = 0.003 if learner == "lstm" else 0.005
    optimizer = run.optimizer if learner == "reptile" else run_of(f"optimizer.learning_rate={rate}").optimizer
    mesh = run.hardware.set_up(run.train.meta_batch)
    net = engine.make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    eval_net = engine.make_net(run.model, run.eval_tasks, run.eval_learner.width(run.eval_tasks.n_out))
    train, test = run.tasks.load("train"), run.eval_tasks.load("test")
    evaluate = make_evaluate(run.eval_learner, eval_net, run.eval_tasks, mesh, 25, 0, inductive=False)

    state = jax.jit(lambda data: engine.initial_state(run.learner, net, run.tasks, optimizer, data, 0))(train)
    episodes = 200 if learner in ON_STROKES else 1000
    before = evaluate(state.params, test, episodes)[run.tasks.metric]
    local = run.train.meta_batch // mesh.size
    meta_steps = engine.make_meta_steps(run.learner, net, run.tasks, optimizer, mesh, run.train.meta_batch, local, 0)
    after = evaluate(meta_steps(state, train, jnp.int32(steps)).params, test, episodes)[run.tasks.metric]

    better = after["mean"] - before["mean"] if run.tasks.metric == "accuracy" else before["mean"] - after["mean"]
    print(f"{learner}: {before['mean']:.3f} -> {after['mean']:.3f}")
    assert better > after["ci95"] + before["ci95"]
