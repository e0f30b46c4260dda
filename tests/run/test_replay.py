"""A meta-step that is kept runs once more, task by task: on every task, with every learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from support import composed, on_blobs, placed

from metarun import engine
from metarun.config import choices
from metarun.config.run import Run
from metarun.run import nonfinite

SMALL = ("logger=none", "train.meta_batch=2", "hardware.devices=2", "train.steps=4", "eval.inductive=none",
         "hardware.task_chunk=1")  # fmt: skip
QUICK = ("protonet", "sinusoid")  # make slow takes them all


def quick_and_slow(names: list[str]) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def kept(directory, values) -> tuple[Run, dict[str, float]]:
    """A run whose first meta-step is kept as if it had not been finite; and that meta-step's own metrics."""
    run = placed(values, directory)
    mesh = run.hardware.set_up(run.train.meta_batch)
    data = engine.placed(run.tasks.load("train"), mesh)
    state = engine.first_state(run.shape, mesh, data, run.numbers, run.train.seed)
    directory.mkdir()
    (directory / "config.yaml").write_text(yaml.safe_dump(run.config))
    told = nonfinite.keep(run, state, {"accuracy": jnp.float32(0.1), "loss": jnp.float32(jnp.nan)})
    assert "is not finite (accuracy 0.1, loss nan)" in told
    assert f"metarun replay {directory}" in told
    meta_steps = engine.programs(run.shape, mesh, 1).meta_steps
    k_train = engine.stream(run.train.seed, engine.TRAIN)
    _, report = engine.send(meta_steps, state, data, run.numbers, k_train, np.int32(1))
    return run, {name: float(value) for name, value in jax.device_get(report.metrics).items()}


def assert_replayed(directory, values) -> None:
    run, expected = kept(directory, values)
    found = nonfinite.replay(directory)
    assert found["meta_step"] == 1
    assert len(found["tasks"]) == run.train.meta_batch
    for name, value in expected.items():  # the meta-step's metrics are the mean over its tasks
        got = np.mean([task["metrics"][name] for task in found["tasks"]])
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert "0 of 2 tasks" in nonfinite.tell(found)
    assert "each task alone is finite" in nonfinite.tell(found)


@pytest.mark.parametrize("task", quick_and_slow(choices("task")))
def test_on_every_task(tmp_path, data_for, task):
    small = ("model=mlp", "model.hidden=[8]", "learner=maml", *data_for(task))
    assert_replayed(tmp_path / "run", composed(*SMALL, f"task={task}", *small))


@pytest.mark.parametrize("learner", quick_and_slow(choices("learner")))
def test_with_every_learner(tmp_path, learner):
    small = ("learner.units=8",) if learner == "lstm" else ()
    assert_replayed(tmp_path / "run", on_blobs(*SMALL, f"learner={learner}", *small))


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["cnp", "cavia", "reptile"])
def test_a_regression_with_a_learner_of_its_own_kind(tmp_path, learner):
    assert_replayed(tmp_path / "run", composed(*SMALL, "task=sinusoid", f"learner={learner}", "model.hidden=[8]"))
