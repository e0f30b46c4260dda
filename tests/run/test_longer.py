"""A finished run made longer, and tested again: equal to one that was begun so, and nothing of the earlier is lost."""

import errno
import json
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import SMALL, complete, composed, no_meta_steps, placed, rows, run_in, saved

from metarun.command import main
from metarun.command.train import of_the_disk
from metarun.config.resume import resume
from metarun.core import ConfigError, DataError
from metarun.engine import chunks
from metarun.run import earlier, loop, train
from metarun.run.stop import Interrupted, Stop

PERIODS = ("train.log_every=2", "train.eval_every=4", "train.save_every=4", "eval.inner_steps=[]")


class Asked(Stop):
    """Asked to stop after some calls to the devices."""

    def __init__(self, _: object) -> None:
        super().__init__(None)
        self.calls = 4

    @property
    def asked(self) -> bool:
        self.calls -= 1
        return self.calls < 0

    def check(self) -> None:
        """Lets validations end."""


@contextmanager
def asking(_):
    yield Asked(_)


def go_on(directory: Path, *overrides: str) -> dict:
    """What `metarun run.dir=DIR` and these overrides does."""
    named = [override.lstrip("+").split("=")[0] for override in overrides]
    return train.train(placed(resume(directory, composed(*overrides), named), directory))


def assert_same_state(one: Path, other: Path) -> None:
    expected, got = saved(one), saved(other)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("first", ["finished", "stopped"])
def test_a_run_made_longer_is_the_run_begun_so_bit_for_bit(tmp_path, monkeypatch, first):
    whole = train.train(run_in(tmp_path / "whole", *PERIODS, "train.steps=20"))
    run, directory = run_in(tmp_path / "run", *PERIODS, "train.steps=12"), tmp_path / "run"
    before = None
    if first == "finished":
        before = train.train(run)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(train, "stop_on_signals", asking)
            with pytest.raises(Interrupted, match="of 12"):
                train.train(run)
    longer = go_on(directory, "train.steps=20")
    assert_same_state(tmp_path / "whole", directory)
    assert rows(directory) == rows(tmp_path / "whole")
    assert (longer["test"], longer["state"]) == (whole["test"], whole["state"])
    assert longer["training"]["steps"] == 20
    assert longer["training"]["command"].endswith(" train.steps=20")
    assert yaml.safe_load((directory / "config.yaml").read_text())["train"]["steps"] == 20
    if before is not None:
        assert json.loads((directory / "results-12.json").read_text()) == before
        assert yaml.safe_load((directory / "config-12.yaml").read_text())["train"]["steps"] == 12
        assert (directory / "examples-12.npz").exists()
    assert go_on(directory) == longer  # finished: told again


def test_the_rows_of_a_longer_run_follow_its_periods_and_count_no_meta_step_as_skipped(tmp_path, capsys):
    """With auto, 12 meta-steps validate every 10 and log each one; 120 do so every 12, and log every second one."""
    train.train(run_in(tmp_path / "whole", "train.steps=120", "eval.inner_steps=[]"))
    train.train(run_in(tmp_path / "run", "train.steps=13", "eval.inner_steps=[]"))
    capsys.readouterr()
    go_on(tmp_path / "run", "train.steps=120")
    assert "finite" not in capsys.readouterr().out
    assert_same_state(tmp_path / "whole", tmp_path / "run")
    got = {split: [r for r in rows(tmp_path / "run") if r["split"] == split] for split in ("train", "val")}
    expected = {split: [r for r in rows(tmp_path / "whole") if r["split"] == split] for split in ("train", "val")}
    assert [row["step"] for row in got["train"]] == [*range(1, 14), *range(14, 121, 2)]
    assert [row["step"] for row in got["val"]] == [10, 13, *range(24, 121, 12)]
    assert all("skipped" not in row for row in got["train"])
    assert got["train"][14:] == expected["train"][7:]  # from meta-step 16 on
    assert got["val"][2:] == expected["val"][1:]


def test_a_finished_run_is_tested_again_without_training_and_keeps_its_earlier_results(tmp_path, monkeypatch):
    settings = (*PERIODS, "train.steps=12", "hardware.task_chunk=auto")
    first = train.train(run_in(tmp_path / "run", *settings))
    whole = train.train(run_in(tmp_path / "whole", *settings, "eval.episodes=16", "eval.inner_steps=[0,2]"))
    trained, kept = rows(tmp_path / "run"), [path.stat().st_mtime_ns for path in complete(tmp_path / "run")]
    monkeypatch.setattr(chunks, "stopwatch", lambda *_: pytest.fail("it has no meta-steps to be quick at"))
    again = go_on(tmp_path / "run", "eval.episodes=16", "eval.inner_steps=[0,2]")
    assert again["protocol"]["episodes"] == 16
    for part in ("test", "test_by_inner_steps", "state"):
        assert again[part] == whole[part]
    assert json.loads((tmp_path / "run" / "results-1.json").read_text()) == first
    assert again["speed"]["meta_steps_per_s"] == first["speed"]["meta_steps_per_s"]
    assert rows(tmp_path / "run") == trained
    assert [path.stat().st_mtime_ns for path in complete(tmp_path / "run")] == kept
    third = go_on(tmp_path / "run", "eval.shots=[3]", "eval.seed=1")
    assert set(third["test_by_shots"]) == {"3"}
    assert json.loads((tmp_path / "run" / "results-2.json").read_text()) == again
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == third
    assert go_on(tmp_path / "run") == third


def test_a_test_that_is_refused_leaves_the_earlier_results_where_they_were(tmp_path):
    first = train.train(run_in(tmp_path / "run", *PERIODS, "train.steps=12"))
    with pytest.raises(Exception, match=r"learner\.inner_steps|eval\.learner"):
        go_on(tmp_path / "run", "++eval.learner.inner_steps=-1")
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == first


ARRAYS = (
    "task=arrays", "task.ways=3", "task.shots=1", "task.queries=1", "learner=protonet", "train.task.ways=3",
    "train.task.queries=1", "model.hidden=[8]", "logger=none", "train.steps=4", "train.meta_batch=4",
    "hardware.task_chunk=2", "eval.episodes=8", "eval.val_episodes=8",
)  # fmt: skip


def test_a_finished_run_whose_other_test_was_stopped_goes_on_with_it_or_with_another(tmp_path, monkeypatch):
    """Also where its validation data are others: the run has all its meta-steps, whatever became of its figures."""
    x, y = np.random.default_rng(0).normal(size=(2, 36, 4)).astype(np.float32), np.repeat(np.arange(9), 4)
    for file, examples in zip("ab", x, strict=True):
        np.savez(tmp_path / f"{file}.npz", x=examples, y=y, split=np.repeat(["train", "val", "test"], 12))
    config = composed(*ARRAYS, f"task.path={tmp_path / 'a.npz'}")
    with no_meta_steps():
        first = train.train(placed(config, tmp_path / "run"))
    other = f"++eval.task.path={tmp_path / 'b.npz'}"

    def stopped_in_its_test(*overrides: str) -> None:
        def interrupted(_: loop.Loop) -> None:
            raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(loop.Loop, "test", interrupted)
            with pytest.raises(Interrupted):
                go_on(tmp_path / "run", *overrides)

    stopped_in_its_test(other)
    stopped_in_its_test()
    back = go_on(tmp_path / "run", "++eval.task={}", "eval.seed=0")
    assert (back["test"], back["protocol"]) == (first["test"], first["protocol"])
    assert json.loads((tmp_path / "run" / "results-1.json").read_text()) == first


def test_a_run_that_was_stopped_before_any_test_may_have_another_and_keeps_how_it_was_validated(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "test", lambda _: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            train.train(run_in(tmp_path / "run", *PERIODS, "train.steps=4"))
    go_on(tmp_path / "run", "eval.seed=5")
    with pytest.raises(
        ConfigError, match=r"eval\.seed=5: validation uses it; to make the run longer add 'eval\.seed=0'"
    ):
        go_on(tmp_path / "run", "train.steps=8")
    assert go_on(tmp_path / "run", "train.steps=8", "eval.seed=0")["training"]["steps"] == 8


def test_a_finished_runs_figures_stay_where_they_are_if_its_checkpoints_turn_out_damaged(tmp_path):
    train.train(run_in(tmp_path / "run", *PERIODS, "train.steps=8"))
    for state in complete(tmp_path / "run"):
        (state / "host" / "metadata").write_text("{}")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("results.json", "config.yaml", "command.json")}
    with pytest.raises(DataError, match="holds no whole checkpoint"):
        go_on(tmp_path / "run", "eval.episodes=50")
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    assert go_on(tmp_path / "run") == json.loads(before["results.json"])


def test_results_set_aside_take_no_others_place(tmp_path):
    config = composed("train.steps=20")
    for content in ("a", "b"):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(composed("train.steps=10")))
        (tmp_path / "results.json").write_text(content)
        earlier.set_aside(tmp_path, config, trained=False)
    assert (tmp_path / "results-10.json").read_text() == "a"
    assert (tmp_path / "results-10-2.json").read_text() == "b"
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "results.json").write_text("c")
    earlier.set_aside(tmp_path, composed("train.steps=10"), trained=True)
    assert (tmp_path / "results.json").read_text() == "c"


@pytest.mark.parametrize("steps", [10, 20], ids=["tested again", "made longer"])
def test_results_of_which_a_kill_left_some_where_they_were_are_set_aside_together(tmp_path, monkeypatch, steps):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(composed("train.steps=10")))
    names = ("results.json", "classes.json", "examples.npz")
    for name in names:
        (tmp_path / name).write_text("a")
    config, rename = composed(f"train.steps={steps}", "eval.episodes=50"), Path.rename

    def set_aside(at_most: int) -> None:
        left = iter(range(at_most))

        def renamed(file: Path, to: Path) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            rename(file, to)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Path, "rename", renamed)
            earlier.set_aside(tmp_path, config, trained=True)

    for at_most in (1, 1, 3):
        assert (tmp_path / "results.json").read_text() == "a"
        set_aside(at_most)
    stem = "1" if steps == 10 else "10"
    aside = [str(earlier.named(Path(name), stem)) for name in (*names, "config.yaml")]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*aside, "config.yaml"])


def test_on_a_full_disk_a_run_is_made_no_longer_and_stays_as_it_is(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(composed("train.steps=10")))
    (tmp_path / "results.json").write_text("a")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as told:
        earlier.set_aside(tmp_path, composed("train.steps=20"), trained=False)
    said = f"run.dir: {tmp_path / 'config-10.yaml'} cannot be made or written (No space left on device)"
    assert of_the_disk(told.value) == (said, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.yaml", "results.json"]


def test_a_longer_runs_command_is_the_one_that_gives_it():
    assert earlier.made_longer("metarun learner=maml train.steps=20", 30) == "metarun learner=maml train.steps=30"
    assert earlier.made_longer("metarun 'run.name=a b'", 30) == "metarun 'run.name=a b' train.steps=30"


def test_a_run_made_longer_and_stopped_before_it_saved_has_the_longer_runs_command(tmp_path, monkeypatch):
    train.train(run_in(tmp_path / "run", *PERIODS, "train.steps=12"))
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "meta_train", lambda _: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            go_on(tmp_path / "run", "train.steps=16")
    assert go_on(tmp_path / "run")["training"]["command"].endswith(" train.steps=16")


def test_a_run_stopped_before_its_first_save_keeps_the_command_that_began_it(tmp_path, monkeypatch):
    run = replace(run_in(tmp_path / "run", *PERIODS, "train.steps=4"), command="metarun 'run.name=a b' train.steps=4")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "meta_train", lambda _: pytest.fail("stopped"))
        for begin in (lambda: train.train(run), lambda: go_on(tmp_path / "run", "train.steps=8")):
            with pytest.raises(pytest.fail.Exception):
                begin()
    assert go_on(tmp_path / "run")["training"]["command"] == "metarun 'run.name=a b' train.steps=8"


def test_from_the_command_line(tmp_path, monkeypatch, capfd):
    """Begun, made longer, tested again, refused: in one process, as each takes seconds to begin."""

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["metarun", *arguments, "run.dir=RUN"])
        capfd.readouterr()
        main.command()
        return capfd.readouterr().out

    monkeypatch.chdir(tmp_path)
    command(*SMALL, "learner=fomaml", "logger=none", "train.steps=12", "eval.inner_steps=[]")
    assert "going on from meta-step 12" in command("train.steps=20")
    assert "the results that were there are now RUN/results-1.json" in command("eval.episodes=10")
    assert "is finished; its figures again" in command("eval.episodes=10")
    with pytest.raises(SystemExit):
        command("train.seed=7")
    err = capfd.readouterr().err
    assert err.startswith("metarun: run.dir=RUN: holds a run with another train.seed (0 there); go on")
    assert err.count("\n") == 1
    found = json.loads((tmp_path / "RUN" / "results.json").read_text())
    assert (found["training"]["steps"], found["protocol"]["episodes"]) == (20, 10)
    assert "learner=fomaml" in found["training"]["command"] or found["training"]["command"].startswith("metarun")
