"""The report's tables, for the page, as CSV and as markdown."""

import csv
import io
from typing import Any, NamedTuple

import numpy as np

from metarun.report.runs import SavedRun, differences, groups, short
from metarun.run.figures import figure_of, papers, show, source, unit


class Cell(NamedTuple):
    """What a table shows, and by what it sorts: what is empty comes last."""

    text: str
    value: float | str


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[Cell]]


def text(value: object) -> Cell:
    return Cell("", "") if value is None else Cell(str(value), str(value))


def number(value: float | None, form: str = "{:,.0f}") -> Cell:
    return Cell("", "") if value is None else Cell(form.format(value), float(value))


def value(setting: Any) -> Cell:
    """A setting, which may be anything; numbers sort as such."""
    is_number = isinstance(setting, int | float) and not isinstance(setting, bool)
    return Cell(str(setting), setting) if is_number else text(setting)


def summary(runs: list[SavedRun]) -> Table:
    """A row for each run: what it is, what it reached, what the paper has, what it took. Empty columns are left out."""
    columns = [
        "run", "status", "learner", "task", "seed", "metric", "test, 95 % interval", "inductive", "paper", "meta-steps",
        "minutes", "tasks/s", "peak MB", "of the device",
    ]  # fmt: skip
    rows = [summary_row(run) for run in runs]
    kept = [i for i in range(len(columns)) if any(row[i].text for row in rows)]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def summary_row(run: SavedRun) -> list[Cell]:
    found, metric = run.results or {}, run.metric
    asked, speed, memory = run.config.get("train.steps"), run.part("speed"), run.part("memory")
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
        text(papers(found, metric) or None),
        Cell(steps, float(run.steps)),
        number(speed.get("minutes"), "{:.1f}"),
        number(speed.get("tasks_per_s")),
        number(memory.get("host_peak_mb")),
        number(memory.get("device_peak_mb")),
    ]


def figure_cell(run: SavedRun, metric: str) -> Cell:
    figure = figure_of(run.results, metric) if run.results else None
    if run.results is None or figure is None:
        return text(None)
    split = run.results["protocol"]["split"]
    shown = show(metric, figure) + ("" if split == "test" else f" ({split})")
    return Cell(shown, "" if figure["mean"] is None else figure["mean"])


def beside_papers(runs: list[SavedRun]) -> Table | None:
    """A row for each figure that a paper has for a run's preset; None if there is none."""
    rows = []
    for run in runs:
        paper = run.part("paper")
        for metric in paper.get("figures", {}):
            name, ours = text(metric.replace("_", " ")), figure_cell(run, metric)
            theirs = Cell(papers(run.results or {}, metric), paper["figures"][metric][0])
            rows.append([text(run.name), name, ours, theirs, text(source(paper))])
    return Table(["run", "figure", "this run", "paper", "source"], rows) if rows else None


def over_seeds(together: dict[str, list[SavedRun]]) -> Table | None:
    """A row for each experiment that was run with several seeds: their mean and their standard deviation."""
    rows = []
    for name, members in together.items():
        metric = next((run.metric for run in members if run.results), "")
        of_seeds: dict[str, list[dict[str, float]]] = {}  # a seed that was run twice counts once
        for run in members:
            figure = figure_of(run.results, metric) if run.results else None
            if figure and figure["mean"] is not None:
                of_seeds.setdefault(str(run.config.get("train.seed")), []).append(figure)
        if len(of_seeds) < 2:
            continue
        scale, percent = unit(metric)
        means = [scale * np.mean([figure["mean"] for figure in figures]) for figures in of_seeds.values()]
        every = [figure.get("ci95") for figures in of_seeds.values() for figure in figures]
        intervals = [ci95 for ci95 in every if ci95 is not None]
        rows.append(
            [
                text(name),
                number(len(of_seeds)),
                number(float(np.mean(means)), f"{{:.4g}}{percent}"),
                number(float(np.std(means, ddof=1)), f"{{:.2g}}{percent}"),
                number(float(scale * np.mean(intervals)) if intervals else None, f"{{:.2g}}{percent}"),
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
    """The summary as a markdown table, and below it those beside the papers and over seeds, if there are any."""
    tables = (summary(runs), beside_papers(runs), over_seeds(groups(runs)))
    return "\n".join(markdown_table(table) for table in tables if table)


def markdown_table(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(markdown_text(cell) for cell in cells)} |\n"

    rows = "".join(line([cell.text for cell in row]) for row in table.rows)
    return line(table.columns) + f"|{' --- |' * len(table.columns)}\n" + rows


def markdown_text(text: str) -> str:
    """Text that stays text in a markdown table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in text)
