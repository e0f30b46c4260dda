"""What a report reads: running, failed, old and damaged runs."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from support import Page, changed, run_in

from metarun.command import report
from metarun.engine import OutOfMemory
from metarun.report import page, paths, runs, status, tables
from metarun.report.paths import names as short_names
from metarun.run import begin, loop, train
from metarun.run.record import last_line
from metarun.run.stop import Stop

pytestmark = pytest.mark.usefixtures("unsaved")


def test_runs_that_are_running_failed_old_or_damaged_are_shown_with_what_is_missing(two_runs, tmp_path):
    for name in ("running", "stopped", "failed", "old", "damaged"):
        shutil.copytree(two_runs / "blobs", tmp_path / name)
        if name not in ("old", "damaged"):
            (tmp_path / name / "results.json").unlink()
    (tmp_path / "failed" / "nonfinite").mkdir()
    (tmp_path / "stopped" / "metrics.jsonl").unlink()
    (tmp_path / "old" / "examples.npz").unlink()
    for file in ("config.yaml", "examples.npz", "classes.json"):
        (tmp_path / "damaged" / file).write_bytes(b"\x00{")
    with FileLock(tmp_path / "running" / ".lock"):
        found = {run.name: run for run in runs.read(paths.find([tmp_path]))}
    assert {name: run.status for name, run in found.items()} == {
        "running": "running", "stopped": "stopped", "failed": "not a number", "old": "finished", "damaged": "damaged"
    }  # fmt: skip
    assert found["stopped"].missing == ["no metrics.jsonl: no row was logged yet", "no results.json: not finished"]
    assert found["old"].missing == ["no examples.npz: none were kept"]
    assert len(found["damaged"].missing) == 3
    text = Page(page.html(list(found.values()))).text
    assert "stopped: no metrics.jsonl: no row was logged yet; no results.json: not finished" in text


def unfinished(two_runs: Path, folder: Path, last: str, saved: int | None = None) -> Path:
    """A run of which the last row is of meta-step 4 and the newest checkpoint of `saved`; `last` ends its log."""
    without = shutil.ignore_patterns("results.json", *(["checkpoints"] if saved != 4 else []))
    shutil.copytree(two_runs / "blobs", folder, ignore=without)
    if saved not in (None, 4):
        (folder / "checkpoints" / "last" / str(saved)).mkdir(parents=True)
    with (folder / "metarun.log").open("a") as file:
        file.write(f"2026-01-02 03:04:05,678 {last}\n")
    return folder


KILLED = "it was killed: its last row is of meta-step 4, its newest checkpoint "


@pytest.mark.parametrize(
    ("last", "saved", "expected"),
    [
        ("stopped", None, ("stopped", "")),
        ("meta-step 4/8 loss 1", 4, ("stopped", "")),  # of an older version: nothing is lost
        ("meta-step 4/8 loss 1", 2, ("crashed", f"{KILLED}of meta-step 2")),
        ("meta-step 4/8 loss 1", None, ("crashed", f"{KILLED}none")),
        ("failed: out of memory", 4, ("crashed", "out of memory")),
    ],
)
def test_a_run_that_crashed_is_told_from_one_that_was_stopped(two_runs, tmp_path, last, saved, expected):
    run = unfinished(two_runs, tmp_path / "run", last, saved)
    assert status.status(run, [], 4) == expected
    (found,) = runs.read([run])
    assert (found.status, found.why) == expected
    with FileLock(run / ".lock"):
        assert status.status(run, [], 4).name == "running"
    assert status.status(run, ["results.json cannot be read"], 4) == ("damaged", "results.json cannot be read")


def test_a_run_that_hung_has_crashed_until_somebody_goes_on_with_it(two_runs, tmp_path):
    run = unfinished(two_runs, tmp_path / "run", "stopped", 4)
    os.utime(run / "metarun.log", (1000, 1000))
    (run / "stacks.txt").write_text("")
    assert status.status(run, [], 4) == ("crashed", "a call to the devices hung: stacks.txt")
    os.utime(run / "metarun.log", None)
    os.utime(run / "stacks.txt", (1000, 1000))
    assert status.status(run, [], 4).name == "stopped"


def test_a_runs_log_says_at_the_end_whether_it_was_stopped_or_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(Stop, "asked", property(lambda stop: True))
    with pytest.raises(train.Interrupted):
        train.train(run_in(tmp_path / "run", "train.steps=4"))
    (found,) = runs.read([tmp_path / "run"])
    assert (found.status, last_line(tmp_path / "run" / "metarun.log")) == ("stopped", "stopped")

    def fail(loop):
        raise RuntimeError("no more\nof this")

    monkeypatch.setattr(loop.Loop, "meta_train", fail)
    with pytest.raises(RuntimeError):
        train.train(run_in(tmp_path / "run", "train.steps=4"))
    (found,) = runs.read([tmp_path / "run"])
    assert (found.status, found.why) == ("crashed", "no more")


def test_a_run_that_failed_before_its_first_meta_step_has_crashed_and_is_not_in_another_runs_log(tmp_path, monkeypatch):
    def too_large(*_):
        raise OutOfMemory("9 GiB where 8 are free")

    with monkeypatch.context() as patch:
        patch.setattr(begin.engine, "first_state", too_large)
        with pytest.raises(OutOfMemory):
            train.train(run_in(tmp_path / "run", "train.steps=4"))
    assert status.status(tmp_path / "run", [], 0) == ("crashed", "9 GiB where 8 are free")
    monkeypatch.setattr(begin, "load", too_large)  # before the next job of the process has a log
    with pytest.raises(OutOfMemory):
        train.train(run_in(tmp_path / "next", "train.steps=4"))
    assert (tmp_path / "run" / "metarun.log").read_text().count("failed") == 1


def test_a_run_that_went_on_after_a_meta_step_that_was_not_finite_and_was_stopped_is_stopped(two_runs, tmp_path):
    run = unfinished(two_runs, tmp_path / "run", "failed: meta-step 2 is not finite", 4)
    (run / "nonfinite").mkdir()
    assert status.status(run, [], 4).name == "not a number"
    with (run / "metarun.log").open("a") as file:
        file.write("2026-01-02 03:04:05,678 stopped\n")
    assert status.status(run, [], 4).name == "stopped"


def test_names_lose_what_all_of_them_have_in_common():
    def named(*paths: str) -> list[str]:
        return short_names([Path("/runs") / path for path in paths])

    assert named("a/0", "a/1") == ["0", "1"]
    assert named("a/0", "b/0") == ["a/0", "b/0"]
    long = [f"omniglot_5way_maml_{rate}_{seed}_final" for rate in ("lr0.1", "lr0.01") for seed in ("s0", "s1")]
    assert named(*long) == ["lr0.1_s0", "lr0.1_s1", "lr0.01_s0", "lr0.01_s1"]
    assert named(*long[:1]) == long[:1]
    learner, run = Path("strokes-protonet"), Path("/runs/first")
    assert short_names([learner, run]) == ["strokes-protonet", "first"]
    assert short_names([learner]) == ["strokes-protonet"]
    seeds = ["a_name_that_is_rather_long", "a_name_that_is_rather_long_too"]
    assert named(*seeds) == ["long", "long_too"]
    dates = [
        "sinusoid-maml/2026-11-25_18-06-01",
        "sinusoid-maml/2026-11-25_18-07-30",
        "sinusoid-anil/2026-11-25_18-07-30",
    ]
    assert named(*dates) == ["maml/2026-11-25_18-06-01", "maml/2026-11-25_18-07-30", "anil/2026-11-25_18-07-30"]


TOO_FEW = {"reward": [{"mean": 0.5}], "random": [0.5, 0.5], "best": None}
MALFORMED = {
    "a figure is text": ("results.json", lambda c: c["test"]["accuracy"].update(mean="high")),
    "no split": ("results.json", lambda c: c["protocol"].pop("split")),
    "no accuracy after an inner step": ("results.json", lambda c: c["test_by_inner_steps"]["1"].pop("accuracy")),
    "inner steps are no number": ("results.json", lambda c: c["test_by_inner_steps"].update(few={})),
    "a figure is a number in text": ("results.json", lambda c: c["test"]["accuracy"].update(mean="0.9")),
    "an interval below zero": ("results.json", lambda c: c["test"]["accuracy"].update(ci95=-0.1)),
    "steps of a trial are not as many": ("results.json", lambda c: c.update(test_by_step=TOO_FEW)),
    "a list": ("classes.json", lambda c: c.update(classes=[1])),
    "counts are text": ("classes.json", lambda c: c["classes"].update(a=["1", "many"])),
    "a confusion of one": ("classes.json", lambda c: c.update(confusions=[["a"]])),
}


DO_NOT_FIT = "examples.npz cannot be read (ValueError: its arrays do not fit together)"


@pytest.mark.parametrize("how", MALFORMED)
def test_a_file_with_another_content_is_named_as_missing(two_runs, tmp_path, how):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    file, change = MALFORMED[how]
    changed(tmp_path / "run" / file, change)
    (found,) = runs.read(paths.find([tmp_path]))
    assert [line.partition(" (")[0] for line in found.missing] == [f"{file} cannot be read"]
    assert f"Missing: {file} cannot be read" in Page(page.html([found])).text


LACKING = {
    "machine": lambda c: c.pop("machine"),
    "date": lambda c: c.pop("date"),
    "versions": lambda c: c.pop("versions"),
    "commit": lambda c: c.pop("commit"),
    "training": lambda c: c.pop("training"),
    "memory": lambda c: c.update(memory=[]),
    "speed": lambda c: c["speed"].update(minutes="1.5"),
    "paper": lambda c: c.update(paper={"source": "x"}),
}


@pytest.mark.parametrize("part", LACKING)
def test_a_part_of_the_results_that_is_missing_is_named_and_the_figures_stand(two_runs, tmp_path, part):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    changed(tmp_path / "run" / "results.json", LACKING[part])
    (found,) = runs.read(paths.find([tmp_path]))
    assert found.missing == [f"results.json has no {part} that can be read"]
    (whole,) = runs.read([two_runs / "blobs"])
    assert tables.figure_cell(found, "accuracy") == tables.figure_cell(whole, "accuracy")
    assert tables.figure_cell(found, "accuracy").text in Page(page.html([found])).text


def test_paths_without_a_run_are_named_and_left_out(two_runs, tmp_path, capsys):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    for other in ("run/wandb/run-1/files", "run/.hydra", "empty"):
        (tmp_path / other).mkdir(parents=True)
    for other in ("run/wandb/run-1/files", "run/.hydra"):
        shutil.copy(tmp_path / "run" / "config.yaml", tmp_path / other)
    (tmp_path / "run.log").write_text("")
    found = paths.find([tmp_path / "run", tmp_path / "run.log", tmp_path / "empty", tmp_path / "gone"])
    assert [path.name for path in found] == ["run"]
    said = [line.removeprefix(f"metarun: {tmp_path}/") for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "run.log: is no directory; name a run's, or one that holds runs; left out",
        "empty: holds no run (no config.yaml); left out",
        "gone: no such directory; name a run's, or one that holds runs; left out",
    ]
    assert [path.name for path in paths.find([tmp_path])] == ["run"]
    shutil.copytree(tmp_path / "run", tmp_path / "wandb" / "group" / "run")  # a user's own names
    assert len(paths.find([tmp_path])) == 2


def test_rows_settings_and_pictures_may_be_anything(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    rows = ['{"step": 1, "split": "val", "accuracy": "NaN"}', "[1]", '{"step": 4, "split": "val", "accuracy": 0.5}']
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(rows))
    with np.load(tmp_path / "run" / "examples.npz") as arrays:
        np.savez(tmp_path / "run" / "examples.npz", **dict(arrays) | {"outputs": arrays["outputs"][:1]})
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    values["train"] |= {"seed": "first", "steps": None}
    values["learner"] = 3
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(values))
    (found,) = runs.read(paths.find([tmp_path]))
    assert found.missing == ["1 rows of metrics.jsonl cannot be read", DO_NOT_FIT]
    assert [row["step"] for row in found.rows] == [4]
    assert "first" in Page(page.html([found])).text


@pytest.mark.parametrize(
    "other", [{"query_y": bool}, {"support_y": float}, {"outputs": "V4"}, {"query_x": "U3"}, {"support_y": np.int64}]
)
def test_examples_of_another_kind_are_named_as_missing(two_runs, tmp_path, other):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    ((name, kind),) = other.items()
    with np.load(tmp_path / "run" / "examples.npz") as arrays:
        np.savez(tmp_path / "run" / "examples.npz", **dict(arrays) | {name: arrays[name].astype(kind)})
    (found,) = runs.read(paths.find([tmp_path]))
    assert found.missing == ([] if kind is np.int64 else [DO_NOT_FIT])
    assert "Runs closely" in page.html([found])


def test_a_path_that_is_no_text_is_shown_all_the_same(two_runs, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(two_runs / "sinusoid", folder / "one")
    (folder / "one" / "results.json").unlink()
    shutil.copytree(two_runs / "sinusoid", tmp_path / "two")
    changed(tmp_path / "two" / "results.json", lambda c: c["training"].update(command="metarun run.dir=caf\udce9"))
    report.main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert "run.dir=caf\ufffd" in (tmp_path / "report.html").read_text()
