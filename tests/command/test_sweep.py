"""A sweep is checked as a whole before its first run, goes on where it was, and tells at its end what failed."""

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import QUICK

import metarun
from metarun import sweep
from metarun.command import main
from metarun.core import ConfigError
from metarun.run import train
from metarun.sweep import composed, place, record
from metarun.sweep.record import Job, Sweep


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
    monkeypatch.setattr(train, "train", lambda run, stopping: pytest.fail("a run was begun"))
    code, err = swept(capfd, monkeypatch, *arguments, "logger=none")
    assert code == 2
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_from_a_yaml_is_checked_too(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda run, stopping: pytest.fail("a run was begun"))
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    params = "# @package _global_\nhydra: {sweeper: {params: {train.seed: '0,x'}}}\n"
    (tmp_path / "mine" / "experiment" / "seeds.yaml").write_text(params)
    code, err = swept(capfd, monkeypatch, "-m", "--config-dir=mine", "experiment=seeds", "logger=none")
    assert (code, err.split(":")[1]) == (2, " train.seed=x")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_the_check_composes_is_what_the_runs_get(tmp_path, monkeypatch, capfd):
    """Directory, number and values: a sweep that is checked as one thing and run as another would be worth nothing."""
    monkeypatch.chdir(tmp_path)
    real, seen = composed.checked, []

    def checked(cfg, directory):
        run = real(cfg, directory)
        seen.append((run.info.dir, run.info.name, run.learner, run.train.seed))
        return run

    trained = []

    def trains(run, stopping):
        trained.append((run.info.dir, run.info.name, run.learner, run.train.seed))
        with stopping(None) as stop:
            assert stop.then == "; with the sweep: metarun -m run.dir=SWEEP"
        Path(run.info.dir).mkdir(parents=True, exist_ok=True)
        Path(run.info.dir, "results.json").write_text("{}")

    monkeypatch.setattr(composed, "checked", checked)
    monkeypatch.setattr(train, "train", trains)
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

    def fails(run, stopping):
        trained.append(run.train.seed)
        if run.train.seed != 1:
            raise fault

    monkeypatch.setattr(train, "train", fails)
    monkeypatch.setattr("metarun.run.results.tell", lambda found, directory: None)
    monkeypatch.setattr(sys, "argv", ["metarun", "-m", *QUICK, "train.seed=0,1,2", "run.dir=SWEEP"])
    with pytest.raises(SystemExit) as ended:
        main.command()
    out, err = capfd.readouterr()
    assert ended.value.code == 1
    assert trained == [0, 1, 2]
    assert err.splitlines()[-1] == "metarun: 2 of 3 jobs of the sweep failed"
    assert "failed: SWEEP/0 (train.seed=0): " in out
    (second_run,) = [line for line in out.splitlines() if line.startswith("failed: SWEEP/2 (train.seed=2): ")]
    assert str(fault.args[-1]) in second_run
    assert ("Traceback" in err) == isinstance(fault, ZeroDivisionError)


SWEEP = ("-m", *QUICK, "train.seed=0,1,2")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The directories of the runs that were begun; those in `stops` stop in the middle, those in `fails` fail."""
    begun, stops, fails = [], set(), set()

    def run_or_not(run, stopping):
        begun.append(Path(run.info.dir).name)
        directory = Path(run.info.dir)
        directory.mkdir(parents=True, exist_ok=True)
        if directory.name in stops:
            raise train.Interrupted("stopped")
        if directory.name in fails:
            raise train.NotFinite("not a number")
        found = {"protocol": {"split": "test", "metric": "mse"}, "test": {"mse": {"mean": 1.0, "ci95": 0.1}}}
        (directory / "results.json").write_text(json.dumps(found))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", run_or_not)
    monkeypatch.setattr("metarun.run.results.tell", lambda found, directory: None)

    def runs(*arguments: str, stop: str = "", fail: str = "") -> list[str]:
        begun.clear()
        stops.clear()
        fails.clear()
        stops.add(stop)
        fails.add(fail)
        monkeypatch.setattr(sys, "argv", ["metarun", *arguments])
        try:
            main.command()
        except SystemExit as error:
            begun.append(f"exit {error.code}")
        return list(begun)

    return runs


def test_the_same_command_goes_on_with_a_sweep_that_was_stopped_and_begins_anew_once_it_is_done(trained, tmp_path):
    assert trained(*SWEEP, stop="1") == ["0", "1", "exit 75"]
    assert trained(*SWEEP) == ["1", "2"]
    assert len(list((tmp_path / "runs" / "multirun").iterdir())) == 1
    assert trained("-m", *QUICK, "train.seed=0,1", "run.dir=OTHER", stop="0") == ["0", "exit 75"]
    (done,) = (tmp_path / "runs" / "multirun").iterdir()
    done.rename(done.with_name("2026-01-01_00-00-00"))  # the next one may begin in the same second
    assert trained(*SWEEP) == ["0", "1", "2"]


def test_a_sweep_goes_on_by_its_directory_alone(trained, capfd):
    assert trained(*SWEEP, "run.dir=S", stop="1") == ["0", "1", "exit 75"]
    assert "with the sweep: metarun -m run.dir=S" in capfd.readouterr().err
    assert trained("-m", "run.dir=S") == ["1", "2"]
    assert trained("-m", "run.dir=S") == []
    assert "sweep in S: 3 jobs, 3 finished" in capfd.readouterr().out


def test_what_hydra_was_told_beside_the_sweeper_holds_when_a_sweep_goes_on(trained, capfd):
    """Where jobs are within the directory, and by which launcher they are made, unless the command names another."""
    begun = (*SWEEP, "hydra.sweep.subdir=job-${hydra.job.num}", "hydra.job.name=mine")
    assert trained(*begun, "run.dir=S", stop="job-1") == ["job-0", "job-1", "exit 75"]
    assert sweep.read(Path("S")).beside == begun[-2:]
    capfd.readouterr()
    assert trained(*SWEEP, "run.dir=S") == ["exit 2"]
    assert "hydra.sweep.subdir=S/1: would make job 1 there, which is in S/job-1; " in capfd.readouterr().err
    assert trained("-m", "run.dir=S") == ["job-1", "job-2"]
    assert [job.stand for job in sweep.read(Path("S")).jobs] == ["finished"] * 3


def test_the_same_command_goes_on_whatever_it_tells_hydra(trained):
    command = (*SWEEP, "hydra.sweep.subdir=job-${hydra.job.num}")
    assert trained(*command, stop="job-1") == ["job-0", "job-1", "exit 75"]
    assert trained(*command) == ["job-1", "job-2"]


def test_what_failed_is_made_again_if_asked(trained):
    assert trained(*SWEEP, "run.dir=S", fail="1") == ["0", "1", "2", "exit 1"]
    assert trained("-m", "run.dir=S") == ["exit 1"]
    assert trained("-m", "run.dir=S", "sweep.retry=true") == ["1"]
    assert trained("-m", "run.dir=S") == []


def test_a_sweep_takes_what_changes_no_result(trained):
    assert trained(*SWEEP, "run.dir=S", stop="1") == ["0", "1", "exit 75"]
    assert trained(*SWEEP, "run.dir=S", "inner.unroll=2", "logger=[none,tensorboard]") == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-m", *QUICK, "train.seed=0,1"], "train.seed=0,1: the sweep in S has train.seed=0,1,2; go on with it by "),
        (["-m", *QUICK], "train.seed=(left out): the sweep in S has train.seed=0,1,2; "),
        (["-m", *QUICK, "train.seed=0,1,2", "eval.seed=9"], "eval.seed=9: the sweep in S has no eval.seed=; "),
    ],
)
def test_a_sweep_of_another_kind_is_refused_by_key(trained, capfd, arguments, says):
    trained(*SWEEP, "run.dir=S", stop="1")
    capfd.readouterr()
    assert trained(*arguments, "run.dir=S") == ["exit 2"]
    err = capfd.readouterr().err
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1


def test_two_sweeps_in_one_directory_are_refused(trained, capfd, tmp_path):
    from metarun.run.record import only_process_in

    with only_process_in(tmp_path / "S"):
        assert trained(*SWEEP, f"run.dir={tmp_path}/S") == ["exit 2"]
    assert "another process is at work there" in capfd.readouterr().err


@pytest.fixture
def overtaken(monkeypatch):
    """Another sweep is made in the directory in between: once this command has looked, before the directory is its."""
    real = place.only_process_in

    def by(other: Callable[[], None]) -> None:
        @contextmanager
        def after_the_other(directory):
            monkeypatch.setattr(place, "only_process_in", real)
            other()
            with real(directory):
                yield

        monkeypatch.setattr(place, "only_process_in", after_the_other)

    return by


def test_two_sweeps_of_one_second_have_a_directory_each(trained, monkeypatch, tmp_path):
    now = "hydra.sweep.dir=runs/multirun/2026-01-01"
    assert trained("-m", *QUICK, "train.seed=7,8", now) == ["0", "1"]
    before = sweep.read(Path("runs/multirun/2026-01-01"))
    real = place.as_users_write
    monkeypatch.setattr(place, "as_users_write", lambda directory: real(directory).with_name("2026-01-01"))
    assert trained(*SWEEP) == ["0", "1", "2"]
    assert sweep.read(Path("runs/multirun/2026-01-01")) == before
    second = sweep.read(Path("runs/multirun/2026-01-01-2"))
    assert [(job.directory, job.stand) for job in second.jobs] == [
        (second.directory / str(n), "finished") for n in range(3)
    ]


def test_a_sweep_that_meets_another_in_a_new_directory_leaves_it_as_it_is(trained, overtaken, capfd, tmp_path):
    overtaken(lambda: record.begin(of_two_seeds))
    of_two_seeds = Sweep(Path("S"), (), ("train.seed=7,8",), "grid", (Job(0, ("train.seed=7",), Path("S/0")),))
    assert trained(*SWEEP, "run.dir=S") == ["exit 2"]
    assert "the sweep in S has " in capfd.readouterr().err
    assert sweep.read(Path("S")) == of_two_seeds
    assert sorted(file.name for file in Path("S").iterdir()) == [".lock", "jobs.jsonl", "sweep.json"]


def test_a_sweep_that_meets_its_like_in_a_new_directory_makes_what_is_left(trained, overtaken):
    trained(*SWEEP, "run.dir=LIKE", stop="1")
    overtaken(lambda: Path("LIKE").rename("S"))
    assert trained(*SWEEP, "run.dir=S") == ["1", "2"]


def test_no_run_begins_in_the_directory_of_a_sweep(trained, capfd):
    trained(*SWEEP, "run.dir=my sweep", stop="1")
    assert capfd.readouterr().err.endswith("metarun -m 'run.dir=\"my sweep\"'\n")
    before = sorted(Path("my sweep").iterdir())
    for settings in ((), QUICK):
        assert trained(*settings, "run.dir=my sweep") == ["exit 2"]
        assert capfd.readouterr().err == (
            "metarun: run.dir=my sweep: holds a sweep; go on with it by metarun -m 'run.dir=\"my sweep\"', "
            "or name one of its runs\n"
        )
    with pytest.raises(ConfigError, match=r"^run\.dir=my sweep: holds a sweep"):
        metarun.train([*QUICK, "run.dir=my sweep"])
    assert sorted(Path("my sweep").iterdir()) == before
    assert trained("-m", 'run.dir="my sweep"') == ["1", "2"]


@pytest.mark.parametrize("settings", [("train.seed=0,1",), ("learner.inner_lr=interval(0.1,1)", "sweep.trials=3")])
def test_no_sweep_begins_in_the_directory_of_a_run(trained, capfd, settings):
    """The run could not be gone on with any more."""
    Path("RUN").mkdir()
    Path("RUN/config.yaml").touch()
    assert trained("-m", *QUICK, *settings, "run.dir=RUN") == ["exit 2"]
    assert capfd.readouterr().err == "metarun: run.dir=RUN: holds a run; for a sweep name another one\n"
    assert [file.name for file in Path("RUN").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("directory", "says"),
    [("nowhere", "no such directory; name a sweep's"), (".", "holds no sweep (no sweep.json); name a sweep's")],
)
def test_where_there_is_no_sweep_none_goes_on(trained, capfd, directory, says):
    assert trained("-m", f"run.dir={directory}") == ["exit 2"]
    assert trained("sweep", directory) == ["exit 2"]
    assert [says in line for line in capfd.readouterr().err.splitlines()] == [True, True]


def test_a_sweep_of_another_version_is_refused(trained, capfd, tmp_path):
    trained(*SWEEP, "run.dir=S", stop="1")
    file = tmp_path / "S" / "sweep.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    capfd.readouterr()
    assert trained("-m", "run.dir=S") == ["exit 2"]
    assert "S: holds a sweep in format 2 of another version of metarun, this one reads 1; " in capfd.readouterr().err


def test_the_command_tells_how_a_sweep_stands(trained, capfd, tmp_path):
    trained(*SWEEP, "run.dir=S", stop="1")
    capfd.readouterr()
    assert trained("sweep", "S") == []
    out = capfd.readouterr().out
    assert out.startswith("sweep in S: 3 jobs, 1 finished, 2 waiting\n")
    assert "it goes on with: metarun -m run.dir=S" in out
    assert trained("sweep", "S", "--json", "all.json") == []
    said = json.loads((tmp_path / "all.json").read_text())
    assert said == sweep.as_json(sweep.read(Path("S")))
    assert [job["stands"] for job in said["jobs"]] == ["finished", "waiting", "waiting"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep"], "sweep: wants one directory"),
        (["sweep", "S", "--out", "x"], "sweep --out: no such option; allowed: --json FILE"),
        (["sweep", "S", "--json"], "sweep --json: wants a file"),
        (["-m", *QUICK, "train.seed=0,1", "sweep.jobs=0"], "sweep.jobs=0: must be an integer >= 1, or auto"),
        (["-m", *QUICK, "train.seed=0,1", "sweep.jobs=9999"], "sweep.jobs=9999: 9999 jobs of "),
        (["-m", *QUICK, "train.seed=0,1", "sweep.retries=1"], "hydra.sweeper.retries: no such key; "),
        (["-m", *QUICK, "train.seed=0,1", "hydra/launcher=slrum"], "hydra/launcher=slrum: no such choice; "),
    ],
)
def test_a_mistake_about_a_sweep_is_one_line(trained, capfd, arguments, says, tmp_path):
    assert trained(*arguments) == ["exit 2"]
    err = capfd.readouterr().err
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
