"""Jobs through submitit and Ray, on this machine: what ends, what is preempted, and what is stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
from stand_in_jobs import JOB, begun, stop_once_begun

from metarun.core import ConfigError
from metarun.run.stop import Interrupted
from metarun.sweep import record
from metarun.sweep.launch import Work
from metarun.sweep.slurm import Run, Slurm, code_of


@pytest.fixture
def local() -> Slurm:
    """submitit's stand-in for a cluster."""
    launcher = Slurm("local", 3, 0.1, 10, {"timeout_min": 5})
    launcher.setup(hydra_context=None, task_function=None, config=None)
    return launcher


def ended(directory) -> list[str]:
    return [job.stand for job in record.read(directory).jobs]


@pytest.mark.slow
def test_jobs_of_a_cluster_end_as_their_processes_do(tmp_path, monkeypatch, local):
    sweep = begun(tmp_path, monkeypatch, "well", "fails", "again")
    local.work(Work(sweep, iter(sweep.jobs)))
    assert ended(tmp_path) == ["finished", "failed", "finished"]  # what has saved its state and ended is requeued
    assert record.read(tmp_path).jobs[1].end["failed"] == "too much"


def signal_once_begun(directory, number: int) -> None:
    """As Slurm does it: the signal comes to every process of the job."""

    def signalled() -> None:
        while not (directory / "0" / "config.yaml").exists():
            time.sleep(0.01)
        job = next(one for one in psutil.Process().children(recursive=True) if str(directory / "0") in one.cmdline())
        for process in (job, job.parent()):
            process.send_signal(number)

    threading.Thread(target=signalled, daemon=True).start()


def test_a_job_whose_time_is_up_saves_its_state_and_is_requeued(tmp_path, monkeypatch, local):
    sweep = begun(tmp_path, monkeypatch, "preempted")
    signal_once_begun(tmp_path, signal.SIGUSR2)
    local.work(Work(sweep, iter(sweep.jobs)))
    assert ended(tmp_path) == ["finished"]


@pytest.fixture
def handlers():
    """What signals do, put back as it was."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def answering(tmp_path, monkeypatch, answer: str) -> None:
    """A `squeue` that is asked of job 17_3, and does what `answer` says."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir(exist_ok=True)
    squeue.write_text(f'#!/bin/sh\ntest "$4" = --jobs=17_3 || exit 7\n{answer}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("answer", "over"),
    [
        ("echo PENDING", False),  # requeued, though accounting called it cancelled when it was asked
        ("echo COMPLETING", False),
        ("echo CANCELLED", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),  # Slurm has forgotten it
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_a_job_without_a_result_is_over_when_slurm_says_so(tmp_path, monkeypatch, answer, over):
    answering(tmp_path, monkeypatch, answer)
    result = tmp_path / "result.pkl"
    job = SimpleNamespace(done=lambda: True, paths=SimpleNamespace(result_pickle=result), job_id="17_3")
    slurm = Slurm("slurm", 1, 1.0, 1, {})
    assert slurm.is_over(job) is over
    result.touch()
    assert slurm.is_over(job)
    assert not slurm.is_over(SimpleNamespace(done=lambda: False, state="RUNNING"))


@pytest.mark.parametrize(("says", "over"), [("PREEMPTED", True), ("PENDING", False)])
def test_a_job_that_was_preempted_is_over_unless_it_is_requeued(tmp_path, monkeypatch, says, over):
    answering(tmp_path, monkeypatch, f"echo {says}")
    paths = SimpleNamespace(result_pickle=tmp_path / "result.pkl")
    job = SimpleNamespace(done=lambda: False, state="PREEMPTED", paths=paths, job_id="17_3")
    assert Slurm("slurm", 1, 1.0, 1, {}).is_over(job) is over
    assert code_of(job) == 75  # and waits for no result


@pytest.mark.parametrize(
    ("how", "slurm_says", "expected"),
    [
        ("long", "COMPLETING", "nothing: 75"),  # cancelled
        ("long", "RUNNING", "to come back"),  # preempted, with time to save; both as Slurm 22.05 has it
        ("again", "COMPLETING", "to come back"),  # it has saved its state and ended by itself
        ("again", "unheard", "nothing: 75"),  # the command that asks was ended with the job, so there is no result
    ],
)
def test_a_job_asks_to_come_back_unless_it_was_cancelled(tmp_path, monkeypatch, handlers, how, slurm_says, expected):
    asked: list[str] = []
    answering(tmp_path, monkeypatch, f"echo {slurm_says}")
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)

    def requeue(*_) -> None:
        if slurm_says == "unheard":
            raise subprocess.CalledProcessError(-signal.SIGTERM, ["scontrol", "requeue", "17_3"])
        asked.append("to come back")

    signal.signal(signal.SIGUSR2, requeue)
    monkeypatch.setattr(os, "_exit", lambda code: asked.append(f"nothing: {code}"))

    def cancel() -> None:
        while not (tmp_path / "0" / "config.yaml").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    if how == "long":
        threading.Thread(target=cancel, daemon=True).start()
    Run([sys.executable, "-c", JOB, how, str(tmp_path / "0")], tmp_path / "0.log")()
    assert asked[0] == expected


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_its_state_and_does_not_ask_to_come_back(tmp_path, monkeypatch, local):
    """One that is preempted comes back, since Slurm brings it back by itself; seen with Slurm 22.05."""
    sweep = begun(tmp_path, monkeypatch, "preempted")
    signal_once_begun(tmp_path, signal.SIGTERM)
    local.work(Work(sweep, iter(sweep.jobs)))
    assert ended(tmp_path) == ["stopped"]


@pytest.mark.slow
def test_a_stop_cancels_the_jobs_of_a_cluster_which_save_their_state(tmp_path, monkeypatch, local):
    sweep = begun(tmp_path, monkeypatch, "long", "long", "long", "well")

    stop_once_begun(tmp_path, 3)
    with pytest.raises(Interrupted):
        local.work(Work(sweep, iter(sweep.jobs)))
    assert ended(tmp_path) == ["stopped", "stopped", "stopped", "waiting"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cluster": "slurm"}, r"hydra/launcher=slurm: there is no srun here"),
        ({"jobs": 0}, r"sweep\.jobs=0: must be an integer >= 1"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_before_anything_is_made(monkeypatch, given, says):
    monkeypatch.setenv("PATH", "")  # where there is one
    launcher = Slurm(**({"cluster": "local", "jobs": 1, "poll_s": 1.0, "requeues": 1, "parameters": {}} | given))
    with pytest.raises(ConfigError, match=says):
        launcher.setup(hydra_context=None, task_function=None, config=None)


def test_a_parameter_that_submitit_does_not_know_is_refused(tmp_path):
    launcher = Slurm("local", 1, 1.0, 1, {"timeout_mins": 5})
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.parameters="):
        launcher.executor(tmp_path)


@pytest.mark.slow
def test_jobs_of_ray_end_as_their_processes_do(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from metarun.sweep.ray import Ray

    sweep = begun(tmp_path, monkeypatch, "well", "fails", "killed", "well")
    Ray(None, None, 1, 0, None, 0).work(Work(sweep, iter(sweep.jobs)))
    assert ended(tmp_path) == ["finished", "failed", "failed", "finished"]


@pytest.mark.slow
def test_a_stop_cancels_the_jobs_of_ray_which_save_their_state(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from metarun.sweep.ray import Ray

    sweep = begun(tmp_path, monkeypatch, "long", "long", "well")

    stop_once_begun(tmp_path, 2)
    with pytest.raises(Interrupted):
        Ray(None, 2, 1, 0, None, 0).work(Work(sweep, iter(sweep.jobs)))
    assert ended(tmp_path) == ["stopped", "stopped", "waiting"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"address": "ray://127.0.0.1:1"}, r"hydra\.launcher\.address=ray://127\.0\.0\.1:1: no Ray cluster .* refused"),
        ({"address": "127.0.0.1:1"}, r"hydra\.launcher\.address=127\.0\.0\.1:1: no Ray cluster .* refused"),
        ({"cpus": 9999}, r"hydra\.launcher\.cpus=9999: a job wants 9999 and the cluster has"),
    ],
)
def test_a_ray_that_cannot_be_is_one_line(given, says):
    pytest.importorskip("ray")
    from metarun.sweep.ray import Ray

    launcher = Ray(**({"address": None, "jobs": None, "cpus": 1, "gpus": 0, "memory_gb": None, "retries": 0} | given))
    with pytest.raises(ConfigError, match=says):
        launcher.joined()
