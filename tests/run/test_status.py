"""What a run says it is at: nothing of what is quick, a line of what takes long, and no rate before there is one."""

import io
import time

import pytest
from rich.console import Console
from support import no_meta_steps, on_blobs, placed, run_in

from metarun.run import log, status, train
from metarun.run.announce import idle
from metarun.run.clock import Clock
from metarun.run.status import Status


@pytest.fixture
def hurried(monkeypatch):
    """Seconds are hundredths."""
    for name in ("AGAIN", "APART", "TICK"):
        monkeypatch.setattr(status, name, getattr(status, name) / 100)
    return 0.02


def test_what_takes_long_is_told_and_again_and_what_is_quick_is_not(hurried):
    with Status() as now:
        lines: list[str] = []
        now.say = lines.append
        now.at("reading the settings", quiet=10.0)
        now.at("loading the data", quiet=hurried)
        time.sleep(1.0)
        now.at("saving", quiet=10.0)
        time.sleep(0.1)
        now.at("test episodes", 3000, 1200, quiet=hurried)
        time.sleep(0.2)
    assert {line.split(" (")[0].split(":")[0] for line in lines} == {"loading the data", "test episodes"}
    loading = [line for line in lines if line.startswith("loading the data (")]
    assert 2 <= len(loading) <= 1 + 1.0 / status.AGAIN  # once, and each AGAIN
    assert lines[-1] == "test episodes: 1,200 of 3,000"


def test_a_line_that_has_just_said_it_is_not_repeated(hurried):
    with Status() as now:
        lines: list[str] = []
        now.say = lines.append
        for _ in range(20):
            now.heard()
            now.at("meta-steps", 10, 5, quiet=0.01)
            time.sleep(0.01)
    assert lines == []


def test_on_a_terminal_there_is_one_live_line(monkeypatch):
    monkeypatch.setattr(status, "live", lambda: True)
    monkeypatch.setattr(status, "console", Console(file=io.StringIO(), force_terminal=True, width=100))
    with Status() as now:
        now.opened()
        now.at("compiling the meta-steps")
        now.line.refresh()
        now.at("test episodes", 6, 3, "a [b] note")
        now.line.refresh()
        assert len(now.line.tasks) == 1
    shown = status.console.file.getvalue()
    assert "compiling the meta-steps" in shown
    assert "3/6" in shown
    assert "a [b] note" in shown


def test_a_run_says_what_it_is_at_and_its_test_how_far(tmp_path, monkeypatch):
    places: list[tuple] = []
    notes = {}

    def at(self, what, total=None, done=0, note="", **_):
        places.append((what, total, done))
        notes[what] = note

    monkeypatch.setattr(Status, "at", at)
    values = on_blobs(
        "learner=fomaml", "logger=none", "train.steps=2", "train.meta_batch=2", "eval.episodes=7",
        "eval.val_episodes=4", "eval.inner_steps=[0,1]", "eval.shots=[1,2]", "eval.inductive=none",
        "hardware.task_chunk=auto",
    )  # fmt: skip
    train.train(placed(values, tmp_path / "run"))
    order = list(dict.fromkeys(what for what, *_ in places))
    assert order == [
        "loading the data", "preparing the first state", "compiling and timing meta-steps",
        "opening the logger", "compiling the meta-steps", "meta-steps", "validation episodes",
        "compiling the validation", "test episodes", "compiling the test", "saving",
    ]  # fmt: skip
    tests = [(total, done) for what, total, done in places if what == "test episodes"]
    assert tests[0] == (21, 0)  # 3 numbers of shots, 7 episodes each
    assert tests[-1] == (21, 21)
    assert notes["test episodes"] == "(3 evaluations of 7 each)"
    assert tests == sorted(tests)
    assert ("validation episodes", 4, 4) in places
    compiled = [what for what, *_ in places if what == "compiling the test"]
    assert len(compiled) == 2  # once for the run's own shots, and once for 2


def test_no_rate_and_no_time_left_is_shown_before_there_is_one(tmp_path, capsys):
    assert Clock().speed(meta_batch=4, left=10) == ""
    clock = Clock()
    clock.arrived(1)
    time.sleep(0.01)
    clock.arrived(1)
    assert "meta-steps/s" in clock.speed(4, 10)
    assert clock.speed(4, 10).endswith(" left")
    assert "left" not in clock.speed(4, 0)
    train.train(run_in(tmp_path / "run", "train.steps=2", "train.eval_every=1", "eval.inner_steps=[]"))
    said = capsys.readouterr().out + (tmp_path / "run" / "metarun.log").read_text()
    assert "meta-step 2/2  loss" in said
    assert "0.0 meta-steps/s" not in said
    assert "?" not in said
    assert not log.live()


def test_devices_that_a_run_leaves_idle_are_told_with_the_meta_batches_that_would_use_them():
    assert idle(meta_batch=8, used=2, found=2, chunk=1) is None
    assert idle(7, 1, 2, 1) == (
        "1 of 2 devices are used: train.meta_batch=7 cannot be shared out among more; 6 or 8 would use all"
    )
    assert idle(3, 3, 4, 1).endswith("; 4 would use all")
    assert idle(12, 3, 4, 4).endswith(
        "train.meta_batch=12 and hardware.task_chunk=4 cannot be shared out among more; 16 would use all"
    )


@pytest.mark.parametrize(("meta_batch", "told"), [(3, True), (4, False)])
def test_a_run_tells_of_idle_devices_at_its_start(tmp_path, capsys, meta_batch, told):
    settings = ("train.steps=1", "eval.inner_steps=[]", f"train.meta_batch={meta_batch}", "hardware.task_chunk=1")
    with no_meta_steps():
        train.train(run_in(tmp_path / "run", *settings))
    said = " ".join(capsys.readouterr().out.split())
    assert ("1 of 2 devices are used: train.meta_batch=3 cannot" in said) == told
