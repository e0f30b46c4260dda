"""Jobs on a Slurm cluster, through submitit; or, to try it, on this machine as if it were one."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from metarun import exit_codes
from metarun.core import ConfigError
from metarun.run.stop import Interrupted, hearing
from metarun.sweep.launch import STOPPED, Work, not_alone, process_of
from metarun.sweep.record import Job

LOOK = 0.2  # seconds between two looks at a process on this machine


class Run:
    """What a cluster's machine does for a job: its process, again after each preemption, from where it was saved."""

    def __init__(self, words: Sequence[str], lines: Path) -> None:
        self.words, self.lines = tuple(words), lines

    def __call__(self) -> int:
        """The exit code. It is asked again where the process has saved its state and ended by itself.

        SIGTERM is Slurm's: where the job was cancelled it shall not come back, and has no result, so that the sweep
        hears of Slurm how it stands; where it was preempted, and has been given time for it, it asks to come back.
        """
        import submitit

        preempted = submitit.JobEnvironment._usr_sig()
        before = signal.signal(preempted, signal.SIG_IGN)  # Slurm signals every process: the job's hears of it by us
        self.process = process_of(self.words, self.lines, {})
        signal.signal(preempted, before)
        terminated: list[int] = []

        def terminate(number: int, _: Any) -> None:
            terminated.append(number)
            self.process.terminate()

        signal.signal(signal.SIGTERM, terminate)
        try:
            code = self.ends()  # in the middle of which submitit requeues a job whose time is up
            if code == exit_codes.STOPPED and terminated and state_of(submitit.JobEnvironment().job_id) != "RUNNING":
                os._exit(exit_codes.STOPPED)
            if code == exit_codes.STOPPED:
                signal.raise_signal(preempted)  # submitit asks for `checkpoint`, and requeues
        except subprocess.CalledProcessError:  # `scontrol requeue` got the signal that ends the job, once it was heard
            os._exit(exit_codes.STOPPED)
        return code

    def ends(self) -> int:
        """Not Popen.wait: `checkpoint` is called in the middle of it, and would wait for ever."""
        while (code := self.process.poll()) is None:
            time.sleep(LOOK)
        return exit_codes.STOPPED if code in STOPPED else code

    def checkpoint(self) -> Any:
        """Of a job that is preempted, or whose time is up: what shall be done another time."""
        from submitit.helpers import DelayedSubmission

        if self.process.poll() is None:
            self.process.terminate()
            self.ends()
        return DelayedSubmission(Run(self.words, self.lines))


# Slurm's words for a job that will not run any more; `` if it knows it no longer.
OVER = {
    "", "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
}  # fmt: skip


def state_of(job_id: str) -> str | None:
    """How a job stands by Slurm's own word; None if Slurm does not answer.

    Of a job that has been told to end RUNNING says that it is preempted, and has been given time for it; one that is
    cancelled is COMPLETING.
    """
    asked = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:  # no Slurm, but submitit's stand-in for it
        return None
    return None if told.returncode and "Invalid job id" not in told.stderr else told.stdout.strip()


class Slurm(Launcher):
    """metarun's launcher for Slurm: a job that is preempted is requeued, and goes on from where it was saved."""

    def __init__(
        self, cluster: Literal["slurm", "local"], jobs: int, poll_s: float, requeues: int, parameters: dict[str, Any]
    ) -> None:
        self.cluster, self.jobs, self.poll_s, self.requeues = cluster, jobs, poll_s, requeues
        self.parameters = {key: value for key, value in parameters.items() if value is not None}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("hydra/launcher", self.cluster, "needs submitit: pip install 'metarun[slurm]'") from error
        if self.cluster == "slurm" and not submitit.SlurmExecutor.affinity() > 0:
            raise ConfigError("hydra/launcher", "slurm", "there is no srun here; give the command where Slurm is")
        if not isinstance(self.jobs, int) or self.jobs < 1:
            raise ConfigError("sweep.jobs", self.jobs, "must be an integer >= 1, of jobs in the queue at once")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise not_alone(self.cluster)

    def work(self, work: Work) -> None:
        """Makes all jobs. Raises Interrupted once those in the queue are cancelled, if it is asked to stop."""
        executor = self.executor(work.sweep.directory / "submitit")
        asked: list[int] = []
        queued: list[tuple[Job, Any]] = []
        more = True
        with hearing(asked.append):
            while (more or queued) and not asked:
                fresh: list[Job] = []
                while more and len(queued) + len(fresh) < self.jobs:
                    if (job := work.next()) is None:
                        more = bool(work.elsewhere)
                        break
                    fresh.append(job)
                for job in fresh:
                    work.begins(job)
                if fresh:
                    with executor.batch():  # one array
                        queued += [(job, executor.submit(Run(work.command(job), job.lines))) for job in fresh]
                for job, submitted in list(queued):
                    if self.is_over(submitted):
                        queued.remove((job, submitted))
                        work.over(job, code_of(submitted))
                    elif work.is_hopeless(job):
                        submitted.cancel()
                wait(self.poll_s, asked)
            for _, submitted in queued:
                submitted.cancel()
            while any(job.stand == "running" for job, _ in queued):
                time.sleep(LOOK)
        if asked:
            raise Interrupted

    def is_over(self, submitted: Any) -> bool:
        """Whether a job has a result, or will have none: one that is being requeued seems cancelled for a moment."""
        if not (submitted.done() or submitted.state == "PREEMPTED"):  # of which submitit says that it is not done
            return False
        return submitted.paths.result_pickle.exists() or self.cluster == "local" or state_of(submitted.job_id) in OVER

    def executor(self, folder: Path) -> Any:
        """What submits, with its parameters. Raises ConfigError over one that submitit does not know."""
        import submitit

        executor = submitit.AutoExecutor(folder, self.cluster, slurm_max_num_timeout=self.requeues)
        try:
            executor.update_parameters(name="metarun", **self.parameters)
        except (TypeError, ValueError, NameError, AssertionError) as error:
            raise ConfigError("hydra.launcher.parameters", self.parameters, str(error)) from error
        return executor


def code_of(submitted: Any) -> int:
    """The exit code of a job's process that is over."""
    if not submitted.done():  # preempted, and not requeued: submitit would wait for its result for ever
        return exit_codes.STOPPED
    try:
        return int(submitted.result())
    except Exception:  # submitit's own: it was cancelled, or its machine is gone
        return exit_codes.STOPPED


def wait(seconds: float, asked: list[int]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not asked:
        time.sleep(min(LOOK, seconds))
