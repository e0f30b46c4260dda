"""Every combination of the values that are given: Hydra's own sweep, with a record that it goes on from."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from metarun import exit_codes, stderr
from metarun.config import key_of
from metarun.config.resume import MAY_CHANGE
from metarun.core import ConfigError
from metarun.run.stop import Interrupted
from metarun.sweep import record, table
from metarun.sweep.composed import combinations, directories, must_be_there
from metarun.sweep.launch import Work, launch
from metarun.sweep.place import asked_for, settings_of_hydra, taken
from metarun.sweep.record import Job, Sweep


class Grid(Sweeper):
    """What is finished is skipped, what was stopped goes on, and what failed waits for `retry`."""

    def __init__(self, retry: bool, params: dict[str, Any] | None = None) -> None:
        """`params`: what a yaml sweeps over, as for Hydra's own sweeper."""
        self.retry, self.params = retry, dict(params or {})

    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Makes what is left to make. Ends the program if a job failed. Raises Mistake and ConfigError."""
        with taken(self.config, partial(self.planned, arguments)) as sweep:
            record.revise(sweep)
            make(self.launcher, Work(sweep, self.left(sweep)))
            sweep = record.read(sweep.directory)
        tell(sweep)

    def planned(self, arguments: list[str], directory: Path, there: Sweep | None) -> Sweep:
        """The sweep that is `there` in the directory, or a new one; what it has left to make is sound."""
        every = dict(enumerate(combinations(self.config, arguments, self.params)))
        common = set.intersection(*map(set, every.values())) if len(every) > 1 else set()
        if there is None:
            places = directories(self.config, every, common)
            jobs = tuple(Job(n, tuple(every[n]), place) for n, place in zip(every, places, strict=True))
            return replace(asked_for(self.config, directory, arguments, "grid"), jobs=jobs)
        before = alike(there, arguments, [tuple(each) for each in every.values()])
        left = list(self.left(before))
        must_be_there(left, directories(self.config, {job.number: list(job.settings) for job in left}, common))
        return replace(before, beside=record.beside_of(settings_of_hydra(self.config)))

    def left(self, sweep: Sweep) -> Iterator[Job]:
        """The jobs that want to be made."""
        wanted = ("waiting", "stopped", "running", *(("failed",) if self.retry else ()))
        return (job for job in sweep.jobs if job.stand in wanted)


def make(launcher: Launcher, work: Work) -> None:
    """Makes all jobs. Ends the program if it is asked to stop."""
    try:
        launch(launcher, work)
    except Interrupted:
        stderr.say(f"metarun: stopped and saved; go on with: {work.sweep.going_on}\n")
        sys.exit(exit_codes.STOPPED)


def tell(sweep: Sweep) -> None:
    """What a sweep has come to. Ends the program if a job failed, or has stopped."""
    table.tell(sweep)
    stands = [job.stand for job in sweep.jobs]
    if failed := stands.count("failed"):
        stderr.say(f"metarun: {failed} of {len(stands)} jobs of the sweep failed\n")
        sys.exit(exit_codes.FAILED)
    if left := stands.count("stopped") + stands.count("waiting"):
        stderr.say(f"metarun: {left} of {len(stands)} jobs of the sweep are left to go on with\n")
        sys.exit(exit_codes.STOPPED)


def alike(sweep: Sweep, arguments: Sequence[str], every: Sequence[tuple[str, ...]]) -> Sweep:
    """The sweep with what may change as this command has it. Raises ConfigError by key over what may not."""
    must_agree(sweep, {"hydra/sweeper": "grid", **by_key(arguments)})
    if len(every) != len(sweep.jobs):
        raise ConfigError(
            "run.dir", sweep.directory, f"holds a sweep of {len(sweep.jobs)} runs, not {len(every)}; {how(sweep)}"
        )
    return replace(sweep, jobs=tuple(job._replace(settings=own) for job, own in zip(sweep.jobs, every, strict=True)))


def must_agree(sweep: Sweep, now: Mapping[str, str], own: Mapping[str, str] | None = None) -> None:
    """Raises ConfigError by key unless a command is the sweep's, but for what may change.

    `own` is what the sweep has beside its settings.
    """
    before = {"hydra/sweeper": sweep.sweeper, **by_key(sweep.settings), **(own or {})}
    for key in [key for key in {**now, **before} if now.get(key) != before.get(key)]:
        if not f"{key}.".startswith(MAY_CHANGE):
            there = f"{key}={before[key]}" if key in before else f"no {key}="
            raise ConfigError(
                key, now.get(key, "(left out)"), f"the sweep in {sweep.directory} has {there}; {how(sweep)}"
            )


def how(sweep: Sweep) -> str:
    return f"go on with it by `{sweep.going_on}`, or name a new directory"


def by_key(settings: Sequence[str]) -> dict[str, str]:
    """`["+a.b=1,2"]` -> `{"a.b": "1,2"}`"""
    return {key_of(setting): setting.partition("=")[2] for setting in settings}
