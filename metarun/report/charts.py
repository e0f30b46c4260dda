"""Which charts a report has, and what stands in them: one for each metric, and for each setup it was measured on."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from metarun.report import plots
from metarun.report.experiments import Groups
from metarun.report.plots import Line
from metarun.report.runs import SavedRun
from metarun.report.setups import Stage, by_setup, titles
from metarun.run.figures import figure_of, unit

MOST_BARS = 40  # runs in a chart of bars
MOST_SETUPS = 12  # charts of one kind

Points = dict[float, dict[str, float]]  # x -> a figure
TRAINED: tuple[tuple[Stage, str], ...] = (("val", "Validation"), ("train", "Training"))
LEARNING, ADAPTATION, INSTANCES, COSTS = "Learning curves", "Adaptation", "Accuracy by instance", "Speed and memory"
WORST, TRIALS = "The worst against the mean", "Within a trial"


class Chart(NamedTuple):
    """A plot of the page, and what its lines are."""

    part: str
    title: str
    svg: str
    legend: list[plots.Key]
    left_out: str = ""  # after it, in words


class Bars(NamedTuple):
    """A number for each run, as bars on an axis that begins at zero."""

    part: str
    title: str
    unit: str
    bars: list[tuple[str, float, float]]  # a run's name, its number, and the bar's length in per cent
    left_out: str = ""  # in words


def charts(groups: Groups) -> list[Chart]:
    """The plots over the experiments; those for which there is nothing are left out."""
    metrics = sorted({run.metric for members in groups.values() for run in members if run.metric})
    found: list[Chart] = []
    for metric in metrics:
        own = {name: [run for run in members if run.metric == metric] for name, members in groups.items()}
        found += learning(own, metric)
        found += adaptation(own, metric)
        found += worst(own, metric)
    found += within_trials(groups)
    instances = partial(mean_figures, points=by_instance, scale=100)
    title = "Accuracy at the n-th time that a class is seen"
    found += of_each_setup(groups, "test", instances, partial(plots.points, x="instance"), INSTANCES, title, "accuracy")
    return found


def learning(own: Groups, metric: str) -> list[Chart]:
    """The metric over meta-steps, on validation's tasks and on training's, and the loss, where that is another."""
    found: list[Chart] = []
    for name in (metric, *(["loss"] if metric != "loss" and not same_as_loss(own, metric) else [])):
        for stage, title in TRAINED:
            points = partial(over_steps, split=stage, metric=name)
            lines = partial(curves, points=points, scale=unit(name)[0])
            found += of_each_setup(own, stage, lines, plots.curves, LEARNING, f"{title} {name}", name)
    return found


def adaptation(own: Groups, metric: str) -> list[Chart]:
    """The test's figures by inner steps and by shots, and by inner steps with each number of shots."""
    shots = sorted({shots for runs in own.values() for run in runs for shots in shots_of(run)}, key=int)
    over: list[tuple[str, str, Callable[[SavedRun], Points], tuple[str, ...]]] = [
        ("by inner steps", "inner steps", by_inner_steps, ()),
        ("by shots", "shots", by_shots, ("shots",)),
    ]
    over += [(f"by inner steps, {k} shots", "inner steps", partial(by_inner_steps, shots=k), ("shots",)) for k in shots]
    found: list[Chart] = []
    for title, x, points, without in over:
        lines = partial(mean_figures, points=points, scale=unit(metric)[0])
        draw = partial(plots.points, x=x)
        found += of_each_setup(own, "test", lines, draw, ADAPTATION, f"Test {metric} {title}", metric, without)
    return found


def worst(own: Groups, metric: str) -> list[Chart]:
    """What a better mean costs the worst tasks: the worst group of them, or the worst share, of several experiments."""
    found: list[Chart] = []
    for name, of in ((f"{metric}_groups_worst", "the worst group of tasks"), (f"{metric}_cvar", "the worst tasks")):
        lines = partial(means_and, other=name, metric=metric)
        draw = partial(plots.against, x=f"mean {metric}")
        title, y = f"Test {metric} of {of} against the mean", f"{metric} of the worst"
        found = found or of_each_setup(own, "test", lines, draw, WORST, title, y)
    return found


def within_trials(groups: Groups) -> list[Chart]:
    """What each step of a trial paid, and what was missed until then, beside a random policy and who knows the task."""
    found: list[Chart] = []
    for title, y, values in (("Reward by step of a trial", "reward", rewards), ("Regret by step", "regret", regrets)):
        draw = partial(plots.over, x="step of a trial")
        found += of_each_setup(groups, "test", partial(trial_lines, values=values), draw, TRIALS, title, y)
    return found


def trial_lines(groups: Groups, values: Callable[[dict[str, Any], str], np.ndarray | None]) -> list[Line]:
    """`values`(by_step, whose) over steps: of each experiment the mean over its seeds, of others that of all runs."""
    told = {name: [one for run in runs if (one := run.tested("by_step"))] for name, runs in groups.items()}
    every = [run for some in told.values() for run in some]
    drawn = [(i, name, some, "reward") for i, (name, some) in enumerate(told.items())]
    drawn += [(plots.RANDOM, "at random", every, "random"), (plots.BEST, "who knows the task", every, "best")]
    own = {(place, name): [values(run, whose) for run in some] for place, name, some, whose in drawn}
    known = {which: [one for one in some if one is not None] for which, some in own.items()}
    return [line_over_steps(*which, some) for which, some in known.items() if some]


def line_over_steps(place: int, name: str, every: list[np.ndarray]) -> Line:
    mean = np.mean(every, axis=0)
    spread = (np.min(every, axis=0).tolist(), np.max(every, axis=0).tolist()) if len(every) > 1 else None
    return Line(place, name, [float(t) for t in range(1, len(mean) + 1)], mean.tolist(), spread)


def rewards(told: dict[str, Any], whose: str) -> np.ndarray | None:
    """By step (trial,)."""
    if told[whose] is None:
        return None
    return np.array([one["mean"] if whose == "reward" else one for one in told[whose]], float)


def regrets(told: dict[str, Any], whose: str) -> np.ndarray | None:
    """What was missed up to each step (trial,); none of who knows the task."""
    best, own = rewards(told, "best"), rewards(told, whose)
    return None if best is None or own is None or whose == "best" else np.cumsum(best - own)


def of_each_setup(
    groups: Groups, stage: Stage, lines: Callable[[Groups], list[Line]], draw: Callable[..., str],
    part: str, title: str, metric: str, without: tuple[str, ...] = (),
) -> list[Chart]:  # fmt: skip
    """A chart for each setup for which there are lines; with a line for chance, of what is the accuracy itself."""
    scale, percent = unit(metric)
    named = {where: own for where, runs in by_setup(groups, stage, without).items() if (own := lines(runs))}
    said = titles(named)
    found = []
    for where, own in list(named.items())[:MOST_SETUPS]:
        chance = where.chance if metric == "accuracy" else None
        level = None if chance is None else scale * chance
        drawn = draw(own, y=f"{metric.replace('_', ' ')}{',' if percent else ''}{percent}", chance=level)
        found.append(Chart(part, f"{title.replace('_', ' ')}: {said[where]}", drawn, plots.legend(own, level)))
    return ended(found, len(named), "setup")


def ended(found: list[Chart], of: int, what: str) -> list[Chart]:
    """The first charts of so many; the last of them says how many are left out."""
    if (more := of - len(found)) == 0:
        return found
    return [*found[:-1], found[-1]._replace(left_out=f"{more} more {what}{' is' if more == 1 else 's are'} left out")]


def curves(groups: Groups, points: Callable[[SavedRun], dict[int, float]], scale: float) -> list[Line]:
    """Something over meta-steps: the mean over an experiment's seeds, from the lowest to the highest of them.

    It goes as far as all seeds that are finished, or, if none is, as all of them.
    """
    found = []
    for i, (name, runs) in enumerate(groups.items()):
        every = [some for run in [run for run in runs if run.results] or runs if (some := points(run))]
        if steps := sorted(set.intersection(*(set(one) for one in every))) if every else []:
            values = scale * np.array([[one[step] for one in every] for step in steps])  # (steps, seeds)
            spread = (values.min(1).tolist(), values.max(1).tolist()) if len(every) > 1 else None
            found.append(Line(i, name, [float(step) for step in steps], values.mean(1).tolist(), spread))
    return found


def mean_figures(groups: Groups, points: Callable[[SavedRun], Points], scale: float) -> list[Line]:
    """Test figures over something: the mean over an experiment's seeds, give or take the mean of their intervals."""
    found = []
    for i, (name, runs) in enumerate(groups.items()):
        every = [some for run in runs if (some := points(run))]
        if xs := sorted(set.intersection(*(set(one) for one in every))) if every else []:
            means = scale * np.array([np.mean([one[x]["mean"] for one in every]) for x in xs])
            half = scale * np.array([np.mean([one[x].get("ci95") or 0.0 for one in every]) for x in xs])
            found.append(Line(i, name, xs, means.tolist(), ((means - half).tolist(), (means + half).tolist())))
    return found


def means_and(groups: Groups, other: str, metric: str) -> list[Line]:
    """Of each experiment the mean and another figure, by seed; of one alone nothing."""
    found, scale = [], unit(metric)[0]
    for i, (name, runs) in enumerate(groups.items()):
        pairs = [(figure_of(run.results, metric), figure_of(run.results, other)) for run in runs if run.results]
        each = [(m["mean"], o["mean"]) for m, o in pairs if m and o and None not in (m["mean"], o["mean"])]
        if each:
            x, y = (scale * np.array(each)).T
            found.append(Line(i, name, x.tolist(), y.tolist()))
    return found if len(found) > 1 else []


def bars(runs: list[SavedRun]) -> list[Bars]:
    """Speed and memory of the runs that know them."""
    found = []
    for group, key, title, of in (
        ("speed", "tasks_per_s", "Training speed", "tasks/s"),
        ("memory", "host_peak_mb", "Peak memory of the host", "MB"),
        ("memory", "device_peak_mb", "Peak memory of the device", "MB"),
    ):
        each = {run.name: run.part(group)[key] for run in runs if run.part(group).get(key)}
        most = max(each.values(), default=0)
        some = [(name, value, 100 * value / most) for name, value in list(each.items())[:MOST_BARS]]
        if some:
            left_out = f"The first {len(some)} of {len(each)} runs" if len(some) < len(each) else ""
            found.append(Bars(COSTS, title, of, some, left_out))
    return found


def by_inner_steps(run: SavedRun, shots: str | None = None) -> Points:
    """The test's figures by the number of inner steps, with the shots of the run or with others."""
    if shots is None:
        return known(run.tested("by_inner_steps"), run.metric)
    return known(run.tested("by_shots").get(shots, {}).get("by_inner_steps", {}), run.metric)


def by_shots(run: SavedRun) -> Points:
    return known({shots: one["figures"] for shots, one in run.tested("by_shots").items()}, run.metric)


def known(figures: dict[str, dict[str, Any]], metric: str) -> Points:
    """A metric's figures that are numbers."""
    return {float(x): one[metric] for x, one in figures.items() if one[metric]["mean"] is not None}


def by_instance(run: SavedRun) -> Points:
    """Accuracy at the first, second, ... time that a class is seen: of sequence learners."""
    start = "accuracy_instance_"
    figures = {name.removeprefix(start): one for name, one in run.tested().items() if name.startswith(start)}
    return {float(n): one for n, one in figures.items() if n.isdigit() and one["mean"] is not None}


def shots_of(run: SavedRun) -> list[str]:
    """The numbers of shots with which the run was also tested by inner steps."""
    return [shots for shots, one in run.tested("by_shots").items() if one["by_inner_steps"]]


def over_steps(run: SavedRun, split: str, metric: str) -> dict[int, float]:
    """A metric by meta-step."""
    rows = [row for row in run.rows if row["split"] == split]
    return {row["step"]: row[metric] for row in rows if row.get(metric) is not None}


def same_as_loss(groups: Groups, metric: str) -> bool:
    """Whether the loss is the metric itself, as a squared error may be."""
    rows = [row for runs in groups.values() for run in runs for row in run.rows if "loss" in row]
    return all(row["loss"] == row.get(metric) for row in rows)
