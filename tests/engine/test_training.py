"""Meta-learning must matter: untrained networks stay low, a few hundred meta-steps lift them far above."""

import json

import numpy as np
import pytest
from support import composed, run_of

from metarun import engine
from metarun.config.run import build_run
from metarun.engine import programs
from metarun.run import train

FEW = ("eval.episodes=100", "eval.val_episodes=20")


@pytest.mark.slow
def test_strokes_an_untrained_network_however_adapted_stays_under_60_percent():
    # The best of the step sizes tried.
    run = run_of("learner.inner_lr=0.1", "eval.episodes=200", "eval.inductive=none", "eval.inner_steps=[1,5,10]")
    of_run = programs(run.shape, run.hardware.set_up(run.train.meta_batch), 4)
    data, numbers = run.tasks.load("test"), run.numbers
    params = of_run.start(data, numbers, engine.stream(0, engine.INIT)).params
    k_eval = engine.stream(0, engine.EVAL)
    for found in of_run.evaluate(params, data, 200, k_eval, numbers["eval_learner"], run.other_steps):
        assert found.figures["accuracy"]["mean"] < 0.6


def trained(tmp_path, *overrides: str) -> dict:
    values = composed("logger=none", *overrides)
    values["run"]["dir"] = str(tmp_path / "run")
    found = train.train(build_run(values))
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == found
    return found


@pytest.mark.slow
def test_maml_learns_strokes(tmp_path):
    found = trained(
        tmp_path, "experiment=demo", "model.filters=16", "train.steps=150", "train.eval_every=75", *FEW,
        "eval.inner_steps=[0]",
    )  # fmt: skip
    assert found["test_by_inner_steps"]["0"]["accuracy"]["mean"] < 0.3
    assert found["test"]["accuracy"]["mean"] > 0.6
    assert found["test"]["accuracy_inductive"]["mean"] != found["test"]["accuracy"]["mean"]


@pytest.mark.slow
def test_maml_learns_real_omniglot_far_above_chance(tmp_path, omniglot_dir):
    found = trained(
        tmp_path, "task=omniglot", f"data_dir={omniglot_dir}", "model.filters=16",
        "optimizer.learning_rate=0.003", "train.steps=200", "train.eval_every=100", "train.meta_batch=16", *FEW,
        "eval.inner_steps=[]", "eval.inductive=none",
    )  # fmt: skip
    accuracy = found["test"]["accuracy"]
    assert accuracy["mean"] - accuracy["ci95"] > 0.5  # chance is 0.2
    assert np.isfinite(found["speed"]["meta_steps_per_s"])
    assert set(found["protocol"]["classes"]) == {"train", "val", "test"}
