"""Jobs as tasks of Ray: on this machine, or on a cluster that is there, which schedules, retries and spreads them."""

import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from metarun import exit_codes
from metarun.core import ConfigError
from metarun.run.stop import Interrupted, hearing
from metarun.sweep.launch import Work, not_alone, process_of
from metarun.sweep.record import Job
from metarun.text import first_line

LOOK = 0.2  # seconds between two looks at what has ended


def made(words: Sequence[str], lines: Path) -> int:
    """What a worker of Ray does for a job: the exit code of its process. Cancelled, it lets that save its state."""
    process = process_of(words, lines, {})
    try:
        while (code := process.poll()) is None:
            time.sleep(LOOK)
    except KeyboardInterrupt:  # how Ray cancels
        process.terminate()
        code = process.wait()
    return code


class Ray(Launcher):
    """metarun's launcher for Ray: each job wants so many CPUs and GPUs, and Ray finds it a place."""

    def __init__(
        self, address: str | None, jobs: int | None, cpus: float, gpus: float, memory_gb: float | None, retries: int
    ) -> None:
        self.address, self.jobs, self.retries = address, jobs, retries
        self.wants = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": retries}
        if memory_gb is not None:
            self.wants["memory"] = int(memory_gb * 1e9)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError("hydra/launcher", "ray", "needs Ray: pip install 'metarun[ray]'") from error
        if self.jobs is not None and (not isinstance(self.jobs, int) or self.jobs < 1):
            raise ConfigError("sweep.jobs", self.jobs, "must be an integer >= 1, or null: as many as Ray has room for")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise not_alone("ray")

    def work(self, work: Work) -> None:
        """Makes all jobs. Raises Interrupted once those at work have saved, if it is asked to stop; and ConfigError."""
        ray = self.joined()
        task = ray.remote(made).options(**self.wants)
        asked: list[int] = []
        queued: dict[Any, Job] = {}
        more = True
        with hearing(asked.append):
            while (more or queued) and not asked:
                while more and len(queued) < (self.jobs or self.room(ray)) and not asked:
                    if (job := work.next()) is None:
                        more = bool(work.elsewhere)
                        break
                    work.begins(job)
                    queued[task.remote(work.command(job), job.lines)] = job
                if not queued:  # others are at all that is left
                    time.sleep(LOOK)
                for ended in ray.wait(list(queued), timeout=LOOK)[0] if queued else ():
                    work.over(queued.pop(ended), code_of(ray, ended))
                for pending, job in queued.items():
                    if work.is_hopeless(job):
                        ray.cancel(pending)
            for pending in queued:
                ray.cancel(pending)
            while any(job.stand == "running" for job in queued.values()):
                time.sleep(LOOK)
        ray.shutdown()
        if asked:
            raise Interrupted

    def joined(self) -> Any:
        """Ray, connected to the cluster. Raises ConfigError."""
        import ray

        try:
            must_answer(self.address)
            ray.init(
                address=self.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if self.address is None else None,
            )
        except Exception as error:
            raise ConfigError(
                "hydra.launcher.address", self.address, f"no Ray cluster can be reached there ({first_line(error)})"
            ) from error
        there = ray.cluster_resources()
        for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
            if self.wants[key] > there.get(name, 0):
                wanted = f"a job wants {self.wants[key]:g} and the cluster has {there.get(name, 0):g}"
                raise ConfigError(f"hydra.launcher.{name.lower()}s", f"{self.wants[key]:g}", wanted)
        return ray

    def room(self, ray: Any) -> int:
        """How many jobs the cluster has room for, and one more each, so that none of its places waits for us."""
        cpus, gpus = self.wants["num_cpus"], self.wants["num_gpus"]
        there = ray.cluster_resources()
        places = [there.get(name, 0) / each for name, each in (("CPU", cpus), ("GPU", gpus)) if each]
        return max(1, int(min(places, default=1))) + 1


def must_answer(address: str | None) -> None:
    """Raises OSError if nobody is at an address with a port, which Ray would find out after minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def code_of(ray: Any, ended: Any) -> int:
    """The exit code of a job's process that is over."""
    try:
        return int(ray.get(ended))
    except ray.exceptions.RayError:  # it was cancelled, or its machine is gone for good
        return exit_codes.STOPPED
