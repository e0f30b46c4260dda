"""Which plots a report has, and what stands in them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from metarun.report import plots
from metarun.report.runs import SavedRun

MOST_BARS = 40  # runs in a chart of bars

Points = dict[float, dict[str, float]]  # x -> a figure


class Chart(NamedTuple):
    """A plot of the page; `svg` is None if there is nothing to plot."""

    part: str
    title: str
    svg: str | None


def charts(runs: list[SavedRun], together: plots.Groups) -> list[Chart]:
    """The plots over all runs, those of an experiment `together`; plots for which there is nothing are left out."""
    found: list[Chart] = []
    for metric in sorted({run.metric for run in runs if run.metric}):
        own = {name: [run for run in members if run.metric == metric] for name, members in together.items()}
        for split, title in (("val", "Validation"), ("train", "Training")):
            points = partial(over_steps, split=split, metric=metric)
            found.append(Chart("Learning curves", f"{title} {metric}", plots.curves(own, points, metric)))
        shots = sorted({shots for run in runs for shots in shots_of(run)}, key=int)
        over: list[tuple[str, str, Callable[[SavedRun], Points]]] = [
            ("by inner steps", "inner steps", by_inner_steps),
            ("by shots", "shots", by_shots),
        ]
        over += [(f"by inner steps, with {k} shots", "inner steps", partial(by_inner_steps, shots=k)) for k in shots]
        found += [
            Chart("Adaptation", f"Test {metric} {title}", plots.figure_lines(own, points, x, f"test {metric}"))
            for title, x, points in over
        ]
    title = "Accuracy at the n-th time that a class is seen in an episode"
    instances = plots.figure_lines(together, by_instance, "instance", "test accuracy")
    found.append(Chart("Accuracy by instance", title, instances))

    part = "Speed and memory"
    for group, key, title, unit in (
        ("speed", "tasks_per_s", "Training speed", "tasks/s"),
        ("memory", "host_peak_mb", "Peak memory of the host", "MB"),
        ("memory", "device_peak_mb", "Peak memory of the device", "MB"),
    ):
        each = {run.name: run.part(group)[key] for run in runs if run.part(group).get(key)}
        found.append(Chart(part, title, plots.bars(dict(list(each.items())[:MOST_BARS]), unit)))
    return [chart for chart in found if chart.svg is not None]


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
