"""What settings that were swept over are good for: the test's figure against one, two or more of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from metarun.report import plots
from metarun.report.charts import Chart
from metarun.report.experiments import NOT_THE_EXPERIMENT, differences, is_choice, is_target, short
from metarun.report.plots import INK
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
    """A chart for each setup and metric on which finished runs of different settings were tested."""
    by_setup: dict[tuple[Setup, str], list[SavedRun]] = {}
    for run in runs:
        if (
            run.results is not None
            and run.config
            and (figure_of(run.results, run.metric) or {}).get("mean") is not None
        ):
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
    """The settings in which runs differ by themselves: of those that another one brings along that one alone."""
    keys = [key for key in differences(runs) if not key.startswith(NOT_THE_EXPERIMENT)]
    columns = {key: [str(run.config.get(key)) for run in runs] for key in keys}
    found: list[str] = []
    for key in sorted(keys, key=lambda key: (not is_choice(key), is_target(key), key)):
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
    scale, percent = unit(metric)
    found: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        values = tuple(short(run.config.get(key)) if is_target(key) else plain(run.config.get(key)) for key in keys)
        figure = figure_of(run.results or {}, metric) or {}
        found.setdefault(values, []).append(scale * figure["mean"])
    tried = [Tried(values, float(np.mean(means)), tuple(means)) for values, means in found.items()]
    return sorted(tried, key=lambda one: one.mean if percent else -one.mean)


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


def placed(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]], bool]:
    """Where values stand on an axis, its ticks, and whether it is logarithmic. What is no number stands in a row."""
    different = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if any(isinstance(value, str) for value in different):
        return (
            [float(different.index(value)) for value in values],
            [(i, str(v)) for i, v in enumerate(different)],
            False,
        )
    low, high = float(different[0]), float(different[-1])
    return [float(value) for value in values], [(float(v), f"{v:g}") for v in different], low > 0 and high > 8 * low


def one_axis(axes: Axes, tried: Sequence[Tried], name: str, label: str) -> None:
    """Each run as a point, and a line through the means."""
    x, ticks, log = placed([one.values[0] for one in tried])
    order = np.argsort(x)
    axes.plot(np.array(x)[order], [tried[i].mean for i in order], color=plots.COLOURS[0], linewidth=1.8)
    points = [(place, mean) for place, one in zip(x, tried, strict=True) for mean in one.runs]
    axes.plot(*zip(*points, strict=True), "o", color=plots.COLOURS[0], markersize=3.5, alpha=0.7)
    if log:
        axes.set_xscale("log")
    axes.set_xticks([at for at, _ in ticks], [said for _, said in ticks], rotation=90 if len(ticks) > 6 else 0)
    axes.set_xticks([], minor=True)
    values = [mean for one in tried for mean in one.runs]
    if not label.endswith("%") and max(values) > plots.FAR * min(values) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(no_mathematics(name))
    axes.set_ylabel(no_mathematics(label))


def two_axes(axes: Axes, tried: Sequence[Tried], names: Sequence[str], accuracy: bool) -> None:
    """A heat map of means, with the figures in it."""
    ticks = [placed([one.values[i] for one in tried])[1] for i in range(2)]
    said = [[text for _, text in one] for one in ticks]
    shades = ranks(tried)
    for one, shade in zip(tried, shades, strict=True):
        at = [
            said[i].index(f"{one.values[i]:g}" if not isinstance(one.values[i], str) else one.values[i]) for i in (0, 1)
        ]
        colour = matplotlib.colormaps["viridis"](shade)
        axes.add_patch(matplotlib.patches.Rectangle((at[0] - 0.5, at[1] - 0.5), 1, 1, facecolor=colour, linewidth=0))
        text = f"{one.mean:.1f}" if accuracy else f"{one.mean:.3g}"
        size = min(plots.TEXT, 40 / max(len(said[0]), 5))
        axes.text(
            at[0], at[1], text, ha="center", va="center", fontsize=size, color="white" if shade < 0.6 else "black"
        )
    axes.set_xlim(-0.5, len(said[0]) - 0.5)
    axes.set_ylim(-0.5, len(said[1]) - 0.5)
    axes.set_xticks(range(len(said[0])), said[0], rotation=90 if len(said[0]) > 6 else 0)
    axes.set_yticks(range(len(said[1])), said[1])
    axes.set_xlabel(no_mathematics(names[0]))
    axes.set_ylabel(no_mathematics(names[1]))


def parallel(axes: Axes, tried: Sequence[Tried], names: Sequence[str], label: str) -> None:
    """Parallel coordinates: an axis for each setting and one for the figure, a line for each that was tried."""
    tried, names = tried[-MOST_LINES:], names[:MOST_AXES]
    columns: list[list[Any]] = [[one.values[i] for one in tried] for i in range(len(names))]
    columns.append([one.mean for one in tried])
    heights = np.array([height(column) for column in columns])  # (axes, lines)
    for i, shade in enumerate(ranks(tried)):
        best = i == len(tried) - 1
        colour, wide = matplotlib.colormaps["viridis"](shade), 2.4 if best else 1.0
        axes.plot(range(len(columns)), heights[:, i], color=colour, linewidth=wide, alpha=1.0 if best else 0.7)
    for i, column in enumerate(columns):
        axes.axvline(i, color=INK, linewidth=0.8)
        _, ticks, _ = placed(column)
        shown = ticks if len(ticks) <= 5 and i < len(names) else [ticks[0], ticks[-1]]
        for value, text in shown:
            at = height([*column, value] if not isinstance(column[0], str) else [*column, text])[-1]
            text = text if isinstance(column[0], str) else f"{value:.3g}"
            axes.text(i + 0.04, at, text[:12], fontsize=plots.TEXT - 2, color=INK, va="center")
    heads = [*(name.split(".")[-1] for name in names), label]
    axes.set_xticks(range(len(columns)), [no_mathematics(head) for head in heads], rotation=20 if len(heads) > 4 else 0)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.6)


def height(column: Sequence[Any]) -> list[float]:
    """Where values stand on an axis from 0 to 1."""
    x, _, log = placed(column)
    values = np.log(x) if log else np.array(x)
    low, high = values.min(), values.max()
    return [0.5] * len(values) if high == low else ((values - low) / (high - low)).tolist()


def ranks(tried: Sequence[Tried]) -> list[float]:
    """A shade for each, the best last: by place, since one that diverged would make the others alike."""
    return np.linspace(WORST, BEST, len(tried)).tolist()


def no_mathematics(text: str) -> str:
    return text.replace("$", r"\$")
