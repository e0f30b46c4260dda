"""Heat maps of what a learner shares out, by groups of tasks: which family goes to which leaf of a tree of clusters."""

import re
from collections import defaultdict

import matplotlib
import matplotlib.patches
from matplotlib.axes import Axes

from metarun.report import plots
from metarun.report.charts import MOST_SETUPS, Chart, ended
from metarun.report.runs import SavedRun
from metarun.run.figures import MOST_GROUPS

PART = "Groups of tasks"
MOST_PARTS = 16  # columns of a map

Shares = dict[str, list[float]]  # group -> its means, which add up to 1


def shares(runs: list[SavedRun]) -> list[Chart]:
    """A map for each run that measured how a task is shared out: figures numbered from 1 that add up to 1."""
    found = []
    for run in runs:
        for stem, each in of_a_run(run).items():
            drawn = plots.svg(lambda axes, stem=stem, each=each: heat(axes, each, stem))  # type: ignore[misc]
            found.append(Chart(PART, f"Mean share of each {stem} in a task, by group: {run.name}", drawn, []))
    return ended(found[:MOST_SETUPS], len(found), "map")


def of_a_run(run: SavedRun) -> dict[str, Shares]:
    """By what is numbered (`leaf`), the shares in each group."""
    measured = (run.tested("groups") or {}).get("measured", {})
    found: dict[str, Shares] = defaultdict(dict)
    for group, figures in list(measured.items())[:MOST_GROUPS]:
        stems = {match[1] for name in figures if (match := re.fullmatch(r"(\w+)_1", name))}
        for stem in sorted(stems):
            numbered = [figures.get(f"{stem}_{i + 1}") for i in range(MOST_PARTS)]
            values = [value for value in numbered if value is not None]
            if len(values) > 1 and abs(sum(values) - 1) < 1e-3:
                found[stem][group] = values
    return {stem: each for stem, each in found.items() if len({len(values) for values in each.values()}) == 1}


def heat(axes: Axes, each: Shares, stem: str) -> None:
    """A row for each group, a column for each part; the darker, the more."""
    for y, values in enumerate(each.values()):
        for x, value in enumerate(values):
            colour = matplotlib.colormaps["Blues"](value)
            axes.add_patch(matplotlib.patches.Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, linewidth=0))
            said, ink = f"{100 * value:.0f} %", "white" if value > 0.55 else "black"
            axes.text(x, y, said, ha="center", va="center", fontsize=plots.TEXT, color=ink)
    columns = len(next(iter(each.values())))
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(len(each) - 0.5, -0.5)  # the first group above
    axes.set_xticks(range(columns), [f"{i + 1}" for i in range(columns)])
    axes.set_yticks(range(len(each)), [plots.no_mathematics(name.replace("_", " ")) for name in each])
    axes.set_xlabel(stem)
