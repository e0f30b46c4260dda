"""What a launcher has to do: jobs one after another or side by side, each told of when it has ended."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from hydra.plugins.launcher import Launcher

from metarun.config import in_hydras_quotes
from metarun.sweep import record
from metarun.sweep.record import Job, Sweep

SECONDS = 1.0  # between two looks at what other processes are at


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

    def next(self, wait: bool = True) -> Job | None:
        """A job to begin, None if there is none left; without `wait` also while others are at all that is left."""
        for job in self.jobs:
            if job.stand != "running":
                return self.at(job)
            self.elsewhere.append(job)
        while self.elsewhere:
            for job in [job for job in self.elsewhere if job.stand != "running"]:
                self.elsewhere.remove(job)
                if job.stand != "finished":
                    return self.at(job)
            if not wait:
                return None
            if self.elsewhere:
                time.sleep(SECONDS)
        return None

    def at(self, job: Job) -> Job:
        self.begun[job.number] = time.monotonic()
        return job

    def command(self, job: Job) -> list[str]:
        """What makes a job in a process of its own."""
        own = [f"run.dir={in_hydras_quotes(str(job.directory))}", f"hydra.job.num={job.number}"]
        return [sys.executable, "-P", "-m", "metarun", *self.sweep.options, *job.settings, *own]

    def once(self, is_hopeless: Callable[[Job], bool]) -> Callable[[Job], bool]:
        """Says of a job once that it is hopeless, and remembers it."""

        def asked(job: Job) -> bool:
            if job.number in self.pruned or not is_hopeless(job):
                return False
            self.pruned.add(job.number)
            return True

        return asked

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


def launch(launcher: Launcher, work: Work) -> None:
    """Makes all jobs: with a launcher of Hydra's, which makes them in this process, one after another."""
    if isinstance(launcher, SideBySide):
        launcher.work(work)
        return
    while (job := work.next()) is not None:
        (returned,) = launcher.launch([list(job.settings)], initial_job_idx=job.number)
        work.ended(job, returned.return_value)
