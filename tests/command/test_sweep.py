"""A sweep is checked as a whole before its first run, and tells at its end which of its runs failed."""

import sys

import pytest
from support import QUICK

from metarun.command import main, sweep
from metarun.run import train


def swept(capfd, monkeypatch, *arguments: str) -> tuple[int, str]:
    """A sweep's exit code, and what it printed on standard error."""
    monkeypatch.setattr(sys, "argv", ["metarun", *arguments])
    code = 0
    try:
        main.command()
    except SystemExit as error:
        code = error.code
    return code, capfd.readouterr().err


MISTAKES = [
    (["-m", "task=strokes,sinusoid", "learner=protonet"],
     "learner=protonet: classifies, and sinusoid is a regression; use maml, cnp or another "
     "(in the combination task=sinusoid)"),
    (["-m", "task=sinusoid", "train.seed=0,banana", "learner=maml"],
     "train.seed=banana: must be an integer >= 0 and < 4294967296 (in the combination train.seed=banana)"),
    (["--multirun", "train.seed=range(0,2)", "learner=glob(ma*)", "train.log_every=choice(1,7)", "train.steps=4"],
     "train.log_every=7: must divide train.steps=4, or be auto "
     "(in the combination train.seed=0 learner=maml train.log_every=7)"),
    (["-m", "eval.task.shots=1,0"],
     "eval.task.shots=0: must be an integer >= 1 (in the combination eval.task.shots=0)"),
    (["-m", "task.ways=1"], "task.ways=1: must be an integer >= 2"),
    (["-m", "train.stes=1,2"], "train.stes: no such key; did you mean steps?"),
    (["-m", "learner=maml,mmal"], "learner=mmal: no such choice; did you mean maml? (in the combination learner=mmal)"),
    (["-m", "train.seed=0,1", "run.dir=A,B"], "run.dir: a sweep has one directory, with one inside for each"),
    (["-m", "train.seed=0,1", "hydra.sweep.subdir=x", "run.dir=${now:%f}"], "hydra.sweep.subdir="),
    (["hydra.mode=MULTIRUN", "run.dir=X", "train.seed=0,x"], "train.seed=x: must be an integer >= 0 and < 4294967296"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistaken_combination_is_named_before_any_trains_and_leaves_nothing(
    tmp_path, monkeypatch, capfd, arguments, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda run: pytest.fail("a run was begun"))
    code, err = swept(capfd, monkeypatch, *arguments, "logger=none")
    assert code == 2
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_from_a_yaml_is_checked_too(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda run: pytest.fail("a run was begun"))
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    params = "# @package _global_\nhydra: {sweeper: {params: {train.seed: '0,x'}}}\n"
    (tmp_path / "mine" / "experiment" / "seeds.yaml").write_text(params)
    code, err = swept(capfd, monkeypatch, "-m", "--config-dir=mine", "experiment=seeds", "logger=none")
    assert (code, err.split(":")[1]) == (2, " train.seed=x")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_the_check_composes_is_what_the_runs_get(tmp_path, monkeypatch, capfd):
    """Directory, number and values: a sweep that is checked as one thing and run as another would be worth nothing."""
    monkeypatch.chdir(tmp_path)
    real, seen = sweep.checked, []

    def checked(cfg, directory):
        run = real(cfg, directory)
        seen.append((run.info.dir, run.info.name, run.learner, run.train.seed))
        return run

    trained = []
    monkeypatch.setattr(sweep, "checked", checked)
    monkeypatch.setattr(
        train, "train", lambda run: trained.append((run.info.dir, run.info.name, run.learner, run.train.seed))
    )
    monkeypatch.setattr("metarun.run.results.tell", lambda found, directory: None)
    name = "run.name=${hydra:job.num}-${train.seed}"
    code, err = swept(capfd, monkeypatch, "-m", *QUICK, name, "learner=maml,reptile", "train.seed=0,1", "run.dir=SWEEP")
    assert (code, err) == (0, "")
    assert seen == trained
    assert [run[:2] for run in seen] == [(f"SWEEP/{i}", f"{i}-{i % 2}") for i in range(4)]


@pytest.mark.parametrize(
    "fault", [train.NotFinite("not a number"), OSError(28, "full", "x"), ZeroDivisionError("ours")]
)
def test_a_sweep_goes_on_past_what_fails_and_ends_as_a_failed_run_does(tmp_path, monkeypatch, capfd, fault):
    monkeypatch.chdir(tmp_path)
    trained = []

    def fails(run):
        trained.append(run.train.seed)
        if run.train.seed != 1:
            raise fault

    monkeypatch.setattr(train, "train", fails)
    monkeypatch.setattr("metarun.run.results.tell", lambda found, directory: None)
    code, err = swept(capfd, monkeypatch, "-m", *QUICK, "train.seed=0,1,2", "run.dir=SWEEP")
    assert code == 1
    assert trained == [0, 1, 2]
    *_, last, first_run, second_run = err.splitlines()
    assert last == "metarun: 2 of 3 runs of the sweep failed:"
    assert first_run.startswith("  SWEEP/0 (train.seed=0): ")
    assert second_run.startswith("  SWEEP/2 (train.seed=2): ")
    assert str(fault.args[-1]) in second_run
    assert ("Traceback" in err) == isinstance(fault, ZeroDivisionError)
