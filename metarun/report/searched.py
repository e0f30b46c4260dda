"""What settings that were swept over are good for: the test's figure against one, two or more of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from metarun.core import rises
from metarun.report import plots
from metarun.report.charts import Chart
from metarun.report.experiments import (
    asked_for,
    differences,
    is_choice,
    is_target,
    of_the_experiment,
    settings,
    short,
)
from metarun.report.plots import INK, no_mathematics
from metarun.report.runs import SavedRun
from metarun.report.setups import Setup, setup, titles
from metarun.run.figures import figure_of, unit

PART = "Settings"
MOST_AXES = 8  # of parallel coordinates
MOST_CELLS = 14  # values of a setting in a heat map
MOST_LINES = 500
WORST, BEST = 0.15, 0.9  # of the colours: the palest of all would not be seen


class Tried(NamedTuple):
    """Values of the settings, and the mean over seeds of what they came to."""

    values: tuple[Any, ...]
    mean: float
    runs: tuple[float, ...]  # each run's own


def searched(runs: Sequence[SavedRun]) -> list[Chart]:
    """A chart for each setup and metric on which finished runs of different settings were tested.

    Without settings of which a seed's figure is no number: a mean of the others would be of other seeds.
    """
    by_setup: dict[tuple[Setup, str], list[SavedRun]] = {}
    tested = [run for run in runs if run.results is not None and run.config]
    diverged = {settings(run) for run in tested if (figure_of(run.results or {}, run.metric) or {}).get("mean") is None}
    for run in tested:
        if settings(run) not in diverged:
            by_setup.setdefault((setup(run, "test"), run.metric), []).append(run)
    said = titles({where for where, _ in by_setup})
    found = []
    for (where, metric), members in by_setup.items():
        keys = varied(members)
        tried = gathered(members, keys, metric) if keys else []
        if len(tried) > 1:
            names = [key.removesuffix("._target_") if is_choice(key) else key for key in keys]
            what = "settings" if len(keys) > 2 else " and ".join(names)
            title = f"Test {metric.replace('_', ' ')} by {what}: {said[where]}"
            found.append(Chart(PART, title, drawn(tried, names, metric), []))
    return found


def varied(runs: Sequence[SavedRun]) -> list[str]:
    """The settings in which runs differ by themselves: of those that another one brings along that one alone.

    Of several that are alike it is the one that was asked for.
    """
    asked = asked_for(runs)
    keys = [key for key in differences(runs) if of_the_experiment(key)]
    columns = {key: [str(run.config.get(key)) for run in runs] for key in keys}
    found: list[str] = []
    for key in sorted(keys, key=lambda key: (not is_choice(key), key not in asked, is_target(key), key)):
        if not any(follows(columns[key], columns[other], is_choice(other)) for other in found):
            found.append(key)
    return found


def follows(column: Sequence[str], other: Sequence[str], choice: bool) -> bool:
    """Whether a setting says nothing that the other does not: it is the same, or a group that brings it along."""
    if not choice:
        return list(column) == list(other)
    return len(set(zip(other, column, strict=True))) == len(set(other))


def gathered(runs: Sequence[SavedRun], keys: Sequence[str], metric: str) -> list[Tried]:
    """The runs by their values of `keys`, the best last."""
    scale, _ = unit(metric)
    found: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        values = tuple(short(run.config.get(key)) if is_target(key) else plain(run.config.get(key)) for key in keys)
        figure = figure_of(run.results or {}, metric) or {}
        found.setdefault(values, []).append(scale * figure["mean"])
    tried = [Tried(values, float(np.mean(means)), tuple(means)) for values, means in found.items()]
    return sorted(tried, key=lambda one: one.mean if rises(metric) else -one.mean)


def plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def drawn(tried: Sequence[Tried], names: Sequence[str], metric: str) -> str:
    percent = unit(metric)[1]
    label = f"{metric.replace('_', ' ')}{',' if percent else ''}{percent}"
    if len(names) == 1:
        return plots.svg(lambda axes: one_axis(axes, tried, names[0], label))
    counts = [len({one.values[i] for one in tried}) for i in range(len(names))]
    if len(names) == 2 and max(counts) <= MOST_CELLS and 2 * len(tried) >= counts[0] * counts[1]:
        return plots.svg(lambda axes: two_axes(axes, tried, names, bool(percent)))
    return plots.svg(lambda axes: parallel(axes, tried, names, label))


class Axis(NamedTuple):
    """Where values stand: as what they are or, if one of them is no number, in a row."""

    at: list[float]  # each value
    ticks: list[tuple[float, str]]  # each different value, and what it is called
    log: bool

    @property
    def texts(self) -> list[str]:
        return [no_mathematics(text) for _, text in self.ticks]

    def heights(self, places: Sequence[float]) -> list[float]:
        """Places as parts of the way from the lowest to the highest."""
        low, high, all_of_them = (scaled(each, self.log) for each in (min(self.at), max(self.at), places))
        return [0.5] * len(places) if high == low else ((all_of_them - low) / (high - low)).tolist()


def scaled(places: float | Sequence[float], log: bool) -> Any:
    return np.log(places) if log else np.asarray(places)


def axis_of(values: Sequence[Any]) -> Axis:
    different = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    in_a_row = any(isinstance(value, str) for value in different)
    places = [float(i if in_a_row else value) for i, value in enumerate(different)]
    texts = [value if isinstance(value, str) else f"{value:g}" for value in different]
    if len(set(texts)) < len(texts):  # as numbers of many digits, of which that shows six
        texts = [str(value) for value in different]
    where = dict(zip(different, places, strict=True))
    log = not in_a_row and places[0] > 0 and places[-1] > 8 * places[0]
    return Axis([where[value] for value in values], list(zip(places, texts, strict=True)), log)


def one_axis(axes: Axes, tried: Sequence[Tried], name: str, label: str) -> None:
    """Each run as a point, and a line through the means."""
    axis = axis_of([one.values[0] for one in tried])
    order = np.argsort(axis.at)
    axes.plot(np.array(axis.at)[order], [tried[i].mean for i in order], color=plots.COLOURS[0], linewidth=1.8)
    points = [(place, mean) for place, one in zip(axis.at, tried, strict=True) for mean in one.runs]
    axes.plot(*zip(*points, strict=True), "o", color=plots.COLOURS[0], markersize=3.5, alpha=0.7)
    if axis.log:
        axes.set_xscale("log")
    axes.set_xticks([at for at, _ in axis.ticks], axis.texts, rotation=90 if len(axis.ticks) > 6 else 0)
    axes.set_xticks([], minor=True)
    values = [mean for one in tried for mean in one.runs]
    if not label.endswith("%") and max(values) > plots.FAR * min(values) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(no_mathematics(name))
    axes.set_ylabel(no_mathematics(label))


def two_axes(axes: Axes, tried: Sequence[Tried], names: Sequence[str], accuracy: bool) -> None:
    """A heat map of means, with the figures in it."""
    both = [axis_of([one.values[i] for one in tried]) for i in range(2)]
    rows = [{place: row for row, (place, _) in enumerate(axis.ticks)} for axis in both]
    for one, shade, *places in zip(tried, ranks(tried), both[0].at, both[1].at, strict=True):
        x, y = (row[place] for row, place in zip(rows, places, strict=True))
        colour = matplotlib.colormaps["viridis"](shade)
        axes.add_patch(matplotlib.patches.Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, linewidth=0))
        text = f"{one.mean:.1f}" if accuracy else f"{one.mean:.3g}"
        size = min(plots.TEXT, 40 / max(len(rows[0]), 5))
        axes.text(x, y, text, ha="center", va="center", fontsize=size, color="white" if shade < 0.6 else "black")
    axes.set_xlim(-0.5, len(rows[0]) - 0.5)
    axes.set_ylim(-0.5, len(rows[1]) - 0.5)
    axes.set_xticks(range(len(rows[0])), both[0].texts, rotation=90 if len(rows[0]) > 6 else 0)
    axes.set_yticks(range(len(rows[1])), both[1].texts)
    axes.set_xlabel(no_mathematics(names[0]))
    axes.set_ylabel(no_mathematics(names[1]))


def parallel(axes: Axes, tried: Sequence[Tried], names: Sequence[str], label: str) -> None:
    """Parallel coordinates: an axis for each setting and one for the figure, a line for each that was tried."""
    tried, names = tried[-MOST_LINES:], names[:MOST_AXES]
    every = [axis_of([one.values[i] for one in tried]) for i in range(len(names))]
    figures = axis_of([one.mean for one in tried])
    every.append(figures._replace(ticks=[(at, f"{at:.3g}") for at, _ in figures.ticks]))
    heights = np.array([axis.heights(axis.at) for axis in every])  # (axes, lines)
    for i, shade in enumerate(ranks(tried)):
        best = i == len(tried) - 1
        colour, wide = matplotlib.colormaps["viridis"](shade), 2.4 if best else 1.0
        axes.plot(range(len(every)), heights[:, i], color=colour, linewidth=wide, alpha=1.0 if best else 0.7)
    for i, axis in enumerate(every):
        axes.axvline(i, color=INK, linewidth=0.8)
        few = len(axis.ticks) <= 5 and axis is not every[-1]
        shown = axis.ticks if few else [axis.ticks[0], axis.ticks[-1]]
        for at, (_, text) in zip(axis.heights([place for place, _ in shown]), shown, strict=True):
            axes.text(i + 0.04, at, no_mathematics(text[:12]), fontsize=plots.TEXT - 2, color=INK, va="center")
    heads = [*(name.split(".")[-1] for name in names), label]
    axes.set_xticks(range(len(every)), [no_mathematics(head) for head in heads], rotation=20 if len(heads) > 4 else 0)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(every) - 0.6)


def ranks(tried: Sequence[Tried]) -> list[float]:
    """A shade for each, the best last: by place, since one that diverged would make the others alike."""
    return np.linspace(WORST, BEST, len(tried)).tolist()
