"""The report's tables, for the page, as CSV and as markdown."""

import csv
import io
from typing import Any, NamedTuple

import numpy as np

from metarun.figures import figure_of, papers, show
from metarun.report.runs import SavedRun, differences, short


class Cell(NamedTuple):
    """What a table shows, and by what it sorts."""

    text: str
    value: float | str


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[Cell]]


def text(value: object) -> Cell:
    return Cell("" if value is None else str(value), str(value))


def number(value: float | None, form: str = "{:,.0f}") -> Cell:
    return Cell("", -1.0) if value is None else Cell(form.format(value), float(value))


def value(setting: Any) -> Cell:
    """A setting, which may be anything; numbers sort as such."""
    is_number = isinstance(setting, int | float) and not isinstance(setting, bool)
    return Cell(str(setting), setting) if is_number else text(setting)


def summary(runs: list[SavedRun]) -> Table:
    """A row for each run: what it is, what it reached, what the paper has, what it took. Empty columns are left out."""
    columns = [
        "run", "status", "learner", "task", "seed", "metric", "test, 95 % interval", "inductive", "paper", "meta-steps",
        "minutes", "tasks/s", "peak MB",
    ]  # fmt: skip
    rows = [summary_row(run) for run in runs]
    kept = [i for i in range(len(columns)) if any(row[i].text for row in rows)]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def summary_row(run: SavedRun) -> list[Cell]:
    found, metric = run.results or {}, run.metric
    paper = (found.get("paper") or {}).get("figures", {})
    papers_text = "; ".join(
        papers(found, name) + ("" if name == metric else f" ({name.replace('_', ' ')})") for name in paper
    )
    asked, speed = run.config.get("train.steps"), found.get("speed", {})
    steps = f"{run.steps:,} of {asked:,}" if isinstance(asked, int) else f"{run.steps:,}"
    first_order = ", first order" if run.config.get("learner.first_order") is True else ""
    return [
        text(run.name),
        text(run.status),
        text(short(run.config.get("learner._target_")) + first_order),
        text(short(run.config.get("task._target_"))),
        value(run.config.get("train.seed")),
        text(metric),
        figure_cell(run, metric),
        figure_cell(run, f"{metric}_inductive"),
        text(papers_text),
        Cell(steps, float(run.steps)),
        number(speed.get("minutes"), "{:.1f}"),
        number(speed.get("tasks_per_s")),
        number(found.get("memory", {}).get("host_peak_mb")),
    ]


def figure_cell(run: SavedRun, metric: str) -> Cell:
    figure = figure_of(run.results, metric) if run.results else None
    if figure is None or figure["mean"] is None:
        return Cell("not a number" if figure else "", -1.0)
    return Cell(show(metric, figure), figure["mean"])


def over_seeds(together: dict[str, list[SavedRun]]) -> Table | None:
    """A row for each experiment that was run with several seeds: their mean and their standard deviation."""
    rows = []
    for name, members in together.items():
        metric = next((run.metric for run in members if run.results), "")
        figures = {str(run.config.get("train.seed")): figure_of(run.results, metric) for run in members if run.results}
        tested = [figure for figure in figures.values() if figure and figure["mean"] is not None]
        if len(tested) < 2:
            continue
        scale, unit = (100, " %") if metric == "accuracy" else (1, "")
        means = [scale * figure["mean"] for figure in tested]
        intervals = [figure["ci95"] for figure in tested if figure.get("ci95") is not None]
        rows.append(
            [
                text(name),
                number(len(tested)),
                number(float(np.mean(means)), f"{{:.4g}}{unit}"),
                number(float(np.std(means, ddof=1)), f"{{:.2g}}{unit}"),
                number(float(scale * np.mean(intervals)) if intervals else None, f"{{:.2g}}{unit}"),
            ]
        )
    columns = ["experiment", "seeds", "mean over seeds", "std over seeds", "95 % interval over tasks"]
    return Table(columns, rows) if rows else None


def what_differs(runs: list[SavedRun]) -> Table | None:
    """The settings in which the runs are not all alike; None if there are none."""
    keys = differences(runs)
    if len(runs) < 2 or not keys:
        return None
    return Table(["run", *keys], [[text(run.name), *(value(run.config.get(key)) for key in keys)] for run in runs])


def as_csv(runs: list[SavedRun]) -> str:
    """The summary as CSV."""
    table = summary(runs)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([[cell.text for cell in row] for row in table.rows])
    return buffer.getvalue()


def as_markdown(runs: list[SavedRun]) -> str:
    """The summary as a markdown table."""
    table = summary(runs)

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(markdown_text(cell) for cell in cells)} |\n"

    rows = "".join(line([cell.text for cell in row]) for row in table.rows)
    return line(table.columns) + f"|{' --- |' * len(table.columns)}\n" + rows


def markdown_text(text: str) -> str:
    """Text that stays text in a markdown table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in text)
