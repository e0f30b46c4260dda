"""What a sweep's directory tells of it, however its process ended."""

import errno
import json
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from metarun.core import ConfigError
from metarun.run.record import only_process_in
from metarun.sweep import record
from metarun.sweep.record import Job, Sweep


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A sweep of three jobs that has begun."""
    directory = tmp_path / "S"
    jobs = tuple(Job(n, ("learner=maml", f"train.seed={n}"), directory / str(n)) for n in range(3))
    found = Sweep(directory, ("--config-dir=mine",), ("learner=maml", "train.seed=0,1,2"), "grid", jobs)
    record.begin(found)
    return found


def finish(job: Job) -> None:
    job.directory.mkdir(parents=True, exist_ok=True)
    (job.directory / "results.json").write_text("{}")


def test_what_was_written_is_read(sweep):
    assert record.read(sweep.directory) == sweep


def test_a_sweep_may_be_moved(sweep):
    elsewhere = sweep.directory.rename(sweep.directory.with_name("T"))
    assert [job.directory for job in record.read(elsewhere).jobs] == [elsewhere / str(n) for n in range(3)]


def test_jobs_stand_as_their_directories_and_their_last_lines_say(sweep):
    first, second, third = sweep.jobs
    assert {job.stand for job in sweep.jobs} == {"waiting"}
    finish(first)
    record.ended(sweep.directory, second, failed="no memory", seconds=1.0)
    record.ended(sweep.directory, third, pruned=True, seconds=1.0)
    assert [job.stand for job in record.read(sweep.directory).jobs] == ["finished", "failed", "pruned"]
    with only_process_in(second.directory):
        assert record.read(sweep.directory).jobs[1].stand == "running"
    (second.directory).mkdir(exist_ok=True)
    (second.directory / "config.yaml").write_text("")
    assert record.read(sweep.directory).jobs[1].stand == "failed"
    assert second.stand == "stopped"  # nothing is known of how it ended
    record.ended(sweep.directory, second, seconds=2.0)
    finish(second)
    assert record.read(sweep.directory).jobs[1].stand == "finished"


def test_a_full_disk_that_takes_no_line_of_the_record_is_told_with_its_name(sweep, monkeypatch):
    """An OSError of no file would be standard output's."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        record.ended(sweep.directory, sweep.jobs[0])
    assert error.value.filename == str(sweep.directory / "jobs.jsonl")


def test_who_looks_at_a_job_that_begins_does_not_make_it_fail(sweep):
    """A look takes the job's lock for a moment."""
    job = sweep.jobs[0]
    job.directory.mkdir()
    look = FileLock(job.directory / ".lock", thread_local=False)
    look.acquire()
    threading.Timer(0.2, look.release).start()
    with only_process_in(job.directory):
        assert job.stand == "running"


def test_a_line_that_a_kill_has_cut_off_takes_no_other_with_it(sweep):
    with (sweep.directory / record.JOBS).open("a") as file:
        file.write('{"job": 0, "fai')
    record.ended(sweep.directory, sweep.jobs[1], failed="no memory")
    record.add(sweep.directory, Job(3, ("train.seed=3",), sweep.directory / "3"))
    ends = [job.end for job in record.read(sweep.directory).jobs]
    assert ends == [{}, {"failed": "no memory"}, {}, {}]


def test_what_sets_jobs_apart(sweep):
    assert sweep.common == {"learner=maml"}
    assert [sweep.own(job) for job in sweep.jobs] == ["train.seed=0", "train.seed=1", "train.seed=2"]


SEARCH = {"trials": 3, "sampler": "tpe", "seed": 0, "objective": "mse", "direction": "minimize", "space": {}}


def a_command(**changes: object) -> str:
    """A sweep.json, as it is but for the `changes`."""
    return json.dumps({"format": 1, "sweeper": "optuna", "options": [], "settings": [], "search": SEARCH} | changes)


def test_a_search_that_is_whole_is_read(sweep):
    (sweep.directory / record.COMMAND).write_text(a_command())
    assert record.read(sweep.directory).search == SEARCH


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        (record.COMMAND, "{", "its sweep.json or jobs.jsonl cannot be read"),
        (record.COMMAND, '{"format": 1}', "its sweep.json or jobs.jsonl cannot be read"),
        (record.COMMAND, '{"format": 99}', "in format 99 of another version"),
        (record.COMMAND, a_command(settings=[1]), "its sweep.json or jobs.jsonl cannot be read"),
        (record.COMMAND, a_command(search={"trials": 3}), "its sweep.json or jobs.jsonl cannot be read"),
        (record.COMMAND, a_command(search=SEARCH | {"trials": "3"}), "its sweep.json or jobs.jsonl cannot be read"),
        (record.COMMAND, a_command(search=SEARCH | {"direction": "most"}), "its sweep.json or jobs.jsonl cannot be"),
        (record.JOBS, '{"job": 0, "settings": "a=1", "directory": "0"}\n', "its sweep.json or jobs.jsonl cannot be"),
        (record.JOBS, '{"settings": []}\n', "its sweep.json or jobs.jsonl cannot be read"),
        (record.JOBS, "null\n", "its sweep.json or jobs.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(sweep, file, text, says):
    (sweep.directory / file).write_text(text)
    with pytest.raises(ConfigError, match=says) as error:
        record.read(sweep.directory)
    assert "\n" not in str(error.value)


def test_the_newest_unfinished_sweep_of_a_command_is_found(sweep):
    parent, command = sweep.directory.parent, (sweep.options, sweep.settings)
    assert record.unfinished(parent, *command) == sweep.directory
    assert record.unfinished(parent, (), sweep.settings) is None
    assert record.unfinished(parent, sweep.options, ("learner=maml",)) is None
    with only_process_in(sweep.directory):
        assert record.unfinished(parent, *command) is None
    newer = parent / "T"
    record.begin(Sweep(newer, *command, "grid", tuple(job._replace(directory=newer / "0") for job in sweep.jobs[:1])))
    assert record.unfinished(parent, *command) == newer
    finish(record.read(newer).jobs[0])
    assert record.unfinished(parent, *command) == sweep.directory
    for job in sweep.jobs[:2]:
        finish(job)
    record.ended(sweep.directory, sweep.jobs[2], failed="for good")
    assert record.unfinished(parent, *command) is None


def test_a_sweep_goes_on_by_its_own_launcher_unless_another_is_named(tmp_path):
    given = ("hydra/sweeper=grid", "hydra.mode=MULTIRUN", "hydra.sweep.dir=S", "hydra/launcher=slurm")
    given += ("hydra.launcher.jobs=2", "hydra.sweep.subdir=x", "hydra.launcher.jobs=4", "hydra.sweeper.retry=true")
    beside = record.beside_of(given)
    assert beside == ("hydra/launcher=slurm", "hydra.launcher.jobs=4", "hydra.sweep.subdir=x")
    record.begin(Sweep(tmp_path, (), ("a=1,2",), "grid", (), record.sweeping_of(given), beside=beside))
    found = record.read(tmp_path)
    assert found.again() == found.again(["sweep.jobs=8"]) == [*beside, "hydra/sweeper=grid", "a=1,2"]
    assert found.again(["hydra/launcher=ray"]) == ["hydra.sweep.subdir=x", "hydra/sweeper=grid", "a=1,2"]


def test_many_jobs_are_a_file_of_as_many_lines_and_their_ends(tmp_path):
    jobs = tuple(Job(n, (f"train.seed={n}",), tmp_path / str(n)) for n in range(200))
    record.begin(Sweep(tmp_path, (), ("train.seed=range(200)",), "grid", jobs))
    for job in jobs[::-1]:
        record.ended(tmp_path, job, seconds=float(job.number))
    lines = (tmp_path / record.JOBS).read_text().splitlines()
    assert len(lines) == 400
    assert json.loads(lines[199]) == {"job": 199, "settings": ["train.seed=199"], "directory": "199"}
    assert [job.end["seconds"] for job in record.read(Path(tmp_path)).jobs] == list(range(200))
