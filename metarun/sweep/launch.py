"""What a launcher has to do: jobs one after another or side by side, each told of when it has ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher

from metarun import exit_codes
from metarun.config import in_hydras_quotes
from metarun.run.figures import show
from metarun.run.stop import PARENT
from metarun.run.terminal import say
from metarun.sweep import record, table
from metarun.sweep.record import Job, Sweep
from metarun.text import one_line

SECONDS = 1.0  # between two looks at what other processes are at
# How a job's process ends that was asked to stop: by a signal itself, where that came before it could hear any.
STOPPED = (exit_codes.STOPPED, -signal.SIGTERM, -signal.SIGINT)


class Work:
    """The jobs of a sweep that want to be made, as launchers ask for them."""

    def __init__(
        self,
        sweep: Sweep,
        jobs: Iterator[Job],
        is_hopeless: Callable[[Job], bool] = lambda job: False,
        told: Callable[[Job, str | None], None] = lambda job, failed: None,
    ) -> None:
        """`is_hopeless` is asked of jobs at work; `told` hears of each that has ended, and why if it failed."""
        self.sweep, self.jobs, self.is_hopeless, self.told = sweep, jobs, self.once(is_hopeless), told
        self.elsewhere: list[Job] = []  # at which another process is, such as one that outlived its sweep
        self.begun: dict[int, float] = {}
        self.pruned: set[int] = set()

    def next(self) -> Job | None:
        """A job to begin; None if there is none now. Where others are at some `elsewhere`, there may be one later."""
        for job in self.jobs:
            if job.stand != "running":
                return self.at(job)
            self.elsewhere.append(job)
        for job in [job for job in self.elsewhere if job.stand != "running"]:
            self.elsewhere.remove(job)
            if job.stand != "finished":
                return self.at(job)
        return None

    def at(self, job: Job) -> Job:
        self.begun[job.number] = time.monotonic()
        if "failed" in job.end:  # how it ended then holds no longer, whatever becomes of it now
            record.ended(self.sweep.directory, job)
        return job

    def command(self, job: Job) -> list[str]:
        """What makes a job in a process of its own."""
        own = [f"run.dir={in_hydras_quotes(str(job.directory))}", f"hydra.job.num={job.number}"]
        return [sys.executable, "-P", "-m", "metarun", *self.sweep.of_each, *job.settings, *own]

    def once(self, is_hopeless: Callable[[Job], bool]) -> Callable[[Job], bool]:
        """Says of a job once that it is hopeless, and remembers it."""

        def asked(job: Job) -> bool:
            if job.number in self.pruned or not is_hopeless(job):
                return False
            self.pruned.add(job.number)
            return True

        return asked

    def begins(self, job: Job) -> None:
        """Says so."""
        say(f"job {job.number} of {self.sweep.wanted} begins: {self.sweep.own(job)}")

    def over(self, job: Job, code: int) -> None:
        """The process of a job has ended: well, with its state saved to go on with, or because it failed."""
        if code == 0:
            self.ended(job)
            say(f"job {job.number} is done{said(job)}")
        elif code in STOPPED:
            self.stopped(job)
            say(f"job {job.number} has {'been pruned' if job.number in self.pruned else 'stopped'}")
        else:
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else last_said(job) or f"exit code {code}"
            self.ended(job, why)
            say(f"job {job.number} failed: {why}; its lines: {job.log}")

    def ended(self, job: Job, failed: str | None = None) -> None:
        """Writes down how a job ended: well, or `failed` and why."""
        self.write(job, **({} if failed is None else {"failed": failed}))
        self.told(job, failed)

    def stopped(self, job: Job) -> None:
        """A job has saved its state: because it was hopeless, or else to go on another time."""
        if job.number in self.pruned:
            self.write(job, pruned=True)
            self.told(job, None)

    def write(self, job: Job, **how: Any) -> None:
        record.ended(self.sweep.directory, job, seconds=round(time.monotonic() - self.begun[job.number], 3), **how)


@runtime_checkable
class SideBySide(Protocol):
    """A launcher of metarun's own, which asks for jobs as it has room for them."""

    def work(self, work: Work) -> None:
        """Makes all jobs. Raises Interrupted once what was begun is saved, if it is asked to stop."""
        ...


def not_alone(name: str) -> HydraException:
    """What a launcher says that is asked by a sweeper which does not know it."""
    return HydraException(f"hydra/launcher={name}: goes with metarun's own sweepers, hydra/sweeper=grid or optuna")


def launch(launcher: Launcher, work: Work) -> None:
    """Makes all jobs: with a launcher of Hydra's, which makes them in this process, one after another."""
    if isinstance(launcher, SideBySide):
        launcher.work(work)
        return
    while (job := work.next()) is not None or work.elsewhere:
        if job is None:
            time.sleep(SECONDS)
            continue
        (returned,) = launcher.launch([list(job.settings)], initial_job_idx=job.number)
        work.ended(job, returned.return_value)


def process_of(words: Sequence[str], lines: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """A job's process, whose lines go to a file. It saves its state and ends if this one is gone."""
    lines.parent.mkdir(parents=True, exist_ok=True)
    with lines.open("ab") as file:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | dict(environment) | {PARENT: str(os.getpid())},
            start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on
        )


def said(job: Job) -> str:
    """`: accuracy 91.20 ± 0.72 %`, if it has come to a figure."""
    figure = table.figure(job)
    return f": {figure.metric} {show(figure.metric, figure._asdict())}" if figure else ""


def last_said(job: Job) -> str:
    """The last line that a job's process said, without the name of the program; empty if there is none to be read."""
    lines = [""]
    with suppress(OSError):  # of a job on another machine the file may not have come here yet
        lines += [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1].removeprefix("metarun: "))
