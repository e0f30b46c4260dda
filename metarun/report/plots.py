"""The report's plots, as SVG that takes its text colour from the page, so that it is light or dark with it."""

import io
import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarun.report.runs import SavedRun

INK = "#123457"  # stands for the page's text colour until the SVG is written
# Okabe and Ito's colours, which colour-blind readers can tell apart; those too pale or too dark for a page left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":")
NAMED = 12  # lines with a name; the others are grey
LONGEST = 48  # letters of a name
OTHERS = "others"  # theirs, together
MOST_INSIDE = 6  # names inside a plot; more stand beside it

T = TypeVar("T")
Groups = dict[str, list[SavedRun]]


def svg(draw: Callable[[Axes], object], width: float = 5.4, height: float = 3.2) -> str:
    """What `draw` puts on axes, as an SVG element."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    named = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda one: one[1] == OTHERS)
    handles, labels = [one[0] for one in named], [one[1] for one in named]
    like: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9}
    if len(labels) > MOST_INSIDE:
        figure.set_figwidth(width + 0.6 + 0.075 * max(map(len, labels)))
        figure.legend(handles, labels, loc="outside right upper", **like)
    elif labels:
        axes.legend(handles, labels, **like)
    buffer = io.StringIO()
    salt = str(next(COUNT))  # ids of different plots on one page must differ
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    # Names that nothing refers to are the same in every plot, and a page may have each only once.
    return re.sub(r' id="([^"]+)"', lambda name: name[0] if f"#{name[1]}" in drawn else "", drawn)


COUNT = count()


def style(index: int, name: str) -> dict[str, Any]:
    """How the line of an experiment looks, which has a name: the same in every plot."""
    # matplotlib hides a label that begins with an underscore, and takes dollars for mathematics.
    name = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"
    label = (name.lstrip("_") or "run").replace("$", r"\$")
    colour, line = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS)]
    return {"label": label, "color": colour, "linestyle": line, "linewidth": 1.8}


def in_grey(axes: Axes, lines: Sequence[tuple[Any, Any]]) -> None:
    """Lines below the others, without names; all at once, for each by itself takes long."""
    if lines:
        paths = [np.column_stack(line) for line in lines]
        axes.add_collection(LineCollection(paths, colors=INK, alpha=0.3, linewidths=0.8, zorder=1, label=OTHERS))
        axes.autoscale_view()


def of_each(groups: Groups, points: Callable[[SavedRun], T]) -> list[tuple[int, str, list[T]]]:
    """The points of each experiment's runs, with its index, by which it has the same colour in all plots.

    Runs and experiments that have none are left out.
    """
    found = [
        (i, name, [some for run in runs if (some := points(run))]) for i, (name, runs) in enumerate(groups.items())
    ]
    return [one for one in found if one[2]]


def curves(groups: Groups, points: Callable[[SavedRun], dict[int, float]], y: str) -> str | None:
    """Something over meta-steps; a line for each experiment, and a band from the lowest to the highest of its seeds.

    It goes as far as all seeds that are finished, or, if none is, as all of them.
    """

    def draw(axes: Axes) -> None:
        others = []
        for i, name, every in drawn:
            steps = sorted(set.intersection(*(set(one) for one in every)))
            values = np.array([[one[step] for one in every] for step in steps]).reshape(-1, len(every))
            if i >= NAMED:
                others.append((steps, values.mean(1)))
                continue
            (line,) = axes.plot(steps, values.mean(1), **style(i, name))
            if len(every) > 1:
                axes.fill_between(steps, values.min(1), values.max(1), alpha=0.2, color=line.get_color(), linewidth=0)
        in_grey(axes, others)
        axes.set_xlabel("meta-steps")
        axes.set_ylabel(y.replace("_", " "))

    ended = {name: [run for run in runs if run.results] or runs for name, runs in groups.items()}
    drawn = of_each(ended, points)
    return svg(draw) if drawn else None


def figure_lines(
    groups: Groups, points: Callable[[SavedRun], dict[float, dict[str, float]]], x: str, y: str
) -> str | None:
    """Test figures over something: `points` gives a run's, by their x. Bars are 95% intervals over tasks."""

    def draw(axes: Axes) -> None:
        others = []
        for i, name, every in drawn:
            xs = sorted(set.intersection(*(set(found) for found in every)))
            means = [float(np.mean([found[at]["mean"] for found in every])) for at in xs]
            bars = [np.mean([found[at].get("ci95") or 0.0 for found in every]) for at in xs]
            if i >= NAMED:
                others.append((xs, means))
                continue
            axes.errorbar(xs, means, yerr=bars, marker="o", markersize=3.5, capsize=2, **style(i, name))
        in_grey(axes, others)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    drawn = of_each(groups, points)
    return svg(draw) if drawn else None


def fitted(x: np.ndarray, y: np.ndarray, support: tuple[np.ndarray, np.ndarray], curves: dict[str, np.ndarray]) -> str:
    """One regression task: its support points, its true values, and what was predicted. All are (n,)."""

    def draw(axes: Axes) -> None:
        order = np.argsort(x)
        axes.plot(x[order], y[order], color=INK, linewidth=1, label="true")
        for i, (name, values) in enumerate(curves.items()):
            axes.plot(x[order], values[order], **style(i, name))
        axes.plot(*support, "o", color=COLOURS[3], markersize=5, label="support")

    return svg(draw, 4.2, 2.8)


def bars(values: dict[str, float], x: str) -> str | None:
    """A bar for each run."""

    def draw(axes: Axes) -> None:
        at = np.arange(len(values))[::-1]
        axes.barh(at, list(values.values()), color=COLOURS[0], height=0.6)
        if max(values.values()) > 50 * min(values.values()) > 0:
            axes.set_xscale("log")
        axes.set_ylim(-0.6, len(values) - 0.4)
        axes.set_yticks(at, [name.replace("$", r"\$") for name in values], fontsize=8)
        axes.set_xlabel(x)

    return svg(draw, 5.4, 0.8 + 0.28 * len(values)) if values else None
