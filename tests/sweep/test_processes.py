"""Jobs side by side: each sees its share, one that fails takes no other down, and a stop saves them all."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest
from omegaconf import OmegaConf
from stand_in_jobs import begun, stop_once_begun

from metarun.core import ConfigError
from metarun.exit_codes import STOPPED
from metarun.run import terminal
from metarun.run.record import only_process_in
from metarun.run.stop import PARENT, Interrupted
from metarun.sweep import launch, processes, record, table
from metarun.sweep.launch import Work
from metarun.sweep.processes import GB, Processes, Share, number_of_jobs, shares
from metarun.sweep.record import Job, Sweep


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a sweep's jobs, of which it is said how they end; gives the sweep as it is known afterwards."""

    def make(*how: str, at_once: tuple[Share, ...], **given) -> Sweep:
        sweep = begun(tmp_path, monkeypatch, *how)
        launcher = Processes("auto", 1.0)
        launcher.shares = list(at_once)
        launcher.work(Work(sweep, iter(sweep.jobs), **given))
        return record.read(tmp_path)

    return make


ANY = Share((), (), 1.0)


def test_a_job_that_fails_or_is_killed_takes_no_other_down(made, capfd):
    sweep = made("well", "fails", "killed", "well", "well", at_once=(ANY, ANY))
    assert [job.stand for job in sweep.jobs] == ["finished", "failed", "failed", "finished", "finished"]
    assert [job.end.get("failed") for job in sweep.jobs] == [None, "too much", "killed by SIGKILL", None, None]
    assert f"job 1 failed: too much; its lines: {sweep.directory}/1.log" in capfd.readouterr().out


def test_a_sweep_whose_lines_nobody_reads_any_more_goes_on(made, monkeypatch):
    monkeypatch.setattr(terminal.console, "quiet", False)
    read, written = os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        sweep = made("well", "well", at_once=(ANY,))
    assert [job.stand for job in sweep.jobs] == ["finished", "finished"]


def test_a_job_sees_its_share_alone(made):
    core = max(os.sched_getaffinity(0))
    sweep = made("well", at_once=(Share((core,), ("1", "3"), 1.0),))
    assert json.loads((sweep.jobs[0].directory / "config.yaml").read_text()) == [[core], "1,3"]


def test_a_stop_saves_what_is_at_work_and_begins_no_other(made, tmp_path):
    stop_once_begun(tmp_path, 2)
    with pytest.raises(Interrupted):
        made("long", "long", "well", at_once=(ANY, ANY))
    assert [job.stand for job in record.read(tmp_path).jobs] == ["stopped", "stopped", "waiting"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped_before_it_can_hear_a_signal_is_begun_again(tmp_path, monkeypatch, number):
    """As one whose process has just begun: it has not failed."""
    sweep = begun(tmp_path, monkeypatch, "well", "well", "well")
    monkeypatch.setattr(Work, "command", lambda self, job: ["sleep", "60"])
    launcher = Processes("auto", 1.0)
    launcher.shares = [ANY] * 2

    def begin_and_stop(work: Work, job: Job, share: Share) -> "subprocess.Popen[bytes]":
        process = processes.process_of(work.command(job), job.lines, {})
        if job.number == 1:
            os.kill(os.getpid(), number)  # between the process and its place among those that are told
        return process

    monkeypatch.setattr(processes, "begin", begin_and_stop)
    with pytest.raises(Interrupted):
        launcher.work(Work(sweep, iter(sweep.jobs)))
    assert [job.stand for job in record.read(tmp_path).jobs] == ["waiting", "waiting", "waiting"]


def test_what_is_hopeless_is_stopped_and_counts_as_pruned(made):
    ended = []
    sweep = made(
        "long", "well", at_once=(ANY,), is_hopeless=lambda job: job.stand == "stopped",
        told=lambda job, failed: ended.append((job.number, failed)),
    )  # fmt: skip
    assert [job.stand for job in sweep.jobs] == ["pruned", "finished"]
    assert ended == [(0, None), (1, None)]


def test_a_stop_is_heard_while_another_process_is_at_all_that_is_left(made, tmp_path, monkeypatch):
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        assert len(slept) < 100, "waits for ever"
        threading.Event().wait(0.01)

    monkeypatch.setattr(launch.time, "sleep", sleep)
    with only_process_in(tmp_path / "0"), pytest.raises(Interrupted):
        made("well", at_once=(ANY,))


def test_a_job_that_another_process_is_at_is_waited_for(tmp_path):
    """As one is that has outlived the process of its sweep."""
    jobs = [Job(n, (), tmp_path / str(n)) for n in range(3)]
    work = Work(Sweep(tmp_path, (), (), "grid", tuple(jobs)), iter(jobs))
    with only_process_in(jobs[0].directory), only_process_in(jobs[1].directory):
        assert work.next() == jobs[2]
        assert work.next() is None
        (jobs[0].directory / "results.json").write_text("{}")
    assert work.next() == jobs[1]
    assert work.next() is None


def test_a_job_that_failed_and_is_begun_once_more_has_no_longer_failed(tmp_path):
    sweep = Sweep(tmp_path, (), ("a=1",), "grid", (Job(0, ("a=1",), tmp_path / "0"),))
    record.begin(sweep)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.yaml").touch()
    record.ended(tmp_path, sweep.jobs[0], failed="too much")
    (job,) = record.read(tmp_path).jobs
    work = Work(sweep, iter([job]))
    assert work.next() == job
    assert record.read(tmp_path).jobs[0].stand == "stopped"  # as a kill would leave it
    work.over(job, STOPPED)
    assert record.read(tmp_path).jobs[0].stand == "stopped"


def test_a_job_that_left_no_lines_failed_by_its_exit_code(tmp_path, capfd):
    sweep = Sweep(tmp_path, (), ("a=1",), "grid", (Job(0, ("a=1",), tmp_path / "0"),))
    record.begin(sweep)
    work = Work(sweep, iter(sweep.jobs))
    work.over(work.next(), 3)
    assert record.read(tmp_path).jobs[0].end["failed"] == "exit code 3"
    assert "job 0 failed: exit code 3; its lines: " in capfd.readouterr().out


def test_a_command_of_its_own_makes_a_job(tmp_path):
    job = Job(3, ("learner=maml", "train.seed=3"), tmp_path / 'of "mine"')
    words = Work(Sweep(tmp_path, ("--config-dir=mine",), (), "grid", (job,)), iter([job])).command(job)
    place = f'run.dir="{tmp_path}/of \\"mine\\""'
    assert words[3:] == ["metarun", "--config-dir=mine", "learner=maml", "train.seed=3", place, "hydra.job.num=3"]


def test_a_job_is_told_where_yaml_files_are_and_of_no_launcher(tmp_path):
    job = Job(0, ("learner=mine",), tmp_path / "0")
    beside = ("hydra/launcher=slurm", "hydra.launcher.jobs=2", "hydra.sweep.subdir=x", "hydra.searchpath=[file://mine]")
    sweep = Sweep(tmp_path, ("--config-dir=mine",), (), "grid", (job,), beside=beside)
    own = ["--config-dir=mine", "hydra.searchpath=[file://mine]", "learner=mine"]
    assert Work(sweep, iter([job])).command(job)[4:7] == own
    assert shlex.split(table.again(sweep, job)) == ["metarun", *own]


def test_a_job_is_asked_to_stop_once_the_sweeps_process_is_gone():
    waits = "from metarun.run.stop import stop_without_parent; import time; stop_without_parent(); time.sleep(60)"
    environment = os.environ | {PARENT: "1"}  # not this process: its parent is another by now
    child = subprocess.Popen([sys.executable, "-c", waits], env=environment)
    assert child.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("jobs", "cores", "gpus", "expected"),
    [
        (2, [0, 1], [], [((0,), (), 1.0), ((1,), (), 1.0)]),
        (2, [0, 1, 2], [], [((0,), (), 1.0), ((1, 2), (), 1.0)]),
        (3, [4, 5], [], [((4,), (), 1.0), ((5,), (), 1.0), ((4,), (), 1.0)]),
        (2, [], [], [((), (), 1.0), ((), (), 1.0)]),
        (2, [0, 1], ["0", "1", "2", "3"], [((0,), ("0", "1"), 1.0), ((1,), ("2", "3"), 1.0)]),
        (2, [0, 1], ["7"], [((0,), ("7",), 0.45), ((1,), ("7",), 0.45)]),
    ],
)
def test_the_machine_is_divided_among_jobs(jobs, cores, gpus, expected):
    assert [tuple(share) for share in shares(jobs, cores, gpus)] == expected


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("0,1", ["0", "1"]),
        ("2, GPU-8932f937,MIG-GPU-8932f937/1/2", ["2", "GPU-8932f937", "MIG-GPU-8932f937/1/2"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["0"]),
        ("0,,1", ["0"]),
    ],
)
def test_gpus_are_those_that_cuda_shows_and_none_where_jobs_are_on_the_cpu(monkeypatch, visible, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(processes, "cores_here", lambda: list(range(16)))
    monkeypatch.setattr(processes, "free_host_bytes", lambda: 100 * GB)
    for platform, seen in (("auto", gpus), ("cpu", [])):
        launcher = Processes("auto", 1.0)
        hardware = OmegaConf.create({"hardware": {"platform": platform}})
        launcher.setup(hydra_context=None, task_function=None, config=hardware)
        assert len(launcher.shares) == (len(seen) or 16)
        assert [gpu for share in launcher.shares for gpu in share.gpus] == seen


def test_a_job_that_shares_a_gpu_takes_its_part_of_the_memory():
    assert Share((), (), 1.0).environment() == {}
    assert Share((), ("7",), 1.0).environment() == {"CUDA_VISIBLE_DEVICES": "7"}
    shared = {"CUDA_VISIBLE_DEVICES": "7", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    assert Share((), ("7",), 0.45).environment() == shared


@pytest.mark.parametrize(
    ("asked", "cores", "gpus", "memory", "expected"),
    [
        ("auto", 4, 0, 100 * GB, 4),
        ("auto", 4, 2, 100 * GB, 2),
        ("auto", 4, 0, 5 * GB, 2),
        ("auto", 4, 0, 1 * GB, 1),
        ("auto", 4, 0, None, 4),
        (7, 4, 0, 100 * GB, 7),
        (1, 4, 0, 1 * GB, 1),
        (7, 4, 0, None, 7),
    ],
)
def test_as_many_jobs_as_there_is_room_for(asked, cores, gpus, memory, expected):
    assert number_of_jobs(asked, 2.0, cores, gpus, memory) == expected


@pytest.mark.parametrize(
    ("asked", "memory_gb", "says"),
    [
        (
            3,
            2.0,
            r"sweep\.jobs=3: 3 jobs of hydra\.launcher\.memory_gb=2 want 6 GB of memory and 5 are free; .* 2",
        ),
        (0, 2.0, r"sweep\.jobs=0: must be an integer >= 1, or auto"),
        (True, 2.0, r"sweep\.jobs=True: must be an integer >= 1, or auto"),
        ("many", 2.0, r"sweep\.jobs=many: must be an integer >= 1, or auto"),
        (1, 0, r"hydra\.launcher\.memory_gb=0: must be a number > 0"),
    ],
)
def test_more_than_there_is_is_refused(asked, memory_gb, says):
    with pytest.raises(ConfigError, match=says):
        number_of_jobs(asked, memory_gb, 4, 0, 5 * GB)
