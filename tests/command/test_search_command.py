"""A search from the command line: its short spelling, what is refused before anything is written, and a real one."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from support import QUICK, rows

from metarun import sweep
from metarun.command import main
from metarun.run.stop import Interrupted
from metarun.sweep import place, table
from metarun.sweep.launch import Work
from metarun.sweep.processes import Processes

LR = "learner.inner_lr=tag(log,interval(0.001,1))"
SEARCH = ("-m", *QUICK, LR, "sweep.trials=3", "run.dir=S")


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """What a command makes: jobs, which are made here as the launcher for processes asks for them, and exit codes."""
    made = []

    def work(self: Processes, work: Work) -> None:
        while (job := work.next()) is not None:
            made.append(job.number)
            job.directory.mkdir(parents=True, exist_ok=True)
            made_rows = [{"step": step, "split": "val", "mse": 1.0 + job.number, "loss": 0.5} for step in (20, 40)]
            (job.directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made_rows))
            if job.number in stops:
                raise Interrupted
            found = {"protocol": {"split": "test", "metric": "mse"}, "test": {"mse": {"mean": 1.0, "ci95": 0.1}}}
            (job.directory / "results.json").write_text(json.dumps(found))
            work.ended(job)
            if job.number == last:
                raise Interrupted

    stops: set[int] = set()
    last: int | None = None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Processes, "work", work)
    monkeypatch.setattr("os.fsync", lambda file: None)

    def run(*arguments: str, stop: int | None = None, stop_after: int | None = None) -> list[int | str]:
        nonlocal last
        last = stop_after
        made.clear()
        stops.clear()
        stops.update(() if stop is None else (stop,))
        monkeypatch.setattr(sys, "argv", ["metarun", *arguments])
        try:
            main.command()
        except SystemExit as error:
            made.append(f"exit {error.code}")
        return list(made)

    return run


def test_a_search_is_what_its_command_says_and_goes_on_by_its_directory(searched, capfd):
    assert searched(*SEARCH, "sweep.sampler=random", stop=1) == [0, 1, "exit 75"]
    assert "go on with: metarun -m run.dir=S" in capfd.readouterr().err
    found = sweep.read(Path("S"))
    assert (found.sweeper, found.wanted, found.sweeping[0]) == ("optuna", 3, "hydra/sweeper=optuna")
    assert found.search == {
        "trials": 3, "sampler": "random", "seed": 0, "pruner": "median", "objective": "mse", "direction": "minimize",
        "space": {"learner.inner_lr": "tag(log,interval(0.001,1))"},
    }  # fmt: skip
    assert searched("sweep", "S") == []
    assert "sweep in S: 2 of 3 jobs, 1 finished, 1 waiting" in capfd.readouterr().out
    assert searched("-m", "run.dir=S") == [1, 2]
    assert searched("-m", "run.dir=S", "sweep.trials=5", "sweep.pruner=none") == [3, 4]
    assert searched("-m", "run.dir=S") == []
    assert [sweep.read(Path("S")).search[key] for key in ("trials", "pruner")] == [5, "none"]  # as it was said last
    out = capfd.readouterr().out
    assert "sweep in S: 5 jobs, 5 finished" in out
    assert "the best on validation again: metarun " in out


def test_the_same_command_goes_on_with_a_search_that_was_stopped_between_two_trials(searched):
    command = [word for word in SEARCH if not word.startswith("run.dir")]
    assert searched(*command, stop_after=0) == [0, "exit 75"]
    assert searched(*command) == [1, 2]
    (done,) = Path("runs/multirun").iterdir()
    assert sweep.unfinished(done.parent, (), sweep.read(done).settings, sweep.read(done).sweeping) is None


def test_another_search_is_none_to_go_on_with(searched):
    command = [word for word in SEARCH if not word.startswith("run.dir")]
    searched(*command, "run.dir=runs/multirun/S", stop_after=0)
    assert searched(*command, "sweep.sampler=random") == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep.sampler=random"], "hydra.sweeper.sampler=random: the sweep in S has hydra.sweeper.sampler=tpe; go on"),
        (["sweep.seed=1"], "hydra.sweeper.seed=1: the sweep in S has hydra.sweeper.seed=0; "),
        (["sweep.objective=loss"], "hydra.sweeper.objective=loss: the sweep in S has hydra.sweeper.objective=mse; "),
        (["learner.inner_lr=interval(1,2)"], "learner.inner_lr=interval(1,2): the sweep in S has learner.inner_lr="),
        (["learner.inner_steps=1,2"], "learner.inner_steps=1,2: the sweep in S has no learner.inner_steps=; "),
        (["eval.seed=1"], "eval.seed=1: the sweep in S has no eval.seed=; "),
    ],
)  # fmt: skip
def test_another_search_in_its_directory_is_refused_by_key(searched, capfd, arguments, says):
    searched(*SEARCH, stop=0)
    capfd.readouterr()
    assert searched(*SEARCH, *arguments) == ["exit 2"]
    err = capfd.readouterr().err
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1


def test_a_search_that_meets_another_in_a_new_directory_leaves_it_as_it_is(searched, monkeypatch, capfd):
    assert searched(*SEARCH, "sweep.seed=1", stop_after=0) == [0, "exit 75"]
    real = place.only_process_in

    def after_the_other(directory):
        Path("OTHER").rename("S")
        return real(directory)

    Path("S").rename("OTHER")
    before = sweep.read(Path("OTHER")).search
    monkeypatch.setattr(place, "only_process_in", after_the_other)
    capfd.readouterr()
    assert searched(*SEARCH) == ["exit 2"]
    assert "hydra.sweeper.seed=0: the sweep in S has hydra.sweeper.seed=1; " in capfd.readouterr().err
    assert sweep.read(Path("S")).search == before


def test_what_changes_no_result_may_change(searched):
    searched(*SEARCH, stop=0)
    assert searched(*SEARCH, "inner.unroll=2", "sweep.pruner=none") == [0, 1, 2]


def test_a_grid_and_a_search_keep_their_directories_to_themselves(searched, capfd):
    searched(*SEARCH, stop=0)
    assert searched("-m", *QUICK, "train.seed=0,1", "run.dir=S") == ["exit 2"]
    assert "hydra/sweeper=grid: the sweep in S has hydra/sweeper=optuna; " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["learner.inner_lr=interval(1,0.1)"], "learner.inner_lr=interval(1,0.1): is inverted; "),
        (["learner.inner_lr=tag(log,interval(0,1))"], "learner.inner_lr=tag(log,interval(0,1)): has an end <= 0"),
        (["learner.inner_lr=0.1"], "hydra/sweeper=optuna: nothing is searched; "),
        (["learner.inner_lr=banana,bananas"], "learner.inner_lr=banana"),
        (["learner.inner_lr=interval(-1,1)"], "learner.inner_lr=-1.0: must be a number > 0"),
        ([LR, "sweep.sampler=grid"], "learner.inner_lr=tag(log,interval(0.001,1)): has no end of values"),
        ([LR, "sweep.sampler=grd"], "hydra.sweeper.sampler=grd: must be one of tpe, random, grid"),
        ([LR, "sweep.pruner=mean"], "hydra.sweeper.pruner=mean: must be one of median, none"),
        ([LR, "sweep.direction=up"], "hydra.sweeper.direction=up: must be one of auto, maximize, minimize"),
        ([LR, "sweep.trials=0"], "hydra.sweeper.trials=0: must be an integer >= 1, or auto"),
        ([LR, "sweep.seed=-1"], "hydra.sweeper.seed=-1: must be an integer >= 0"),
        ([LR, "sweep.jobs=9999"], "sweep.jobs=9999: 9999 jobs of "),
        (["train.seed=range(999)", "eval.seed=range(999)", "sweep.sampler=grid"], "hydra.sweeper.sampler=grid: is of "),
    ],
)  # fmt: skip
def test_a_mistake_about_a_search_is_one_line_and_leaves_nothing(searched, capfd, tmp_path, arguments, says):
    assert searched("-m", *QUICK, "sweep.trials=3", *arguments) == ["exit 2"]
    err = capfd.readouterr().err
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_grid_says_what_takes_an_interval(searched, capfd, tmp_path):
    assert searched("-m", *QUICK, LR) == ["exit 2"]
    assert capfd.readouterr().err == (
        "metarun: learner.inner_lr=tag(log,interval(0.001,1)): has no end of values; sweep.trials=20 searches it\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_command_that_installs_it_is_told(searched, capfd, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else real(name, *rest)
    )
    assert searched(*SEARCH) == ["exit 2"]
    assert capfd.readouterr().err == (
        'metarun: hydra/sweeper=optuna: needs Optuna, which is not here; pip install "metarun[optuna]"\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_validations_have_not_is_named_with_those_they_have(searched, capfd):
    assert searched(*SEARCH, "sweep.objective=acuracy") == ["exit 2"]
    says = "hydra.sweeper.objective=acuracy: is no metric of a validation; take of: loss, mse"
    assert capfd.readouterr().err == f"metarun: {says}\n"
    assert not Path("S").exists()


def test_a_later_trial_whose_settings_are_a_mistake_fails_alone(searched, capfd):
    few = "learner.inner_lr=0.1,banana,0.2,0.3"
    assert searched("-m", *QUICK, few, "sweep.sampler=grid", "sweep.seed=1", "run.dir=S") == [0, 2, 3, "exit 1"]
    out, err = capfd.readouterr()
    assert "job 1 failed: learner.inner_lr=banana: must be a number > 0" in out
    assert err == "metarun: 1 of 4 jobs of the sweep failed\n"
    assert [job.stand for job in sweep.read(Path("S")).jobs] == ["finished", "failed", "finished", "finished"]


def test_a_search_with_runs_of_its_own(ended, tmp_path):
    """A trial in a process of its own."""
    done = ended("-m", *QUICK, "train.steps=4", LR, "sweep.trials=1", "run.dir=S", "logger=none")
    assert done.code == 0
    found = sweep.read(tmp_path / "S")
    (job,) = found.jobs
    assert job.stand == "finished"
    assert found.own(job).startswith("learner.inner_lr=0.")
    assert f"job 0 of 1 begins: {found.own(job)}\n" in done.out
    assert f"  inner_lr: {found.own(job).partition('=')[2]}\n" in (job.directory / "config.yaml").read_text()
    assert table.gathered(found)[0].validation == rows(job.directory)[-1]["mse"]
