"""Other domains at the end of a run: the figures are those of a run evaluated there, whatever else is tested."""

import dataclasses

import jax
import numpy as np
import pytest
from support import composed, no_meta_steps, on_blobs, placed

from metarun import engine
from metarun.config.domains import complete
from metarun.config.run import Run, build_run
from metarun.core import ConfigError
from metarun.engine.compiled import signature_of
from metarun.engine.send import to_be_placed
from metarun.run import begin, domains, train
from metarun.run.loop import Loop

QUICK = (
    "logger=none", "train.steps=4", "train.meta_batch=2", "eval.episodes=12", "eval.val_episodes=2", "eval.state=last",
    "eval.inner_steps=[0]", "eval.inductive=none", "learner=fomaml", "hardware.devices=1",
)  # fmt: skip
MLP = ("model=mlp", "model.hidden=[8]")
TWO = {"_target_": "blobs.Blobs", "ways": 2, "shots": 1, "queries": 3, "pool": 30}
THREE = {"_target_": "blobs.Blobs", "ways": 3, "shots": 2, "queries": 2, "pool": 5}


def of(*overrides: str, task: dict | None = None, **tasks: dict) -> dict:
    """Blobs' configuration: evaluated on `task`, tested on `tasks`, too."""
    values = on_blobs(*QUICK, *overrides)
    return values | {"eval": values["eval"] | {"task": task or {}, "tasks": tasks}}


@no_meta_steps()
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
    with no_meta_steps():
        first = train.train(placed(of(), tmp_path))
    assert first["tests"] == {}
    monkeypatch.setattr(Loop, "validate", lambda *_: pytest.fail("it validates"))
    monkeypatch.setattr(Loop, "advance", lambda *_: pytest.fail("it trains"))
    again = train.train(placed(of("eval.shots=[3]", three=THREE), tmp_path))
    assert again["test"] == first["test"]
    monkeypatch.undo()
    with no_meta_steps():
        whole = train.train(placed(of("eval.shots=[3]", three=THREE), tmp_path / "whole"))
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
    there, ahead = engine.placed(data, mesh), to_be_placed(data, mesh)
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
    run = build_run(
        composed(f"++eval.tasks={{mine: {{task: folder, path: '{small_folder}'}}}}", "task.queries=2", *MLP)
    )
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
    own = composed("task=folder", f"task.path={small_folder}", *MLP, "++eval.task.image.side=16")
    with pytest.raises(
        ConfigError, match=r"eval\.task=folder: has inputs of 16x16x3 .* set eval\.task\.image\.side=32"
    ):
        begin.load(build_run(own))
    with pytest.raises(ConfigError, match=r"eval\.learner=\(its settings\): they change what is learned"):
        begin.load(build_run(composed("learner=mann", *MLP, "++eval.learner.units=5")))


def shapes_of(run: Run):
    return engine.check_shapes(run.learner, engine.nets(run.shape)[0], run.tasks, run.tasks.load("train"))


def table_of(path, columns="load,kind,wear", scale=1.0, kinds=("thick", "thin")):
    """Groups of rows whose target follows the load, by its kind; the columns in this order."""
    random = np.random.default_rng(0)
    rows = []
    for group in range(12):
        for i in range(8):
            load, kind = random.normal(), i % 2
            row = {"load": load, "kind": kinds[kind], "wear": scale * (load * (1 + kind) + group % 3)}
            rows.append(",".join([f"g{group}", *(str(row[name]) for name in columns.split(","))]))
    path.write_text("\n".join([f"group,{columns}", *rows]) + "\n")
    return str(path)


def test_another_tables_rows_are_encoded_as_the_runs_own_by_the_names_of_the_columns(tmp_path):
    """Not by their order, nor by what that table holds: its figures would look right."""
    roles = ("task.group_column=group", "task.target_columns=[wear]", "task.shots=2", "task.queries=2")
    own = ("task=table", f"task.path={table_of(tmp_path / 'own.csv')}", *roles)
    same = table_of(tmp_path / "same.csv")
    turned = table_of(tmp_path / "turned.csv", "kind,wear,load")
    part = {"task": "table", "group_column": "group", "target_columns": ["wear"]}
    values = composed(*own, "logger=none", f"run.dir={tmp_path / 'run'}")
    others = {name: part | {"path": path} for name, path in {"same": same, "turned": turned}.items()}
    values["eval"]["tasks"] = others
    run = build_run(complete(values))
    x = {name: np.asarray(tasks.load("test").x) for name, tasks in run.domains.items()}
    np.testing.assert_array_equal(x["same"], x["turned"])
    assert run.domains["turned"].prepares == run.tasks.prepares

    fewer = table_of(tmp_path / "fewer.csv", kinds=("unheard", "thin"))  # a kind that training did not know is none
    loud = table_of(tmp_path / "loud.csv", scale=1000.0)
    values["eval"]["tasks"] = {name: part | {"path": path} for name, path in {"fewer": fewer, "loud": loud}.items()}
    run = build_run(complete(values))
    thick, thin = 1, 2  # columns, after load
    kinds = np.asarray(run.domains["fewer"].load("test").x)[:, [thick, thin]]
    assert set(map(tuple, kinds.tolist())) == {(0.0, 0.0), (0.0, 1.0)}
    assert np.abs(run.domains["loud"].load("test").y).max() > 100  # in the units of training's targets

    values["eval"]["tasks"] = {"loud": part | {"path": loud, "target_columns": ["load"]}}
    with pytest.raises(ConfigError, match=r"eval\.tasks\.loud\.target_columns=.*must be those of training: \['wear'\]"):
        build_run(complete(values))
    values["eval"] |= {"tasks": {}, "task": {"path": turned}}
    assert build_run(values).eval_tasks.prepares == build_run(values).tasks.prepares


def test_texts_of_a_domain_must_be_encoded_as_trainings(small_texts):
    values = composed("task=text", f"task.path={small_texts}", "logger=none")
    other = values["task"] | {"encoder": values["task"]["encoder"] | {"words": [1, 1]}}
    with pytest.raises(ConfigError, match=r"^eval\.tasks\.own\.encoder=HashedNGrams.*must be the run's own"):
        build_run(values | {"eval": values["eval"] | {"tasks": {"own": other}}})
