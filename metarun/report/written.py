"""The report as files of text: CSV with a number in each column, for programs, and markdown, for people."""

import csv
import io
from typing import Any

from metarun.report.experiments import differences, groups, learner
from metarun.report.runs import SavedRun
from metarun.report.setups import setup
from metarun.report.tables import (
    Table,
    beside_papers,
    by_group,
    elsewhere,
    kept,
    over_seeds,
    summary,
    tails,
    tasks_tested,
    whys,
)
from metarun.run.figures import TAILS, figure_of, unit

# Settings that a column of their own has already, or that say where a run was, not what it was.
ELSEWHERE = ("train.seed", "train.steps", "run.", "learner._target_", "task._target_", "paper.", "suggested.")


def as_csv(runs: list[SavedRun]) -> str:
    """A row for each run; numbers are bare, and a figure's unit is in its column's name. What is not there is empty.

    Each metric has columns of its own (`accuracy_mean_percent`, `accuracy_ci95_percent`, `mse_mean`, ...), for the
    figures that the summary shows: the test's, inductive ones too, the papers', and those of the worst tasks and groups
    of tasks. Last come the settings that differ.
    """
    experiments = {id(run): name for name, members in groups(runs).items() for run in members}
    rows = [csv_row(run, experiments.get(id(run))) for run in runs]
    keys = [key for key in differences([run for run in runs if run.config]) if not key.startswith(ELSEWHERE)]
    for run, row in zip(runs, rows, strict=True):
        row |= {key: run.config.get(key) for key in keys}
    figures = list(dict.fromkeys(name for row in rows for name in row if name.startswith("test ")))
    columns = [name for name in rows[0] if not name.startswith("test ")] if rows else []
    at = columns.index("test_tasks") + 1 if rows else 0
    columns[at:at] = figures
    columns = list(dict.fromkeys(columns))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([name.removeprefix("test ") for name in columns])
    writer.writerows([[row.get(name) for name in columns] for row in rows])
    return buffer.getvalue()


def csv_row(run: SavedRun, experiment: str | None) -> dict[str, Any]:
    """A run's columns; the names of its figures begin with "test "."""
    on, speed, memory = setup(run, "test"), run.part("speed"), run.part("memory")
    row: dict[str, Any] = {
        "run": run.name,
        "status": run.status,
        "why": run.why or None,
        "experiment": experiment,
        "learner": learner(run) if run.config else None,
        "task": on.task if on.settings else None,
        "ways": on.number("ways"),
        "shots": on.number("shots"),
        "seed": run.config.get("train.seed"),
        "metric": run.metric or None,
        "split": run.part("protocol").get("split"),
        "test_tasks": tasks_tested(run),
    }
    for metric in (run.metric, f"{run.metric}_inductive"):
        if run.results and (figure := figure_of(run.results, metric)):
            row |= in_columns(metric, mean=figure.get("mean"), ci95=figure.get("ci95"))
        if paper := run.part("paper").get("figures", {}).get(metric):
            row |= in_columns(f"paper_{metric}", mean=paper[0], ci95=paper[1])
    for metric in (f"{run.metric}_{tail}" for tail in TAILS):
        if run.results and (figure := figure_of(run.results, metric)):
            row |= in_columns(metric, mean=figure["mean"])
    for domain, test in run.part("tests").items():
        if figure := test["figures"].get(run.metric):
            row |= in_columns(f"{run.metric}_on_{domain}", mean=figure.get("mean"), ci95=figure.get("ci95"))
    return row | {
        "meta_steps": run.steps,
        "meta_steps_asked": run.config.get("train.steps"),
        "minutes": speed.get("minutes"),
        "members": speed.get("members", 1) if speed else None,
        "tasks_per_s": speed.get("tasks_per_s"),
        "tflop": speed.get("tflop"),
        "host_peak_mb": memory.get("host_peak_mb"),
        "device_peak_mb": memory.get("device_peak_mb"),
    }


def in_columns(name: str, **parts: float | None) -> dict[str, float | None]:
    """A figure's mean, and its interval if it has one, by their columns' names, which say the unit."""
    scale, percent = unit(name.removeprefix("paper_"))
    of = "_percent" if percent else ""
    return {f"test {name}_{part}{of}": None if n is None else float(f"{scale * n:.10g}") for part, n in parts.items()}


def as_markdown(runs: list[SavedRun]) -> str:
    """The summary as a markdown table; below it those beside the papers, on other domains, of tests that were kept,
    over seeds, and of what went wrong, if any.
    """
    more = (
        *(of(runs) for of in (beside_papers, elsewhere, by_group, tails, kept)),
        over_seeds(groups(runs)),
        whys(runs),
    )
    tables = (summary(runs), *more)
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
