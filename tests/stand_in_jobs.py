"""Small programs that stand for a job's process."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from metarun.sweep import record
from metarun.sweep.launch import Work
from metarun.sweep.record import Job, Sweep

# It says how it was started, and ends as it is told, well once it is asked to stop; "again" saves and ends at first.
JOB = """
import json, os, signal, sys, time
from pathlib import Path
how, directory = sys.argv[1:]
directory = Path(directory)
directory.mkdir(parents=True, exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
parent = os.getppid()
begun = (directory / "config.yaml").exists()
seen = [sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")]
(directory / "config.yaml").write_text(json.dumps(seen))
while how == "long" and not stop or how == "preempted" and not stop and not begun:
    time.sleep(0.01)
    if os.getppid() != parent:  # as metarun.run.stop has it
        stop.append(1)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "fails":
    print("metarun: too much", file=sys.stderr)
    sys.exit(1)
if stop or how == "again" and not begun:
    sys.exit(75)
(directory / "results.json").write_text("{}")
"""


def command(work: Work, job: Job) -> list[str]:
    return [sys.executable, "-c", JOB, job.settings[0], str(job.directory)]


def begun(tmp_path, monkeypatch: pytest.MonkeyPatch, *how: str) -> Sweep:
    """A sweep of jobs of which it is said how they end, and that will be made by such processes."""
    monkeypatch.setattr(Work, "command", command)
    jobs = tuple(Job(n, (one,), tmp_path / str(n)) for n, one in enumerate(how))
    sweep = Sweep(tmp_path, (), ("...",), "grid", jobs)
    record.begin(sweep)
    return sweep


def stop_once_begun(directory: Path, jobs: int) -> None:
    """Asks this process to stop as soon as so many jobs are at work."""

    def stop() -> None:
        while not all((directory / str(n) / "config.yaml").exists() for n in range(jobs)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
