"""The report's tables: what the page and the markdown show. Accuracies are in per cent, as in the plots."""

from typing import Any, NamedTuple

import numpy as np

from metarun.report.experiments import Groups, differences, is_target, learner, short
from metarun.report.runs import SavedRun
from metarun.report.setups import but_test, no_ways, setup, setup_of
from metarun.run.figures import (
    MOST_GROUPS,
    figure_of,
    in_short,
    main_metric,
    minutes,
    papers,
    share,
    show,
    source,
)

# Columns of the summary that give way where a page is too narrow for all, the first one first.
LESSER = (
    "of the device", "peak MB", "tasks/s", "minutes", "paper", "metric", "test tasks", "inductive", "seed", "task",
    "shots", "ways", "meta-steps", "learner",
)  # fmt: skip
# Columns of the summary that are said once, above it, where all runs are alike in them.
ONCE = ("learner", "task", "ways", "shots", "test tasks", "metric")
WIDE = 120  # letters that a table has room for
AS_95 = 1.96  # standard deviations: a normal distribution's 95 %


class Cell(NamedTuple):
    """What a table shows, and by what it sorts: what is empty comes last."""

    text: str
    value: float | str


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[Cell]]

    def without(self, columns: set[str]) -> "Table":
        kept = [i for i, name in enumerate(self.columns) if name not in columns]
        return Table([self.columns[i] for i in kept], [[row[i] for i in kept] for row in self.rows])

    @property
    def letters(self) -> int:
        """How wide it is, roughly."""
        texts = [[cell.text for cell in row] for row in self.rows]
        return sum(max(map(len, column)) + 3 for column in zip(self.columns, *texts, strict=True))


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
        "run", "status", "learner", "task", "ways", "shots", "seed", "metric", "test, 95 % interval", "test tasks",
        "inductive", "paper", "meta-steps", "minutes", "tasks/s", "TFLOP", "peak MB", "of the device",
    ]  # fmt: skip
    table = Table(columns, [summary_row(run) for run in runs])
    return table.without({name for i, name in enumerate(columns) if not any(row[i].text for row in table.rows)})


def summary_row(run: SavedRun) -> list[Cell]:
    found, metric = run.results or {}, run.metric
    asked, speed, memory = run.config.get("train.steps"), run.part("speed"), run.part("memory")
    steps = f"{run.steps:,} of {asked:,}" if isinstance(asked, int) else f"{run.steps:,}"
    on = setup(run, "test")
    return [
        text(run.name),
        text(run.status),
        text(learner(run) if run.config else None),
        text(on.task if on.settings else None),
        number(on.number("ways")),
        number(on.number("shots")),
        value(run.config.get("train.seed")),
        text(metric),
        figure_cell(run, metric),
        number(tasks_tested(run)),
        figure_cell(run, f"{metric}_inductive"),
        text(papers(found, metric) or None),
        Cell(steps, float(run.steps)),
        number(taken := speed.get("minutes"), "" if taken is None else minutes(taken, speed.get("members", 1))),
        number(speed.get("tasks_per_s")),
        number(speed.get("tflop"), "{:.3g}"),
        number(memory.get("host_peak_mb")),
        number(memory.get("device_peak_mb")),
    ]


def tasks_tested(run: SavedRun) -> int | None:
    """How many tasks the run was tested on; None as long as it was not."""
    episodes = run.part("protocol").get("episodes")
    return episodes if isinstance(episodes, int) and not isinstance(episodes, bool) else None


def alike(table: Table) -> dict[str, str]:
    """What all rows of a summary have in common, by column; a damaged run does not count."""
    status = table.columns.index("status")
    known = [row for row in table.rows if row[status].text != "damaged"]
    if len(known) < 2:
        return {}
    found = {}
    for i, name in enumerate(table.columns):
        texts = {row[i].text for row in known if row[i].text or name not in ("test tasks", "metric")}
        if name in ONCE and len(texts) == 1 and texts != {""}:
            found[name] = texts.pop()
    return found


def figure_cell(run: SavedRun, metric: str) -> Cell:
    figure = figure_of(run.results, metric) if run.results else None
    if run.results is None or figure is None:
        return text(None)
    return shown(metric, figure, run.results["protocol"]["split"])


def shown(metric: str, figure: dict[str, Any], split: str) -> Cell:
    return Cell(show(metric, figure) + but_test(split), "" if figure["mean"] is None else figure["mean"])


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


def elsewhere(runs: list[SavedRun]) -> Table | None:
    """A row for each run that was tested on other domains, a column for each of these; None if there is none.

    Figures of a domain stand in one column if they are of the same ways and shots.
    """
    found: dict[str, dict[str, Cell]] = {}
    for run in runs:
        for name, test in run.part("tests").items():
            by_shots = {test["task"].get("shots"): test["figures"]}
            by_shots |= {int(shots): other["figures"] for shots, other in test["by_shots"].items()}
            for shots, figures in by_shots.items():
                words = setup_of(test["task"] | {"shots": shots}, no_ways(run)).words
                column = words if words.startswith(f"{name},") else f"{name} ({words})"
                if (figure := figures.get(run.metric)) is not None:
                    found.setdefault(run.name, {})[column] = shown(run.metric, figure, run.part("protocol")["split"])
    columns = list(dict.fromkeys(column for cells in found.values() for column in cells))
    tested = [run for run in runs if run.name in found]
    for_what = [setup(run, "test")._replace(split="").words for run in tested]
    own = [[text(run.name), text(of), figure_cell(run, run.metric)] for run, of in zip(tested, for_what, strict=True)]
    every = [[found[run.name].get(column, text(None)) for column in columns] for run in tested]
    rows = [[*mine, *others] for mine, others in zip(own, every, strict=True)]
    return Table(["run", "trained for", "there", *columns], rows) if rows else None


def tails(runs: list[SavedRun]) -> Table | None:
    """A row for each run that tells of its worst tasks beside the mean, and of its groups of tasks; None without any.

    Runs that tell of other shares of the worst are in other columns.
    """
    rows: list[dict[str, Cell]] = []
    for run in runs:
        tail, groups = run.tested("tail"), run.tested("groups")
        if not tail:
            continue
        row = {"run": text(run.name), "mean": figure_cell(run, run.metric)}
        row |= {"worst task": figure_cell(run, f"{run.metric}_worst")}
        row |= {f"worst {share(tail)} of tasks": figure_cell(run, f"{run.metric}_cvar")}
        if groups:
            row |= {"groups": number(len(groups["each"])), "mean of groups": figure_cell(run, f"{run.metric}_groups")}
            row |= {"worst group": figure_cell(run, f"{run.metric}_groups_worst")}
            row |= {"it is": text(groups["worst_group"])}
            row |= {f"worst {share(groups)} of groups": figure_cell(run, f"{run.metric}_groups_cvar")}
        rows.append(row)
    return in_columns(rows)


def by_group(runs: list[SavedRun]) -> Table | None:
    """A row for each run whose test has a few groups of tasks, a column for each of these; None if there is none."""
    rows = []
    for run in runs:
        each = (run.tested("groups") or {}).get("each", {})
        if 0 < len(each) <= MOST_GROUPS:
            split = run.part("protocol")["split"]
            figures = {name: shown(run.metric, one, split) for name, one in each.items()}
            rows.append({"run": text(run.name), "of": text(run.metric)} | figures)
    return in_columns(rows)


def in_columns(rows: list[dict[str, Cell]]) -> Table | None:
    """Rows by the names of their columns as a table; None of none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, [[row.get(name, text(None)) for name in columns] for row in rows]) if rows else None


def kept(runs: list[SavedRun]) -> Table | None:
    """A row for each test of another protocol that is kept beside a run; None if there is none."""
    rows = [
        [text(run.name), text(name), text(in_short(found["protocol"])), Cell(*of_a_test(found))]
        for run in runs
        for name, found in run.kept.items()
    ]
    return Table(["run", "kept test", "tested on", "figure, 95 % interval"], rows) if rows else None


def of_a_test(found: dict[str, Any]) -> tuple[str, float | str]:
    """The main figure, as it is shown and by what it sorts."""
    metric = main_metric(found)
    figure: dict[str, Any] = figure_of(found, metric) or {"mean": None}
    return show(metric, figure), "" if figure["mean"] is None else figure["mean"]


def whys(runs: list[SavedRun]) -> Table | None:
    """A row for each run that did not end as it should, and why; None if there is none."""
    rows = [[text(run.name), text(run.status), text(run.why)] for run in runs if run.why]
    return Table(["run", "status", "why"], rows) if rows else None


class OverSeeds(NamedTuple):
    """What the seeds of an experiment reached, in the unit of results.json: accuracies are from 0 to 1."""

    metric: str
    seeds: int  # a seed that was run twice counts once, with its mean
    mean: float | None  # None if a seed's figure is no number: a mean of the others would be of other seeds
    std: float | None  # over seeds, of the mean over tasks; n - 1 in the denominator
    ci95: float | None  # over tasks: the mean of the seeds' intervals


def of_seeds(members: list[SavedRun]) -> OverSeeds | None:
    """None unless two seeds of the experiment have a figure: one that was stopped is left out of account."""
    metric = next((run.metric for run in members if run.results), "")
    found: dict[str, list[dict[str, float]]] = {}
    for run in members:
        figure = figure_of(run.results, metric) if run.results else None
        if figure:
            found.setdefault(str(run.config.get("train.seed")), []).append(figure)
    if len(found) < 2:
        return None
    if any(figure["mean"] is None for figures in found.values() for figure in figures):
        return OverSeeds(metric, len(found), None, None, None)
    means = [np.mean([figure["mean"] for figure in figures]) for figures in found.values()]
    intervals = [ci95 for figures in found.values() for figure in figures if (ci95 := figure.get("ci95")) is not None]
    ci95 = float(np.mean(intervals)) if intervals else None
    return OverSeeds(metric, len(found), float(np.mean(means)), float(np.std(means, ddof=1)), ci95)


def spread(seeds: OverSeeds) -> Cell:
    return text(None) if seeds.std is None else Cell(show(seeds.metric, {"mean": seeds.std}), seeds.std)


def over_seeds(together: Groups) -> Table | None:
    """A row for each experiment that was run with several seeds: their mean and their standard deviation."""
    rows = []
    for name, members in together.items():
        if (found := of_seeds(members)) is not None:
            mean = shown(found.metric, {"mean": found.mean}, "test")
            std, half, ci95 = spread(found), text(None), found.ci95
            if ci95 is not None:
                half = Cell(f"± {show(found.metric, {'mean': ci95})}", ci95)
            tested_on = text(setup(members[0], "test").words)
            rows.append([text(name), tested_on, number(found.seeds), mean, std, half])
    columns = ["experiment", "tested on", "seeds", "mean over seeds", "std over seeds", "95 % interval over tasks"]
    return Table(columns, rows) if rows else None


def what_differs(runs: list[SavedRun]) -> Table | None:
    """The settings in which the runs are not all alike; None if there are none.

    A row for each run, or for each setting, where that fits better.
    """
    known = [run for run in runs if run.config]
    keys = differences(known)
    if len(known) < 2 or not keys:
        return None
    each = [
        [
            text(short(run.config[key])) if is_target(key) and key in run.config else value(run.config.get(key))
            for key in keys
        ]
        for run in known
    ]
    upright = Table(["run", *keys], [[text(run.name), *row] for run, row in zip(known, each, strict=True)])
    across = [[text(key), *column] for key, column in zip(keys, zip(*each, strict=True), strict=True)]
    transposed = Table(["setting", *(run.name for run in known)], across)
    return upright if upright.letters <= max(WIDE, transposed.letters) else transposed


def by_class(classes: dict[str, tuple[int, int]]) -> Table:
    """How the classes of a test fared, those first that are surely bad: one query that is wrong says little."""
    worst = sorted(classes.items(), key=lambda item: (at_most(*item[1]), item[0]))
    rows = [
        [text(name), number(100 * right / asked if asked else None, "{:.0f} %"), number(right), number(asked)]
        for name, (right, asked) in worst
    ]
    return Table(["class", "accuracy", "right", "queries"], rows)


def confused(confusions: list[tuple[str, str, int]], most: int = 20) -> Table:
    return Table(["class", "taken for", "times"], [[text(a), text(b), number(n)] for a, b, n in confusions[:most]])


def at_most(right: int, asked: int) -> float:
    """The upper end of Wilson's 95 % interval for the accuracy of a class (Wilson 1927): 1 without queries."""
    if asked <= 0:
        return 1.0
    share, z2 = right / asked, AS_95**2
    half = AS_95 * np.sqrt(max(0.0, share * (1 - share) / asked + z2 / (4 * asked**2)))
    return float((share + z2 / (2 * asked) + half) / (1 + z2 / asked))
