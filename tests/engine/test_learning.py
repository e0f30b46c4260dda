"""A few hundred meta-steps beat the untrained learner clearly: every learner that learns, on a small network."""

import jax.numpy as jnp
import pytest
from support import ACTING_ALONE, run_of

from metarun import engine
from metarun.config import choices
from metarun.engine import programs

ELSEWHERE = ("nearest_neighbour", "scratch", *ACTING_ALONE)  # two do not train; trials have their own file
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
    "imaml": ("learner.inner_optimizer=adam", "learner.inner_lr=0.01", "learner.inner_steps=16", "learner.penalty=0.5"),
    "finetune": ("learner.adapts=all", "learner.inner_steps=5"),
}
STEPS = {"imaml": 500, "lstm": 1800, "mann": 300, "reptile": 1000, "finetune": 600, "cnp": 1000, "proto_maml": 600}


# One runs in `make test`; that the others' gradients are right is tested in their own files, against closed forms.
ALWAYS = ("maml",)
LEARNERS = [
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow)
    for name in choices("learner")
    if name not in ELSEWHERE
]


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_few_hundred_meta_steps_beat_the_untrained_learner(learner):
    task = STROKES if learner in ON_STROKES else ("task=sinusoid", "train.meta_batch=25")
    steps = STEPS.get(learner, 300)
    episodes = 200 if learner in ON_STROKES else 3000
    rate = () if learner == "reptile" else (f"optimizer.learning_rate={0.003 if learner == 'lstm' else 0.005}",)
    counts = (f"train.steps={steps}", f"eval.episodes={episodes}", "eval.inductive=none")
    run = run_of(f"learner={learner}", *task, *counts, *rate, *OVERRIDES.get(learner, ()))
    mesh = run.hardware.set_up(run.train.meta_batch)
    train, test = run.tasks.load("train"), run.eval_tasks.load("test")
    start, meta_steps, evaluate, *_ = programs(run.shape, mesh, run.train.meta_batch // mesh.size)

    def figure(params):
        k_eval = engine.stream(0, engine.EVAL)
        return evaluate(params, test, episodes, k_eval, run.numbers["eval_learner"])[0].figures[run.tasks.metric]

    state = start(train, run.numbers, engine.stream(0, engine.INIT))
    before = figure(state.params)
    state, _ = meta_steps(state, train, run.numbers, engine.stream(0, engine.TRAIN), jnp.int32(steps))
    after = figure(state.params)

    better = after["mean"] - before["mean"] if run.tasks.metric == "accuracy" else before["mean"] - after["mean"]
    print(f"{learner}: {before['mean']:.3f} -> {after['mean']:.3f}")
    assert better > after["ci95"] + before["ci95"]
