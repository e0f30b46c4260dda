"""One look at the papers' rows: which are reached, how far off the others are, and at what budget."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from pages.known import longest, presets
from pages.tables import over_seeds, table

from metarun.run.figures import figure_of, unit

FULL, PART, PAPER = "#0072B2", "#D55E00", "#777777"


class Entry(NamedTuple):
    """A paper's figure and ours, in the metric's unit (per cent, or squared error)."""

    preset: str
    settings: list[str]  # of its own beside the preset's
    metric: str
    paper: tuple[float, float | None]  # mean, half of the 95 % interval
    ours: tuple[float, float | None]
    share: float  # of the preset's meta-steps
    seeds: int

    @property
    def name(self) -> str:
        said = self.metric.removeprefix("accuracy").replace("instance", "").replace("_", " ").replace("mse", "MSE")
        return " ".join([self.preset, *self.settings, *said.split()])

    @property
    def short_by(self) -> float:
        """By how much ours is worse than the paper's mean; less than nothing where it is better."""
        return self.ours[0] - self.paper[0] if self.metric.startswith("mse") else self.paper[0] - self.ours[0]

    @property
    def verdict(self) -> str:
        """Whether ours is as good as the paper's, or inside its interval; if it has none, inside ours."""
        if self.short_by <= 0:
            return "reached"
        if self.short_by <= (self.paper[1] or 0):
            return "inside"
        if self.paper[1] is None and self.short_by <= (self.ours[1] or 0):
            return "inside ours"
        return f"{self.short_by:.2g} short"


def entries(what: dict[str, Any]) -> list[Entry]:
    """Every figure of a paper whose preset has run, the longest runs' mean over their seeds."""
    found = []
    for name, values in presets().items():
        runs = longest(what, name)
        for metric, paper in values["paper"]["figures"].items() if runs else ():
            figures = [figure for run in runs if (figure := figure_of(run, metric)) is not None]
            if len(figures) < len(runs) or any(figure["mean"] is None for figure in figures):
                continue
            ours = over_seeds(figures)
            share = runs[0]["steps"] / values["train"]["steps"]
            both = scaled(metric, *paper), scaled(metric, ours["mean"], ours["ci95"])
            found.append(Entry(name, runs[0]["settings"], metric, *both, share, len(runs)))
    return found


def scaled(metric: str, mean: float | None, ci95: float | None) -> tuple[float, float | None]:
    """A figure in the metric's unit; `entries` leaves out those without a mean."""
    scale, _ = unit(metric)
    return scale * float(mean or 0), None if ci95 is None else scale * ci95


def page(what: dict[str, Any]) -> str:
    """The table, whole budgets first, and a line that counts."""
    every = sorted(entries(what), key=lambda entry: (-entry.share, entry.preset, entry.metric))
    whole = [entry for entry in every if entry.share == 1]
    good = [entry for entry in whole if not entry.verdict.endswith("short")]

    def shown(figure: tuple[float, float | None], metric: str) -> str:
        digits = 2 if metric.startswith("accuracy") else 4
        return f"{figure[0]:.{digits}f}" + ("" if figure[1] is None else f" ± {figure[1]:.{digits}f}")

    lines = table(
        ("row", "paper", "ours", "", "budget", "seeds"),
        *(
            (entry.name, shown(entry.paper, entry.metric), shown(entry.ours, entry.metric), entry.verdict,
             f"{entry.share:.0%}", str(entry.seeds))
            for entry in every
        ),
    )  # fmt: skip
    counted = f"{len(good)} of {len(whole)} figures at the whole budget are as good as their paper's or agree with it"
    return "\n".join([f"{counted}; {len(every) - len(whole)} have run a part of it.", "", *lines])


def draw(what: dict[str, Any], path: Path) -> None:
    """Errors of papers and ours with their intervals, a row each; squared errors are left to the table."""
    rows = [entry for entry in entries(what) if entry.metric.startswith("accuracy")]
    rows.sort(key=lambda entry: (entry.share, entry.preset, entry.metric), reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.24 * len(rows) + 1.2), layout="constrained")
    for y, entry in enumerate(reversed(rows)):
        whole = entry.share == 1
        for (mean, ci95), colour, marker, shift in (
            (entry.paper, PAPER, "D", 0.15),
            (entry.ours, FULL if whole else PART, "o", -0.15),
        ):
            error = max(100 - mean, 0.01)
            bar = None if not ci95 else [[min(ci95, error - 0.01)], [ci95]]
            axes.errorbar(
                error, y + shift, xerr=bar, color=colour, marker=marker, markersize=4.5, elinewidth=1.2,
                markerfacecolor=colour if marker == "D" or whole else "white",
            )  # fmt: skip
    axes.set_yticks(np.arange(len(rows)), [entry.name for entry in reversed(rows)], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_xlabel("error on test tasks, less is better")
    axes.grid(axis="x", alpha=0.3)
    for colour, marker, face, name in (
        (PAPER, "D", PAPER, "paper"),
        (FULL, "o", FULL, "ours, whole budget"),
        (PART, "o", "white", "ours, a part of it"),
    ):
        axes.plot([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="none", label=name)
    figure.legend(loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
