"""How a sweep stands, for who reads it: settings, best on validation first, seeds gathered; what failed and why."""

import json
import shlex
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarun import text
from metarun.config import key_of, of_place
from metarun.run.figures import figure_of, main_metric, minutes, show
from metarun.sweep.made import as_made
from metarun.sweep.objective import Objective, best_validation, direction_of, steps_made
from metarun.sweep.record import Job, Stand, Sweep
from metarun.text import one_line, printable

SEED = "train.seed"
IN_ORDER: tuple[Stand, ...] = ("finished", "running", "stopped", "waiting", "pruned", "failed")
MOST_LETTERS = 40  # of a setting that stays in one line, however narrow the terminal
MOST = 20  # rows of a table, and jobs that are told one by one; --json has all


class Figure(NamedTuple):
    """What a finished job's test came to."""

    metric: str
    mean: float | None  # None: it is not a number
    ci95: float | None  # half of the 95 % interval over test tasks
    minutes: float | None = None  # that its run has taken, in all processes that were at it
    members: int = 1  # runs that were made together in those minutes


class Setting(NamedTuple):
    """Jobs that differ in their seeds alone, and what those that are finished came to."""

    own: str  # what sets it apart from other settings
    jobs: tuple[Job, ...]  # finished
    seeds: int  # different ones
    metric: str
    mean: float | None  # over seeds; None where a seed's is not a number
    ci95: float | None  # over test tasks, the mean of the seeds' own
    std: float | None  # over seeds; None with one
    validation: float | None  # the best that each seed had, their mean
    minutes: float | None  # of a job, their mean
    members: int  # jobs that were made together in those minutes, at most


def figure(job: Job) -> Figure | None:
    """What a job's test came to; None if it is not finished, or its results cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads((job.directory / "results.json").read_text())
        metric = main_metric(found)
        if (tested := figure_of(found, metric)) is not None:
            speed = found.get("speed") or {}
            return Figure(metric, tested["mean"], tested.get("ci95"), speed.get("minutes"), speed.get("members", 1))
    return None


def gathered(sweep: Sweep) -> list[Setting]:
    """The settings of which a job is finished, the best on validation first: a test's figures choose nothing.

    Those of which a test is not a number are last.
    """
    found: dict[str, list[tuple[Job, Figure]]] = {}
    common = sweep.common
    for job in sweep.jobs:
        if (reached := figure(job)) is not None:
            own = [one.lstrip("+") for one in job.settings if one not in common and key_of(one) != SEED]
            found.setdefault(" ".join(own), []).append((job, reached))
    settings = [setting(own, members, objective_of(sweep, members[0][1].metric)) for own, members in found.items()]

    def order(one: Setting) -> tuple[str, bool, float]:
        return one.metric, one.mean is None, objective_of(sweep, one.metric).order(one.validation)

    return sorted(settings, key=order)


def objective_of(sweep: Sweep, metric: str) -> Objective:
    """What a sweep's settings are compared by: what was searched for, else validation's figures of a test's metric."""
    if sweep.search:
        return Objective(sweep.search["objective"], sweep.search["direction"])
    return Objective(metric, direction_of(metric))


def setting(own: str, members: list[tuple[Job, Figure]], objective: Objective) -> Setting:
    by_seed: dict[str, list[float | None]] = {}
    for job, reached in members:
        by_seed.setdefault(seed_of(job), []).append(reached.mean)
    means = [mean_of(every) for every in by_seed.values()]
    mean, jobs = mean_of(means), tuple(job for job, _ in members)
    return Setting(
        own,
        jobs,
        len(means),
        members[0][1].metric,
        mean,
        None if mean is None else mean_of([reached.ci95 for _, reached in members]),
        None if mean is None or len(means) == 1 else float(np.std(np.array(means, float), ddof=1)),
        mean_of([best_validation(job, objective) for job in jobs]),
        mean_of([reached.minutes for _, reached in members]),
        max(reached.members for _, reached in members),
    )


def mean_of(values: list[float | None]) -> float | None:
    """None if one of them is: a mean of the others would be of other seeds."""
    return None if None in values else float(np.mean(np.array(values, float)))


def seed_of(job: Job) -> str:
    return next((one.partition("=")[2] for one in reversed(job.settings) if key_of(one) == SEED), "")


def tell(sweep: Sweep, console: Console | None = None) -> None:
    """The table, then what is not finished, and the command that trains the best again."""
    console = console or text.console()
    sweep = as_made(sweep)

    def tell_line(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    stands = {job.number: job.stand for job in sweep.jobs}
    counted = Counter(stands.values())
    many = ", ".join(f"{counted[stand]:,} {stand}" for stand in IN_ORDER if counted[stand])
    of_all = "" if sweep.wanted == len(sweep.jobs) else f" of {sweep.wanted:,}"
    tell_line(f"sweep in {sweep.directory}: {len(sweep.jobs):,}{of_all} jobs, {many or 'none begun'}")
    settings = gathered(sweep)
    metrics = list(dict.fromkeys(one.metric for one in settings))
    for metric in metrics:  # what is told by one is not to be held against what is told by another
        alike = [one for one in settings if one.metric == metric]
        console.print(of(alike, objective_of(sweep, metric).metric))
        if len(alike) > MOST:
            command = shlex.join(["metarun", "sweep", str(sweep.directory), "--json", "FILE"])
            tell_line(f"and {len(alike) - MOST:,} more; {command} has all")
        if alike[0].validation is not None and alike[0].mean is not None:
            which = f" of those with {metric}" if len(metrics) > 1 else ""
            tell_line(f"the best on validation{which} again: {again(sweep, alike[0].jobs[0])}")
    shown = {job.number for one in settings for job in one.jobs}
    unread = [job for job in sweep.jobs if stands[job.number] == "finished" and job.number not in shown]
    for job in unread[:MOST]:
        how = f"move it away, and {sweep.going_on} tests the run again"
        tell_line(f"not in the table, as it cannot be read: {job.directory / 'results.json'}; {how}")
    if len(unread) > MOST:
        tell_line(f"and {len(unread) - MOST:,} more that cannot be read")
    not_done: tuple[Stand, ...] = ("running", "stopped", "failed")
    for stand in not_done:
        jobs = [job for job in sweep.jobs if stands[job.number] == stand]
        for job in jobs[:MOST]:
            why = f": {one_line(job.end['failed'])}" if stand == "failed" else ""
            tell_line(f"{stand}: {job.directory} ({sweep.own(job)}){why}; its lines: {job.log}")
        if len(jobs) > MOST:
            tell_line(f"and {len(jobs) - MOST:,} more that are {stand}")
    if counted["pruned"]:
        tell_line(saved([job for job in sweep.jobs if stands[job.number] == "pruned"]))
    if counted["stopped"] or counted["waiting"] or of_all:
        tell_line(f"it goes on with: {sweep.going_on}")
    if counted["failed"]:
        again_too = shlex.join(["metarun", "-m", of_place(sweep.directory), "sweep.retry=true"])
        tell_line(f"what failed once more: {again_too}")


def saved(pruned: list[Job]) -> str:
    """What it saved to end hopeless jobs early, in words."""
    steps = [steps_made(job.directory) for job in pruned]
    made, all_of_them = (sum(numbers) for numbers in zip(*steps, strict=True))
    were = "1 job was pruned" if len(pruned) == 1 else f"{len(pruned):,} jobs were pruned"
    return f"{were} after {made:,} of {all_of_them:,} meta-steps, which saved {all_of_them - made:,} and their tests"


def of(settings: list[Setting], objective: str) -> Table:
    """A table with a row for each setting."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    longest = max(len(word) for one in settings[:MOST] for word in ["as it is", *one.own.split()])
    table.add_column("setting", overflow="fold", min_width=min(longest, MOST_LETTERS))
    seeds = any(one.seeds > 1 for one in settings)
    columns = ["validation", f"{settings[0].metric} ± 95 %"]
    for column in (*columns, *(["std of seeds", "seeds"] if seeds else []), "minutes", "jobs"):
        table.add_column(Text(printable(column)), justify="right", overflow="fold")
    for one in settings[:MOST]:
        std = "" if one.std is None else show(one.metric, {"mean": one.std})
        table.add_row(
            Text(printable(one.own or "as it is")),
            "" if one.validation is None else show(objective, {"mean": one.validation}),
            show(one.metric, {"mean": one.mean, "ci95": one.ci95}),
            *([std, str(one.seeds)] if seeds else []),
            "" if one.minutes is None else minutes(one.minutes, one.members),
            ", ".join(str(job.number) for job in one.jobs[:5]) + (", ..." if len(one.jobs) > 5 else ""),
        )
    return table


def again(sweep: Sweep, job: Job) -> str:
    """The command that makes a job's run anew."""
    return shlex.join(["metarun", *sweep.of_each, *job.settings])


def as_json(sweep: Sweep) -> dict[str, Any]:
    """All of it, for other programs: `{"jobs": [...], "settings": [...]}`, best settings first."""
    sweep = as_made(sweep)
    jobs = []
    for job in sweep.jobs:
        reached = figure(job)
        jobs.append(
            {
                "job": job.number,
                "directory": str(job.directory),
                "settings": list(job.settings),
                "stands": job.stand,
                "command": again(sweep, job),
                **({reached.metric: {"mean": reached.mean, "ci95": reached.ci95}} if reached else {}),
                **({"minutes": reached.minutes, "members": reached.members} if reached else {}),
                **job.end,
            }
        )
    settings = [
        {
            "setting": one.own,
            "jobs": [job.number for job in one.jobs],
            one.metric: {"mean": one.mean, "ci95": one.ci95, "std_over_seeds": one.std},
            "validation": one.validation,
        }
        for one in gathered(sweep)
    ]
    search = {"search": sweep.search} if sweep.search else {}
    return {"directory": str(sweep.directory), **search, "settings": settings, "jobs": jobs}
