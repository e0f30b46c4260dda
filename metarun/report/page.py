"""The page: tables, plots and pictures of runs in one HTML file that needs nothing else; and the summary for others."""

import base64
import csv
import datetime
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from metarun.figures import figure_of, papers, show
from metarun.report import plots
from metarun.report.runs import SavedRun, differences, groups

CLOSELY = 12  # runs that are shown with classes, episodes and everything
EPISODES = 3  # of each of them
MOST_BARS = 40  # runs in a chart of bars
MOST_SHOWN = 60  # examples of an episode


Points = dict[float, dict[str, float]]  # x -> a figure


class Cell(NamedTuple):
    """What a table shows, and by what it sorts."""

    text: str
    value: float | str


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[Cell]]


def text(value: object) -> Cell:
    return Cell(str(value), str(value))


def number(value: float | None, form: str = "{:,.0f}") -> Cell:
    return Cell("", -1.0) if value is None else Cell(form.format(value), float(value))


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
    return [
        text(run.name),
        text(run.status),
        text(short(run.config.get("learner._target_"))),
        text(short(run.config.get("task._target_"))),
        number(run.config.get("train.seed")),
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


def short(target: str | None) -> str:
    """`metarun.learners.maml.MAML` -> `maml`."""
    parts = (target or "?").split(".")
    return parts[-2] if len(parts) > 1 else parts[0]


def over_seeds(runs: list[SavedRun]) -> Table | None:
    """A row for each experiment that was run with several seeds: their mean and their standard deviation."""
    rows = []
    for name, members in groups(runs).items():
        metric = members[0].metric
        figures = [figure_of(run.results, metric) for run in members if run.results]
        tested = [figure for figure in figures if figure and figure["mean"] is not None]
        if len(tested) < 2:
            continue
        scale, unit = (100, " %") if metric == "accuracy" else (1, "")
        means = [scale * figure["mean"] for figure in tested]
        rows.append(
            [
                text(name),
                number(len(tested)),
                number(float(np.mean(means)), f"{{:.4g}}{unit}"),
                number(float(np.std(means, ddof=1)), f"{{:.2g}}{unit}"),
                number(float(scale * np.mean([figure["ci95"] for figure in tested])), f"{{:.2g}}{unit}"),
            ]
        )
    columns = ["experiment", "seeds", "mean over seeds", "std over seeds", "95 % interval over tasks"]
    return Table(columns, rows) if rows else None


def what_differs(runs: list[SavedRun]) -> Table | None:
    """The settings in which the runs are not all alike; None if there are none."""
    keys = differences(runs)
    if len(runs) < 2 or not keys:
        return None

    def cell(value: Any) -> Cell:
        return text("" if value is None else value) if not isinstance(value, int | float) else Cell(str(value), value)

    return Table(["run", *keys], [[text(run.name), *(cell(run.config.get(key)) for key in keys)] for run in runs])


def by_inner_steps(run: SavedRun, shots: str | None = None) -> Points:
    """The test's figures by the number of inner steps, with the shots of the run or with others."""
    found = run.results
    if found is None:
        return {}
    split = found["protocol"]["split"]
    after = (
        found.get(f"{split}_by_inner_steps", {})
        if shots is None
        else found.get(f"{split}_by_shots", {}).get(shots, {}).get("by_inner_steps", {})
    )
    figures = {float(n): one[run.metric] for n, one in after.items()}
    return {n: figure for n, figure in figures.items() if figure["mean"] is not None}


def by_shots(run: SavedRun) -> Points:
    found = run.results or {"protocol": {"split": ""}}
    other = found.get(f"{found['protocol']['split']}_by_shots", {})
    return {float(shots): one["figures"][run.metric] for shots, one in other.items()}


def by_instance(run: SavedRun) -> Points:
    """Accuracy at the first, second, ... time that a class is seen: of sequence learners."""
    found = run.results
    figures = found[found["protocol"]["split"]] if found else {}
    start = "accuracy_instance_"
    return {float(name.removeprefix(start)): figure for name, figure in figures.items() if name.startswith(start)}


def picture(x: np.ndarray) -> str | None:
    """An image (height, width, 1 or 3) in [0, 1] as a data URI; None for what is no image."""
    if x.ndim != 3 or x.shape[-1] not in (1, 3):
        return None
    pixels = (255 * np.clip(x, 0, 1)).astype(np.uint8)
    if x.shape[-1] == 1:
        pixels = 255 - pixels[:, :, 0]  # ink is black on white, in the dark, too
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class Shown(NamedTuple):
    """One example of an episode."""

    image: str | None
    name: str  # its class
    predicted: str = ""
    right: bool = False


class Classified(NamedTuple):
    """An episode of a classification."""

    support: list[Shown]
    query: list[Shown]
    right: int
    asked: int


def episodes(run: SavedRun) -> list[Classified | str]:
    """The first test episodes: classifications in pictures, regressions (of one number) as plots."""
    if run.examples is None:
        return []
    one = [{name: array[i] for name, array in run.examples.items()} for i in range(len(run.examples["query_y"]))]
    found = [fitted(e) if e["query_y"].dtype.kind == "f" else classified(e) for e in one[:EPISODES]]
    return [episode for episode in found if episode is not None]


def fitted(e: dict[str, np.ndarray]) -> str | None:
    """The plot of a task whose inputs and targets are single numbers."""
    if e["query_x"].shape[1:] != (1,) or e["query_y"].shape[1:] != (1,):
        return None
    named = {"before": e.get("before"), "after": e["outputs"]}
    curves = {name: values[:, 0] for name, values in named.items() if values is not None}
    support = (e["support_x"][:, 0], e["support_y"][:, 0])
    return plots.fitted(e["query_x"][:, 0], e["query_y"][:, 0], support, curves)


def classified(e: dict[str, np.ndarray]) -> Classified:
    predicted, y = e["outputs"].argmax(-1), e["query_y"]
    names = e["names"].tolist() if "names" in e else [f"class {k + 1}" for k in range(e["outputs"].shape[-1])]
    support = [Shown(picture(x), names[k]) for x, k in zip(e["support_x"], e["support_y"], strict=True)]
    query = [
        Shown(picture(x), names[k], names[p], bool(k == p)) for x, k, p in zip(e["query_x"], y, predicted, strict=True)
    ]
    return Classified(support[:MOST_SHOWN], query[:MOST_SHOWN], int((predicted == y).sum()), len(y))


def closely(run: SavedRun) -> dict[str, Any]:
    """All that is shown of one run."""
    classes = run.classes or {"classes": {}, "confusions": []}
    worst = sorted(classes["classes"].items(), key=lambda item: (item[1][0] / max(item[1][1], 1), -item[1][1]))
    return {
        "run": run,
        "command": run.results["training"]["command"] if run.results else f"metarun run.dir={run.path}",
        "classes": Table(
            ["class", "accuracy", "queries"],
            [[Cell(n, n), number(100 * r / max(q, 1), "{:.0f} %"), number(q)] for n, (r, q) in worst],
        ),
        "confusions": Table(
            ["class", "taken for", "times"],
            [[Cell(a, a), Cell(b, b), number(n)] for a, b, n in classes["confusions"][:20]],
        ),
        "episodes": episodes(run),
        "made": made_by(run),
    }


def made_by(run: SavedRun) -> str:
    if run.results is None:
        return ""
    machine, commit = run.results["machine"], run.results["commit"]
    by = f"commit {commit['id'][:8]}{' and changes' if commit['changed'] else ''}" if commit else "no commit"
    on = f"{machine['devices']} {machine['device']} device(s), {machine['system']}"
    return f"{on}, jax {run.results['versions']['jax']}, {by}, {run.results['date']}"


class Chart(NamedTuple):
    """A plot of the page; `svg` is None if there is nothing to plot."""

    part: str
    title: str
    svg: str | None


def charts(runs: list[SavedRun]) -> list[Chart]:
    """The plots over all runs; those for which there is nothing are left out."""
    together = groups(runs)
    found: list[Chart] = []
    for metric in sorted({run.metric for run in runs}):
        own = {name: [run for run in members if run.metric == metric] for name, members in together.items()}
        found += [
            Chart("Learning curves", f"{title} {metric}", plots.curves(own, split, metric))
            for split, title in (("val", "Validation"), ("train", "Training"))
        ]
        shots = sorted({shots for run in runs for shots in shots_of(run)}, key=int)
        over: list[tuple[str, str, Callable[[SavedRun], Points]]] = [
            ("by inner steps", "inner steps", by_inner_steps),
            ("by shots", "support examples a class", by_shots),
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
    tested = [(run.name, run.results) for run in runs if run.results][:MOST_BARS]
    speeds = {name: results["speed"]["tasks_per_s"] for name, results in tested if results["speed"]["tasks_per_s"]}
    memory = {name: results["memory"]["host_peak_mb"] for name, results in tested}
    found.append(Chart(part, "Training speed", plots.bars(speeds, "tasks/s")))
    found.append(Chart(part, "Peak memory of the host", plots.bars(memory, "MB")))
    return [chart for chart in found if chart.svg is not None]


def shots_of(run: SavedRun) -> list[str]:
    """The numbers of shots with which the run was also tested by inner steps."""
    found = run.results or {"protocol": {"split": ""}}
    other = found.get(f"{found['protocol']['split']}_by_shots", {})
    return [shots for shots, one in other.items() if one["by_inner_steps"]]


def html(runs: list[SavedRun]) -> str:
    """The whole page. Whatever comes from runs is escaped; only the plots are put in as they are."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = charts(runs)
    return environment.get_template("page.html").render(
        runs=runs,
        summary=summary(runs),
        over_seeds=over_seeds(runs),
        differences=what_differs(runs),
        parts={part: [c for c in drawn if c.part == part] for part in dict.fromkeys(c.part for c in drawn)},
        closely=[closely(run) for run in runs[:CLOSELY]],
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


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
