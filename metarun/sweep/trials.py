"""A search at work: its trials as jobs for a launcher to ask for and to tell of, and what the study hears of them.

Imports Optuna, so it is imported only once that is known to be there.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from optuna.study import Study
from optuna.trial import Trial, TrialState

from metarun.config.run import Run
from metarun.core import ConfigError
from metarun.run.figures import show
from metarun.run.terminal import say
from metarun.sweep import record, study
from metarun.sweep.composed import Mistake, must_be_there, runs
from metarun.sweep.launch import Work
from metarun.sweep.objective import Objective, must_be_validated, validations
from metarun.sweep.record import Job, Sweep
from metarun.sweep.space import Space


class Trials:
    """The trials of a search that is at work, for a launcher to ask for and to tell of."""

    def __init__(self, config: DictConfig, space: Space, sweep: Sweep, retry: bool) -> None:
        """The sweep's directory is this process's. Raises ConfigError and Mistake."""
        self.config, self.space, self.search = config, space, sweep.search
        self.objective = Objective(self.search["objective"], self.search["direction"])
        self.study: Study = study.opened(sweep.directory, self.objective.direction)
        study.must_know(self.study, [job.number for job in sweep.jobs], sweep.directory)
        self.settle(sweep)
        if again := [job.number for job in sweep.jobs if retry and job.stand == "failed"]:
            self.study = study.reopened(sweep.directory, self.objective.direction, again)
        begun = study.unfinished(self.study)
        known = {job.number: job for job in sweep.jobs if job.number not in again}
        left = {one.number: list(space.settings(space.suggested(one))) for one in begun if one.number in known}
        places = [directory for directory, _ in runs(config, left, {*space.fixed.values()})]
        must_be_there([known[number] for number in left], places)
        self.work = Work(sweep, self.jobs(begun), self.is_hopeless, self.told)
        self.trials: dict[int, Trial] = {}
        self.steps: dict[int, int] = {}  # that each is to make
        self.seen: dict[int, tuple[int, int] | None] = {}  # of each one's rows

    def jobs(self, begun: list[Trial]) -> Iterator[Job]:
        """Those that were begun, then as many new ones as are wanted."""
        for trial in begun:
            yield from self.job(trial)
        while study.begun(self.study) < self.search["trials"]:
            yield from self.job(study.ask(self.study, self.search["sampler"], self.search["seed"], self.space))

    def job(self, trial: Trial) -> Iterator[Job]:
        """A trial's job, of which the record knows from now on; none, if its settings are a mistake: it has failed."""
        sweep, number = self.work.sweep, trial.number
        settings = self.space.settings(self.space.suggested(trial))
        self.trials[number] = trial
        try:
            directory, run = self.sound(number, settings)
            job = Job(number, settings, directory)
        except Mistake as error:
            job = Job(number, settings, sweep.directory / str(number))
            self.added(job)
            record.ended(sweep.directory, job, failed=str(error))
            self.told(job, str(error))
            say(f"job {number} failed: {error}")
            return
        self.added(job)
        self.steps[number] = run.train.steps
        yield job

    def sound(self, number: int, settings: tuple[str, ...]) -> tuple[Path, Run]:
        """A trial's directory and run. Raises Mistake, after which there are others all the same."""
        hydra = GlobalHydra.instance().hydra
        try:
            ((directory, run),) = runs(self.config, {number: list(settings)}, {*self.space.fixed.values()})
            must_be_validated(run.tasks, self.objective.metric)
        except (Mistake, ConfigError) as error:
            GlobalHydra.instance().hydra = hydra
            raise Mistake(str(error)) from error
        return directory, run

    def added(self, job: Job) -> None:
        """The sweep has the job, of which its record may not know yet."""
        sweep = self.work.sweep
        others = [one for one in sweep.jobs if one.number != job.number]
        if len(others) == len(sweep.jobs):
            record.add(sweep.directory, job)
        self.work.sweep = replace(sweep, jobs=tuple(sorted([*others, job], key=lambda one: one.number)))

    def is_hopeless(self, job: Job) -> bool:
        """Tells the study of validations that are new, and asks its pruner."""
        now = state_of(job)
        # Asked for the first time as its process begins, which could not hear yet that it is to stop.
        before = self.seen.setdefault(job.number, now)
        if now == before:
            return False
        self.seen[job.number] = now
        trial, steps = self.trials[job.number], self.steps[job.number]
        found = validations(job.directory, self.objective.metric)
        if (
            not study.report(trial, found)
            or max(found) >= steps
            or not study.should_prune(trial, self.search["pruner"], steps)
        ):
            return False
        best = show(self.objective.metric, {"mean": self.objective.best(found)})
        say(f"job {job.number} is hopeless after {max(found):,} of {steps:,} meta-steps: {best}")
        return True

    def told(self, job: Job, failed: str | None) -> None:
        """A job has ended: finished, failed, or else hopeless."""
        trial = self.trials[job.number]
        found = validations(job.directory, self.objective.metric)
        study.report(trial, found)
        best = self.objective.best(found)
        if failed is not None or (job.stand == "finished" and best is None):
            self.study.tell(trial, state=TrialState.FAIL)
        elif job.stand == "finished":
            self.study.tell(trial, best)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def settle(self, sweep: Sweep) -> None:
        """Tells the study of jobs whose end it has not heard of: a kill came between, or another process made them."""
        known = {job.number: job for job in sweep.jobs}
        self.trials = {trial.number: trial for trial in study.unfinished(self.study)}
        for number in self.trials:
            if (job := known.get(number)) is not None and job.stand in ("finished", "pruned", "failed"):
                self.told(job, job.end.get("failed") if job.stand == "failed" else None)


def state_of(job: Job) -> tuple[int, int] | None:
    """What changes with each row that a job writes, or takes back."""
    try:
        status = (job.directory / "metrics.jsonl").stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
