"""Jobs side by side on this machine, each a process of its own that sees its share of the cores or GPUs alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from metarun.core import ConfigError
from metarun.engine import free_host_bytes
from metarun.run.stop import Interrupted, hearing
from metarun.sweep.launch import Work, not_alone, process_of
from metarun.sweep.record import Job

LOOK = 0.1  # seconds between two looks at the processes
GB = 1e9


class Share(NamedTuple):
    """What of the machine a job sees."""

    cores: tuple[int, ...]  # none: all, where the system does not divide them
    gpus: tuple[str, ...]  # none: as they are
    of_each: float  # GPU's memory, where jobs share one

    def environment(self) -> dict[str, str]:
        if not self.gpus:
            return {}
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        return visible if self.of_each == 1 else visible | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{self.of_each:.3f}"}


class Processes(Launcher):
    """metarun's launcher for one machine: a job that fails, crashes or runs out of memory takes no other down."""

    def __init__(self, jobs: int | str, memory_gb: float) -> None:
        self.jobs, self.memory_gb = jobs, memory_gb

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        cores, gpus = cores_here(), [] if config.hardware.platform == "cpu" else gpus_here()
        jobs = number_of_jobs(
            self.jobs, self.memory_gb, len(cores) or os.cpu_count() or 1, len(gpus), free_host_bytes()
        )
        self.shares = shares(jobs, cores, gpus)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise not_alone("processes")

    def work(self, work: Work) -> None:
        """Makes all jobs. Raises Interrupted once what was begun is saved, if it is asked to stop."""
        asked: list[int] = []
        live: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}  # by the number of their share

        def tell(number: int) -> None:
            asked.append(number)
            for _, process in list(live.values()):
                process.send_signal(number)

        with hearing(tell):
            more = True
            while True:
                for place, share in enumerate(self.shares):
                    if place in live or not more or asked:
                        continue
                    if (job := work.next()) is not None:
                        live[place] = (job, begin(work, job, share))
                        if asked:  # between the two
                            live[place][1].send_signal(asked[-1])
                    elif not work.elsewhere:
                        more = False
                for place, (job, process) in list(live.items()):
                    if (code := process.poll()) is not None:
                        del live[place]
                        work.over(job, code)
                if not live and (asked or not more):
                    break
                for job, process in list(live.values()):
                    if work.is_hopeless(job):
                        process.send_signal(signal.SIGTERM)
                time.sleep(LOOK)
        if asked:
            raise Interrupted


def begin(work: Work, job: Job, share: Share) -> "subprocess.Popen[bytes]":
    """A job's process, with its share."""
    work.begins(job)
    with on_cores(share.cores):
        return process_of(work.command(job), job.lines, share.environment())


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile has these cores, from its first instruction on; without any all of them."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def shares(jobs: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Share]:
    """What each of `jobs` sees: as many cores, one more for the first where they do not come out even; GPUs likewise.

    Where there are fewer of them than jobs, jobs share one.
    """

    def part(of: Sequence[Any], place: int) -> tuple[Any, ...]:
        if len(of) < jobs:
            return (of[place % len(of)],) if of else ()
        return tuple(of[place * len(of) // jobs : (place + 1) * len(of) // jobs])

    found = []
    for place in range(jobs):
        own = part(gpus, place)
        others = sum(part(gpus, other) == own for other in range(jobs))
        found.append(Share(part(cores, place), own, 0.9 / others if own and others > 1 else 1.0))
    return found


def number_of_jobs(asked: int | str, memory_gb: float, cores: int, gpus: int, memory: int | None) -> int:
    """How many jobs there shall be at once. Raises ConfigError. `memory` is free, in bytes, if that is known."""
    if not isinstance(memory_gb, int | float) or isinstance(memory_gb, bool) or not memory_gb > 0:
        raise ConfigError("hydra.launcher.memory_gb", memory_gb, "must be a number > 0, of each job")
    fit = sys.maxsize if memory is None else max(1, int(memory / (memory_gb * GB)))
    if asked == "auto":
        return min(gpus or cores, fit)
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise ConfigError("sweep.jobs", asked, "must be an integer >= 1, or auto")
    if memory is not None and asked > fit:
        wanted = f"{asked} jobs of hydra.launcher.memory_gb={memory_gb:g} want {asked * memory_gb:.3g} GB of memory"
        raise ConfigError("sweep.jobs", asked, f"{wanted} and {memory / GB:.3g} are free; at most {fit}")
    return asked


def cores_here() -> list[int]:
    """The cores that this process may use; none where the system does not let a process choose."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def gpus_here() -> list[str]:
    """NVIDIA's GPUs that this process sees, without loading what would take their memory."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(takewhile(is_gpu, (one.strip() for one in visible.split(","))))
    return [str(n) for n in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def is_gpu(one: str) -> bool:
    """Whether CUDA takes this for a device: its list ends at the first that is none, such as -1 or NoDevFiles."""
    return one.isdecimal() or one.startswith(("GPU-", "MIG-"))
