"""The report's plots, as SVG that takes its colours from the page, so that it is light or dark with it.

All have one width and one size of text; what their lines are called stands below them, in the page's own text.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

INK = "#123457"  # stands for the page's text colour until the SVG is written
# Okabe and Ito's colours, which colour-blind readers can tell apart; those too pale or too dark for a page replaced.
# The page has them as --c0, --c1, ..., brighter ones in the dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#7B4FB5")
STYLES = {"-": "", "--": "5 3", ":": "1.5 2.5"}  # of lines, and the same for the legend's
NAMED = 12  # lines with a name; the others are grey
WIDTH, HEIGHT = 4.0, 2.6  # inches: 384 pixels of the page, so that its columns hold plots as large as they are drawn
TEXT = 9.0  # points: 12 pixels
UNEQUAL, FAR = 8, 100  # times: lengths, and errors, that differ by more stand on a logarithmic axis
RANDOM, BEST = -1, -2  # places of what stands beside experiments' lines: before theirs


class Line(NamedTuple):
    """What is drawn of an experiment; its place among all gives it the same colour in every plot."""

    place: int
    name: str
    x: list[float]
    y: list[float]
    spread: tuple[list[float], list[float]] | None = None  # from here to there


class Key(NamedTuple):
    """What a line of a plot is called, and how it looks: its colour (a CSS one) and its dashes."""

    name: str
    colour: str
    dashes: str  # lengths of strokes and gaps; nothing for a line without gaps, "dot" for single points


def style(place: int) -> dict[str, Any]:
    """How the line of an experiment looks: the same in every plot."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": list(STYLES)[place // len(COLOURS)], "linewidth": 1.8}


def key(place: int, name: str) -> Key:
    return Key(name, f"var(--c{place % len(COLOURS)})", list(STYLES.values())[place // len(COLOURS)])


def legend(lines: Sequence[Line], chance: float | None = None) -> list[Key]:
    """The names of a plot's lines."""
    found = [key(line.place, line.name) for line in lines if line.place < NAMED]
    others = len(lines) - len(found)
    found += [Key(f"{others} others", "var(--soft)", "")] if others else []
    return found + ([Key(f"chance, {chance:.3g} %", "currentColor", "1.5 2.5")] if chance is not None else [])


def svg(draw: Callable[[Axes], object]) -> str:
    """What `draw` puts on axes, as an SVG element."""
    with matplotlib.rc_context({"font.size": TEXT, "font.family": "sans-serif"}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK, which="both", labelsize=TEXT)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.xaxis.offsetText, axes.yaxis.offsetText):
        text.set(color=INK, fontsize=TEXT)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    buffer = io.StringIO()
    salt = str(next(COUNT))  # ids of different plots on one page must differ
    written = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"})
    with written, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the text is the browser's, which has others
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    for i, colour in enumerate(COLOURS):
        drawn = drawn.replace(colour.lower(), f"var(--c{i})")
    # Names that nothing refers to are the same in every plot, and a page may have each only once.
    return re.sub(r' id="([^"]+)"', lambda name: name[0] if f"#{name[1]}" in drawn else "", drawn)


COUNT = count()


def curves(lines: Sequence[Line], y: str, chance: float | None = None) -> str:
    """Lines over meta-steps, with bands; the axis is logarithmic where some are much longer than others."""

    def draw(axes: Axes) -> None:
        with_bands(axes, lines)
        at_chance(axes, chance)
        far_apart(axes, lines, chance)
        lengths = [line.x[-1] for line in lines]
        if max(lengths) > UNEQUAL * min(lengths) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")  # not as powers, whose text is smaller
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("meta-steps")
        axes.set_ylabel(no_mathematics(y))

    return svg(draw)


def points(lines: Sequence[Line], x: str, y: str, chance: float | None = None) -> str:
    """Figures over a few numbers, such as those of inner steps, with their intervals as bars."""

    def draw(axes: Axes) -> None:
        for line in lines:
            if line.place < NAMED:
                bars = None if line.spread is None else np.abs(np.array(line.spread) - line.y)
                axes.errorbar(line.x, line.y, yerr=bars, marker="o", markersize=3.5, capsize=2, **style(line.place))
        in_grey(axes, lines)
        at_chance(axes, chance)
        far_apart(axes, lines, chance)
        axes.set_xlabel(x)
        axes.set_ylabel(no_mathematics(y))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw)


def over(lines: Sequence[Line], x: str, y: str, chance: float | None = None) -> str:
    """Lines with bands over the steps of something, on plain axes; `chance` has no place here."""

    def draw(axes: Axes) -> None:
        with_bands(axes, lines)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    return svg(draw)


def against(lines: Sequence[Line], x: str, y: str, chance: float | None = None) -> str:
    """One figure of each experiment against another of it: a point for each seed; `chance` has no place here."""

    def draw(axes: Axes) -> None:
        for line in lines:
            colour = style(line.place)["color"] if line.place < NAMED else INK
            axes.plot(line.x, line.y, "o", color=colour, markersize=5, alpha=1 if line.place < NAMED else 0.3)
        axes.set_xlabel(x)
        axes.set_ylabel(no_mathematics(y))

    return svg(draw)


def with_bands(axes: Axes, lines: Sequence[Line]) -> None:
    """Lines, and bands where they are the means of several."""
    for line in (line for line in lines if line.place < NAMED):
        axes.plot(line.x, line.y, marker="o" if len(line.x) == 1 else "", markersize=4, **style(line.place))
        if line.spread is not None:
            axes.fill_between(line.x, *line.spread, alpha=0.2, color=style(line.place)["color"], linewidth=0)
    in_grey(axes, lines)


def in_grey(axes: Axes, lines: Sequence[Line]) -> None:
    """The lines beyond those that are named, below them; all at once, for each by itself takes long."""
    paths = [np.column_stack((line.x, line.y)) for line in lines if line.place >= NAMED]
    if paths:
        axes.add_collection(LineCollection(paths, colors=INK, alpha=0.3, linewidths=0.8, zorder=1))
        axes.autoscale_view()


def no_mathematics(text: str) -> str:
    """A text that matplotlib writes as it is."""
    return text.replace("$", r"\$")


def far_apart(axes: Axes, lines: Sequence[Line], chance: float | None) -> None:
    """A logarithmic axis for errors of which some are far larger than others: one that diverged would hide the rest."""
    values = [y for line in lines for y in line.y]
    if chance is None and max(values) > FAR * min(values) > 0:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min(values) / 1.5, max(values) * 1.5)


def at_chance(axes: Axes, chance: float | None) -> None:
    if chance is not None:
        axes.axhline(chance, color=INK, linewidth=1, linestyle=":", zorder=1)


# What stands in the plot of a regression task.
FITTED = (
    Key("true", "currentColor", ""),
    Key("before", "var(--c0)", ""),
    Key("after", "var(--c1)", ""),
    Key("support", "var(--c3)", "dot"),
)


# What stands in the plot of a task on the plane.
TRAVELLED = (Key("goal", "currentColor", "dot"), Key("before", "var(--c0)", ""), Key("after", "var(--c1)", ""))


def travelled(goal: np.ndarray, paths: dict[str, np.ndarray]) -> str:
    """One task on the plane: its goal (2,), and trajectories (n, steps, 2) before and after adaptation."""

    def draw(axes: Axes) -> None:
        for name, lines in paths.items():
            colour = COLOURS[0 if name == "before" else 1]
            axes.add_collection(LineCollection(list(lines), colors=colour, alpha=0.5, linewidths=0.8))
        axes.plot(*goal[:, None], "o", color=INK, markersize=5)
        axes.autoscale_view()
        axes.set_aspect("equal", adjustable="datalim")

    return svg(draw)


def fitted(x: np.ndarray, y: np.ndarray, support: tuple[np.ndarray, np.ndarray], curves: dict[str, np.ndarray]) -> str:
    """One regression task: its support points, its true values, and what was predicted. All are (n,)."""

    def draw(axes: Axes) -> None:
        order = np.argsort(x)
        axes.plot(x[order], y[order], color=INK, linewidth=1)
        for name, values in curves.items():
            axes.plot(x[order], values[order], color=COLOURS[0 if name == "before" else 1], linewidth=1.8)
        axes.plot(*support, "o", color=COLOURS[3], markersize=5)

    return svg(draw)
