"""`metarun eval`: a run's own figures again, or those of another protocol, and nothing of the run touched."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blobs import Blobs
from support import Page, changed, composed, no_meta_steps, on_blobs, placed

from metarun import engine, report
from metarun.command import main
from metarun.command.eval import Asked, tell
from metarun.config import translate
from metarun.config.resume import must_be_of_a_test, resume
from metarun.config.resume import tested_otherwise as otherwise  # a name that is no test's
from metarun.config.run import build_run
from metarun.core import ConfigError, DataError
from metarun.learned import keep, load
from metarun.report.compared import Compared
from metarun.report.tables import Cell, Table
from metarun.run import evaluation, train
from metarun.run.lock import only_process_in

QUICK = (
    "logger=none", "learner=fomaml", "train.steps=20", "train.meta_batch=2", "optimizer.learning_rate=0.5",
    "eval.episodes=12", "eval.val_episodes=4", "eval.inner_steps=[0]", "eval.shots=[2]", "hardware.devices=1",
)  # fmt: skip
TWO = {"_target_": "blobs.Blobs", "ways": 2, "shots": 1, "queries": 3, "pool": 30}
ALONE = ("eval.shots=[]", "eval.tasks={}")
FIGURES = ("test", "test_by_inner_steps", "test_by_shots", "tests", "state")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two finished runs, seeds 0 and 1 of an experiment, that are tested on another domain, too."""
    folder = tmp_path_factory.mktemp("tested") / "runs"
    for seed in (0, 1):
        values = on_blobs(*QUICK, f"train.seed={seed}")
        train.train(placed(values | {"eval": values["eval"] | {"tasks": {"two": TWO}}}, folder / f"seed-{seed}"))
    return folder


@pytest.fixture
def copy(runs, tmp_path) -> Path:
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs" / "seed-0"


@pytest.mark.parametrize("where", ["device", "host"])
def test_with_other_shots_a_test_is_of_the_classes_that_are_large_enough_for_them(tmp_path, where):
    """Every second class has 8 examples: with 6 shots and 4 queries, its neighbour's would stand for them."""
    size = np.where(np.arange(15) % 2, 20, 8)
    y, split = np.repeat(np.arange(15), size), np.repeat(np.repeat(["train", "val", "test"], 5), size)
    x = np.random.default_rng(0).normal(size=(15, 2))[y] + 0.1 * np.random.default_rng(1).normal(size=(len(y), 2))
    np.savez(tmp_path / "uneven.npz", x=x.astype(np.float32), y=y, split=split)
    task = ("task=arrays", f"task.path={tmp_path / 'uneven.npz'}", "task.ways=2", "task.shots=2", "task.queries=4")
    small = ("learner=matching", "model.hidden=[4]", "train.meta_batch=2", "logger=none", "hardware.devices=1")
    test = ("eval.episodes=40", "eval.shots=[2,6]", "hardware.task_chunk=1")
    values = composed(*task, *small, *test, f"hardware.data={where}")
    values["eval"] |= {"tasks": {"more": values["task"] | {"shots": 6}}}
    with no_meta_steps():
        train.train(placed(values, tmp_path / "run"))
    found = results(tmp_path / "run")
    with_six = again(tmp_path / "run", *ALONE, "eval.task.shots=6")["test"]
    assert found["test_by_shots"]["2"]["figures"] == found["test"] != with_six
    assert found["test_by_shots"]["6"]["figures"] == found["tests"]["more"]["figures"] == with_six
    assert found["tests"]["more"]["by_shots"]["2"]["figures"] == found["test"]
    assert again(tmp_path / "run")["test_by_shots"] == found["test_by_shots"]


def again(directory: Path, *settings: str, keep: str | None = None) -> dict:
    """What `metarun eval` finds of a run."""
    keys = must_be_of_a_test(settings)
    return evaluation.evaluate(directory, composed(*translate(list(settings))), keys, keep).found


def results(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text())


def figures(found: dict) -> dict:
    """As JSON has them."""
    return json.loads(json.dumps({name: found[name] for name in FIGURES}))


def tree(directory: Path) -> dict[str, str]:
    """Every file with the digest of its content, and every directory."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in directory.rglob("*")
    }


def command(monkeypatch, *words: object) -> int:
    """The exit code of `metarun WORDS`."""
    monkeypatch.setattr(sys, "argv", ["metarun", *map(str, words)])
    try:
        main.command()
    except SystemExit as end:
        return end.code
    return 0


def test_without_a_setting_the_figures_are_those_of_the_runs_end_also_of_a_run_at_work(copy):
    own = results(copy)
    assert own["state"]["state"] == "best" != own["state"]["step"] < 20
    (copy / "results.json").unlink()
    with only_process_in(copy):  # a run at work has no results yet, and its lock is taken
        before = tree(copy)
        found = again(copy)
        assert tree(copy) == before
    assert figures(found) == figures(own)
    digests = own["protocol"]["classes"]
    assert found["protocol"] == own["protocol"] | {"classes": {split: digests[split] for split in ("train", "test")}}
    assert (found["machine"]["devices"], found["run"]["steps"], found["run"]["seed"]) == (1, 20, 0)
    assert (found["run"]["dir"], found["run"]["name"]) == (str(copy), "NAME")


@pytest.mark.parametrize(
    "settings",
    [
        (*ALONE, "eval.task.ways=2"),
        (*ALONE, "eval.seed=3", "eval.state=last", "eval.episodes=7", "eval.learner.inner_steps=3"),
    ],
)
def test_another_protocols_figures_are_those_of_the_run_tested_again_in_its_directory(copy, runs, settings):
    found = again(runs / "seed-0", *settings)
    config = resume(copy, composed(*translate(list(settings))), [setting.split("=")[0] for setting in settings])
    there = train.train(build_run(config | {"run": config["run"] | {"dir": str(copy)}}))
    assert figures(found) == figures(there)
    assert figures(found)["test"] != results(runs / "seed-0")["test"]


def test_only_the_test_and_training_need_their_data(runs, monkeypatch):
    asked = []
    for name in ("load", "check"):
        whole = getattr(Blobs, name)
        monkeypatch.setattr(Blobs, name, lambda self, split, f=whole: asked.append(split) or f(self, split))
    again(runs / "seed-0", *ALONE)
    assert set(asked) == {"train", "test"}


def test_training_data_that_have_gone_are_named(small_arrays, tmp_path):
    path = shutil.copy(small_arrays, tmp_path / "points.npz")
    config = composed(
        "task=arrays", f"task.path={path}", "model=mlp", "task.ways=3", f"++eval.task.path={small_arrays}"
    )
    assert evaluation.to_be_tested(config).eval_tasks.path == str(small_arrays)
    path.unlink()
    with pytest.raises(ConfigError, match=r"^task\.path=.*points\.npz: no such file; a test needs the run's own data"):
        evaluation.to_be_tested(config)


def test_data_that_were_in_the_runs_data_dir_are_in_the_new_one():
    stored = {
        "data_dir": "old",
        "task": {"data_dir": "old", "ways": 5},
        "eval": {"episodes": 4, "tasks": {name: {"_target_": "x", "data_dir": name} for name in ("old", "own")}},
    }
    found = otherwise(stored, {"data_dir": "new", "eval": {"episodes": 9}}, ["data_dir"])
    assert (found["data_dir"], found["task"], found["eval"]["episodes"]) == ("new", {"data_dir": "new", "ways": 5}, 4)
    assert [task["data_dir"] for task in found["eval"]["tasks"].values()] == ["new", "own"]
    assert otherwise(stored, {"eval": {"episodes": 9}}, ["eval.episodes"])["task"]["data_dir"] == "old"


REFUSED = [
    ("train.steps=5", "train.steps=5: is the run's, and stays as it is; a test may set eval.*, hardware.*"),
    ("task.ways=3", "task.ways=3: is the run's, and stays as it is; a test may set eval.*, hardware.*, data_dir, "
     "task.path, inner.mode, inner.unroll, inner.remat; to test so, eval.task.ways=3"),
    ("task=omniglot", "task=omniglot: is the run's, and stays as it is; a test may set eval.*, hardware.*, data_dir, "
     "task.path, inner.mode, inner.unroll, inner.remat; on other data, 'eval.tasks={omniglot: {}}'"),
    ("ways=3", "ways=3: is the run's, and stays as it is; a test may set eval.*, hardware.*, data_dir, "
     "task.path, inner.mode, inner.unroll, inner.remat; to test so, eval.task.ways=3"),
    ("episodes=1", "episodes=1: no such key; use eval.episodes=1"),
    ("+learner.inner_steps=2", "learner.inner_steps=2: is the run's"),
    ("model.hidden=[4]", "model.hidden=[4]: is the run's"),
    ("optimizer=sgd", "optimizer=sgd: is the run's"),
    ("run.name=x", "run.name=x: is the run's"),
    ("inner.clip_norm=1", "inner.clip_norm=1: is the run's"),
    ("data_dirs=x", "data_dirs=x: is the run's"),
    ("task.paths=x", "task.paths=x: is the run's"),
    ("task.path=x", "task.path=x: is no key of the run's task, whose data are of no path"),
    ("eval={episodes: 3}", "eval={episodes: 3}: is the run's"),
    ("eval.episode=5", "eval.episode: no such key; did you mean episodes?"),
    ("eval.episodes=1", "eval.episodes=1: "),
    ("eval.task.way=1", "eval.task.way=1: no such key; did you mean ways?"),
    ("eval.task.ways=9", "eval.task.ways=9: at most 3, the outputs that training with 3 ways gives"),
    ("eval.tasks={x: {task: nothing}}", "eval.tasks.x.task=nothing: no such task"),
    ("--keep=a.b", "--keep=a.b: a name has letters, digits, - and _"),
    ("--keep=", "eval --keep: names no test"),
    ("--quick", "eval --quick: no such option; allowed: --json FILE, --keep NAME"),
    (f"eval.tasks={{{'a' * 300}: {{task: nowhere}}}}", f"eval.tasks.{'a' * 300}.task=nowhere: no such task"),
    ("--json=nowhere/a.json", "eval --json nowhere/a.json: cannot be written (make the directory first)"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "says"), REFUSED)
def test_what_a_test_cannot_set_is_refused_by_its_key_before_any_device(runs, monkeypatch, capfd, word, says):
    monkeypatch.setattr(engine.Hardware, "set_up", lambda *_: pytest.fail("a device was touched"))
    before = tree(runs)
    assert command(monkeypatch, "eval", runs / "seed-0", word) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"metarun: {says}")
    assert tree(runs) == before


def test_a_learners_setting_that_changes_what_was_learned_is_named():
    run = build_run(on_blobs("learner=mann", "++eval.learner.sharpness=2.0", "++eval.learner.units=5"), selected_by=())
    data = run.tasks.load("train")
    trained = engine.check_shapes(run.learner, engine.nets(run.shape)[0], run.tasks, data)
    with pytest.raises(ConfigError, match=r"^eval\.learner\.units=5: changes the shape of what the run has learned"):
        evaluation.must_be_taken(run, data, data, trained)


def test_a_kept_test_is_beside_the_run_and_in_the_report_and_gives_way_to_its_own_protocol_alone(copy, monkeypatch):
    before = tree(copy)
    quick = (*ALONE, "eval.task.ways=2")
    found = again(copy, *quick, keep="two-way")
    file = copy / "tests" / "two-way.json"
    assert {name: digest for name, digest in tree(copy).items() if not name.startswith("tests")} == before
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    [run] = report.read([copy])
    shown = f"{100 * found['test']['accuracy']['mean']:.2f} ± {100 * found['test']['accuracy']['ci95']:.2f} %"
    row = f"| two-way | 12 test tasks of 2-way 1-shot, 2 queries a class, 1 inner step, seed 0 | {shown} |"
    assert row in report.as_markdown([run])
    page = Page(report.html([run])).text
    assert "Tests of other protocols" in page
    assert shown in page

    file.write_text(file.read_text().replace('"seed": 0', '"seed":  0'))
    again(copy, *quick, "eval.val_episodes=50", keep="two-way")
    assert '"seed": 0' in file.read_text()
    monkeypatch.setattr(engine.Hardware, "set_up", lambda *_: pytest.fail("a device was touched"))
    kept = file.read_text()
    with pytest.raises(ConfigError, match=r"--keep=two-way: .* another protocol \(eval.seed=0 there, 1 now\); name"):
        again(copy, *quick, "eval.seed=1", keep="two-way")
    assert file.read_text() == kept

    changed(file, lambda content: content.pop("protocol"))
    [run] = report.read([copy])
    assert (run.status, run.kept) == ("finished", {})
    assert any(line.startswith("tests/two-way.json cannot be read") for line in run.missing)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"--keep=two-way: .*two-way.json is there, and is no test; name another"):
        again(copy, *quick, keep="two-way")


def test_many_runs_are_one_table_with_seeds_together_and_one_that_fails_stops_no_other(copy, monkeypatch, capfd):
    damaged = copy.parent / "damaged"
    damaged.mkdir()
    shutil.copy(copy / "config.yaml", damaged)
    assert command(monkeypatch, "eval", copy, copy.parent / "nowhere") == 2
    assert capfd.readouterr().err == f"metarun: eval {copy.parent / 'nowhere'}: no such directory\n"
    code = command(monkeypatch, "eval", copy.parent, *ALONE, "--json", "-", "--keep", "again")
    out, err = capfd.readouterr()
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("metarun: ")]
    assert len(lines) == 2
    assert lines[0].startswith(f"metarun: run={damaged}: has saved nothing yet")
    assert lines[1] == "metarun: eval: 1 of 3 runs were not tested"
    found = json.loads(out)
    own = [results(copy.parent / f"seed-{seed}")["test"]["accuracy"] for seed in (0, 1)]
    means = [one["test"]["accuracy"]["mean"] for one in found["runs"]]
    assert means == sorted((figure["mean"] for figure in own), reverse=True)
    [experiment] = found["experiments"]
    assert experiment["runs"] == [one["run"]["dir"] for one in found["runs"]]
    over = experiment["over_seeds"]
    assert over["mean"] == sum(means) / 2
    assert over["std"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert over["ci95"] == pytest.approx(sum(figure["ci95"] for figure in own) / 2)
    rows = [line.split() for line in err.splitlines() if "2 seeds" in line or line.strip().startswith("seed-")]
    assert [row[0] for row in rows][1:] == [Path(one["run"]["dir"]).name for one in found["runs"]]
    assert "2 seeds" in " ".join(rows[0])
    assert f"{100 * over['mean']:.2f} ± {100 * over['ci95']:.2f} %" in " ".join(rows[0])
    assert "tested on   12 test tasks of 3-way 1-shot" in err
    assert {path.parts[-3] for path in copy.parent.glob("*/tests/again.json")} == {"seed-0", "seed-1"}


def test_in_a_file_a_row_is_a_line(capfd):
    cells = [Cell(f"{'words ' * 30}{n}", n) for n in (1, 2)]
    tell(Compared(Table(["run", "tested on"], [cells]), "", [], []), Asked([], [], None, None))
    (row,) = [line for line in capfd.readouterr().out.splitlines() if "words" in line]
    assert row.split() == [*["words"] * 30, "1", *["words"] * 30, "2"]


def test_a_learner_that_was_kept_has_its_runs_figures_whatever_it_was_adapted_to(runs, tmp_path, monkeypatch, capfd):
    place = tmp_path / "kept"
    keep(load(runs / "seed-0").adapt(np.eye(3, 4), list("abc")), place)
    told = json.loads((place / "learner.json").read_text())
    del told["config"]["eval"]["inductive"]  # as if kept before there was such a key
    (place / "learner.json").write_text(json.dumps(told))
    assert command(monkeypatch, "eval", place, "--json", "-") == 0
    said = capfd.readouterr()
    assert figures(json.loads(said.out)) == figures(results(runs / "seed-0"))
    assert json.loads(said.out)["run"]["steps"] == 20
    assert "kept: what it was adapted to is left out; it adapts to each task of the test\n" in said.err
    assert command(monkeypatch, "eval", place, "--keep", "x") == 2
    assert "kept is a learner apart from its run, and keeps no tests; give --json FILE" in capfd.readouterr().err
    del told["config"]["train"]
    (place / "learner.json").write_text(json.dumps(told))
    assert command(monkeypatch, "eval", place) == 2
    assert "was kept by an earlier metarun, without all that a test needs; keep it again" in capfd.readouterr().err


def test_one_run_is_a_table_and_an_object(runs, monkeypatch, capfd, tmp_path):
    file = tmp_path / "found.json"
    assert command(monkeypatch, "eval", runs / "seed-1", "eval.shots=[]", f"--json={file}") == 0
    out, err = capfd.readouterr()
    found, own = json.loads(file.read_text()), results(runs / "seed-1")
    assert (found["test"], found["tests"]["two"]["figures"]) == (own["test"], own["tests"]["two"]["figures"])
    assert found["command"].endswith(f"eval.shots=[] --json={file}") or "'eval.shots=[]'" in found["command"]
    words = " ".join(out.split())
    assert f"test accuracy {100 * own['test']['accuracy']['mean']:.2f} ± " in words
    assert "tested on 3-way 1-shot, 2 queries a class, 1 inner step" in words
    assert f"state best, of meta-step {own['state']['step']}" in words
    assert "metarun: " not in err


def test_a_damaged_run_is_told_in_one_line(copy, monkeypatch, capfd):
    shutil.rmtree(copy / "checkpoints" / "last")
    (copy / "checkpoints" / "last" / "20").mkdir(parents=True)
    assert command(monkeypatch, "eval", copy) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"metarun: {copy} holds no whole checkpoint")
    with pytest.raises(DataError):
        again(copy)


def test_a_full_disk_is_told_of_the_test_that_cannot_be_kept(copy, monkeypatch, capfd):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert command(monkeypatch, "eval", copy, "--keep", "long", *ALONE) == 1
    kept = copy / "tests" / "long.json"
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == f"metarun: {kept} cannot be read or written (No space left on device)"
    assert not kept.exists()


def test_ctrl_c_ends_it_at_once():
    code = (
        "import time; from metarun.run.stop import leave_on_signals\n"
        "with leave_on_signals():\n print(1, flush=True)\n time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert process.wait(30) == 75
    assert time.monotonic() - begin < 20
    assert process.stderr.read() == "metarun: stopped\n"
