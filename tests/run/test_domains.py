"""Other domains at the end of a run: the figures are those of a run evaluated there, whatever else is tested."""

import dataclasses

import jax
import numpy as np
import pytest
from support import composed, on_blobs, placed

from metarun import engine
from metarun.config.run import Run, build_run
from metarun.core import ConfigError
from metarun.engine.compiled import signature_of
from metarun.run import begin, domains, train
from metarun.run.loop import Loop

QUICK = (
    "logger=none", "train.steps=4", "train.meta_batch=2", "eval.episodes=12", "eval.val_episodes=2", "eval.state=last",
    "eval.inner_steps=[0]", "eval.inductive=none", "learner=fomaml", "hardware.devices=1",
)  # fmt: skip
TWO = {"_target_": "blobs.Blobs", "ways": 2, "shots": 1, "queries": 3, "pool": 30}
THREE = {"_target_": "blobs.Blobs", "ways": 3, "shots": 2, "queries": 2, "pool": 5}


def of(*overrides: str, task: dict | None = None, **tasks: dict) -> dict:
    """Blobs' configuration: evaluated on `task`, tested on `tasks`, too."""
    values = on_blobs(*QUICK, *overrides)
    return values | {"eval": values["eval"] | {"task": task or {}, "tasks": tasks}}


def test_a_domains_figures_are_those_of_a_run_evaluated_there_bit_for_bit(tmp_path):
    found = train.train(placed(of(two=TWO, three=THREE), tmp_path / "elsewhere"))
    there = train.train(
        placed(of(task={key: value for key, value in TWO.items() if key != "_target_"}), tmp_path / "two")
    )
    two = found["tests"]["two"]
    assert (two["figures"], two["by_inner_steps"]) == (there["test"], there["test_by_inner_steps"])
    assert (two["task"], two["classes"]) == (TWO, "test, 30 of them")
    assert found["test"] != two["figures"] != found["tests"]["three"]["figures"]


def test_a_finished_run_tested_elsewhere_is_one_that_was_begun_so(tmp_path, monkeypatch):
    first = train.train(placed(of(), tmp_path))
    assert first["tests"] == {}
    monkeypatch.setattr(Loop, "validate", lambda *_: pytest.fail("it validates"))
    monkeypatch.setattr(Loop, "advance", lambda *_: pytest.fail("it trains"))
    again = train.train(placed(of("eval.shots=[3]", three=THREE), tmp_path))
    assert again["test"] == first["test"]
    monkeypatch.undo()
    whole = train.train(placed(of("eval.shots=[3]", three=THREE, two=TWO), tmp_path / "whole"))
    assert again["tests"]["three"] == whole["tests"]["three"]
    assert set(whole["tests"]["three"]["by_shots"]) == {"3"}


def test_what_is_selected_by_stays_the_runs_own(tmp_path, monkeypatch):
    seen = []
    evaluate = Loop.evaluate

    def kept(loop, run, params, split, *rest):
        seen.append((split, run.eval_tasks.pool))
        return evaluate(loop, run, params, split, *rest)

    monkeypatch.setattr(Loop, "evaluate", kept)
    train.train(placed(of(two=TWO), tmp_path))
    assert {pool for split, pool in seen if split == "val"} == {20}
    assert [pool for split, pool in seen if split == "eval"] == [20, 30]


def test_a_program_compiled_ahead_is_the_one_that_the_placed_data_call():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("tasks",))
    data = {"x": np.arange(6, dtype=np.int64).reshape(2, 3), "n": np.float32(2), "y": jax.numpy.ones(3)}
    there, ahead = engine.placed(data, mesh), engine.to_be_placed(data, mesh)
    assert signature_of((ahead,)) == signature_of((there,))
    made = jax.jit(lambda data: data["x"].sum() * data["n"]).lower(ahead).compile()
    assert float(made(there)) == 30


def test_a_domain_has_the_classes_that_were_trained_on():
    run = build_run(of("learner=finetune", two=TWO))
    net, _ = engine.nets(run.shape)
    _, there = engine.nets(domains.on(run, "two").shape)
    assert (there.n_out, there.n_classes, net.n_classes) == (2, 20, 20)


def refused(run: Run) -> str:
    data = {"train": run.tasks.load("train"), "val": run.eval_tasks.load("val")}
    net, _ = engine.nets(run.shape)
    shapes = engine.check_shapes(run.learner, net, run.tasks, data["train"])
    with pytest.raises(ConfigError) as error:
        domains.load(run, data, shapes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_inputs_of_another_shape_are_refused_with_both_shapes_and_what_to_set(small_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    run = build_run(composed(f"++eval.tasks={{mine: {{task: folder, path: '{small_folder}'}}}}", "task.queries=2"))
    says = refused(run)
    assert says.startswith(
        "eval.tasks.mine=folder: has inputs of 32x32x3 float32, and the model was trained with 28x28x1"
    )
    assert says.endswith("set eval.tasks.mine.image.side=28 eval.tasks.mine.image.colour=grey")
    small = dataclasses.replace(run.domains["mine"].image, side=28, colour="grey")
    run = dataclasses.replace(run, domains={"mine": dataclasses.replace(run.domains["mine"], image=small)})
    found = domains.load(run, {"train": run.tasks.load("train"), "val": run.tasks.load("val")}, shapes_of(run))
    assert found["mine"].data.x.shape == (200, 28, 28, 1)  # all 25 classes


def test_the_runs_own_test_tasks_are_held_to_the_shape_of_training_too(small_folder):
    own = composed("task=folder", f"task.path={small_folder}", "model=mlp", "++eval.task.image.side=16")
    with pytest.raises(
        ConfigError, match=r"eval\.task=folder: has inputs of 16x16x3 .* set eval\.task\.image\.side=32"
    ):
        begin.load(build_run(own))
    with pytest.raises(ConfigError, match=r"eval\.learner=\(its settings\): they change what is learned"):
        begin.load(build_run(composed("learner=mann", "++eval.learner.units=5")))


def shapes_of(run: Run):
    return engine.check_shapes(run.learner, engine.nets(run.shape)[0], run.tasks, run.tasks.load("train"))
