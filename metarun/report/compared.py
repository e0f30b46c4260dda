"""Tests of many runs in one table, the best first, with the seeds of an experiment together."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarun.core import rises
from metarun.report import shapes
from metarun.report.experiments import groups
from metarun.report.runs import SavedRun, read
from metarun.report.tables import Cell, OverSeeds, Table, figure_cell, of_seeds, shown, spread, text
from metarun.run.figures import figure_of, in_short


class Tested(NamedTuple):
    """A run's configuration, and what a test of it found: the content of its results.json, but for training."""

    config: dict[str, Any]
    found: dict[str, Any]


class Compared(NamedTuple):
    """Tests by experiment: the best experiment first, and in each its best run."""

    table: Table
    in_common: str  # what all figures are of, in words; nothing if that differs: the table has it then
    order: list[Path]
    experiments: list[dict[str, Any]]  # name, runs, and with two seeds or more what they reached


def compared(tests: Mapping[Path, Tested]) -> Compared:
    """Runs by their directories. Runs that differ in their seeds alone are an experiment."""
    runs = [
        dataclasses.replace(
            run,
            status="finished",
            config=shapes.settings(tests[run.path].config),
            results=tests[run.path].found,
        )
        for run in read(tests)
    ]
    together = [(name, sorted(members, key=place), of_seeds(members)) for name, members in groups(runs).items()]
    together.sort(key=lambda each: place_of_mean(each[1], each[2]))
    rows: list[list[Cell]] = []
    for name, members, seeds in together:
        if seeds is not None:
            rows.append(gathered(name, members[0], seeds))
        rows += [row_of(run, f"  {run.name}" if seeds else run.name) for run in members]
    protocols = {in_short(run.part("protocol")) for run in runs}
    columns = ["run", "seed", "test, 95 % interval", "std over seeds", "inductive", "state", "tested on"]
    table = Table(columns, rows)
    empty = {name for i, name in enumerate(columns) if not any(row[i].text for row in rows)}
    return Compared(
        table.without(empty | ({"tested on"} if len(protocols) == 1 else set())),
        protocols.pop() if len(protocols) == 1 else "",
        [run.path for _, members, _ in together for run in members],
        [
            {
                "name": name,
                "runs": [tests[run.path].found["run"]["dir"] for run in members],
                "over_seeds": None if seeds is None else seeds._asdict(),
            }
            for name, members, seeds in together
        ],
    )


def row_of(run: SavedRun, name: str) -> list[Cell]:
    state = run.part("state")
    return [
        Cell(name, name),
        text(run.config.get("train.seed")),
        figure_cell(run, run.metric),
        text(None),
        figure_cell(run, f"{run.metric}_inductive"),
        text(f"{state['state']}, {state['step']:,}"),
        text(in_short(run.part("protocol"))),
    ]


def gathered(name: str, run: SavedRun, seeds: OverSeeds) -> list[Cell]:
    """The row of an experiment's seeds, `run` being one of them."""
    return [
        text(name),
        text(f"{seeds.seeds} seeds"),
        shown(seeds.metric, {"mean": seeds.mean, "ci95": seeds.ci95}, "test"),
        spread(seeds),
        text(None),
        text(None),
        text(in_short(run.part("protocol"))),
    ]


def place(run: SavedRun) -> tuple[str, float]:
    """Where a run stands: accuracies first, the highest of them; of errors the lowest; what is no number last."""
    figure = figure_of(run.results or {}, run.metric) or {}
    return in_order(run.metric, figure.get("mean"))


def place_of_mean(members: list[SavedRun], seeds: OverSeeds | None) -> tuple[str, float]:
    return place(members[0]) if seeds is None else in_order(seeds.metric, seeds.mean)


def in_order(metric: str, mean: float | None) -> tuple[str, float]:
    if mean is None or mean != mean:
        return metric, float("inf")
    return metric, -mean if rises(metric) else mean
