"""Runs as their directories tell of them, whole or not. What is missing is named; nothing that is damaged raises."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from metarun.files import read_yaml
from metarun.report import shapes
from metarun.report.paths import names
from metarun.report.status import IN_ORDER, status
from metarun.run.figures import main_metric
from metarun.run.record import read_rows
from metarun.text import first_line, one_line

NEEDED = ("config.yaml", "results.json")  # a run of which one of them cannot be read is damaged


@dataclass(frozen=True)
class SavedRun:
    """What a run's directory holds. Each part is None, or empty, if it is not there or cannot be read."""

    path: Path
    name: str  # short, and different from the other runs'
    status: str  # one of status.IN_ORDER
    why: str  # it is so, in words, where that is not plain
    config: dict[str, Any]  # flat: {"train.steps": 3000, ...}
    results: dict[str, Any] | None
    rows: list[dict[str, Any]]  # of metrics.jsonl
    classes: dict[str, Any] | None
    examples: dict[str, np.ndarray] | None
    missing: list[str] = field(default_factory=list)  # in words
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)  # tests of other protocols, by their names

    @property
    def metric(self) -> str:
        """What sums the run up: accuracy or mse, say; nothing as long as nothing is known."""
        if self.results is not None:
            return main_metric(self.results)
        return next(
            (metric for metric in ("accuracy", "return", "mse", "loss") if any(metric in row for row in self.rows)), ""
        )

    def tested(self, part: str = "") -> dict[str, Any]:
        """The test's figures, or those "by_inner_steps" or "by_shots"; empty if there are none."""
        if self.results is None:
            return {}
        return self.results.get("_".join(filter(None, [self.results["protocol"]["split"], part])), {})

    @property
    def steps(self) -> int:
        return self.rows[-1]["step"] if self.rows else self.part("training").get("steps", 0)

    def part(self, name: str) -> dict[str, Any]:
        """A part of results.json; empty if it is not there."""
        return (self.results or {}).get(name) or {}


def read(paths: Iterable[Path]) -> list[SavedRun]:
    """The runs at `paths`, named by where their paths differ: the finished ones first, the damaged ones last."""
    paths = list(paths)
    runs = [read_one(path, name) for path, name in zip(paths, names(paths), strict=True)]
    return sorted(runs, key=lambda run: IN_ORDER.index(run.status))


def read_one(path: Path, name: str) -> SavedRun:
    missing: list[str] = []

    def part(file: str, load: Any, why: str) -> Any:
        try:
            return load(path / file)
        except FileNotFoundError:
            missing.append(f"no {file}{why}")
        except Exception as error:  # a damaged file may raise anything
            missing.append(f"{file} cannot be read ({reason(error)})")
        return None

    config = part("config.yaml", lambda file: shapes.settings(read_yaml(file)), "") or {}
    every = part("metrics.jsonl", read_rows, ": no row was logged yet") or []
    rows = [row for row in every if shapes.is_row(row)]
    if len(rows) < len(every):
        missing.append(f"{len(every) - len(rows)} rows of metrics.jsonl cannot be read")
    readable = part("results.json", lambda file: shapes.results(json.loads(file.read_text())), ": not finished")
    results, lacking = readable or (None, [])
    missing += [f"results.json has no {name} that can be read" for name in lacking]
    classes = None
    if (path / "classes.json").exists():  # only tasks with named classes have them
        classes = part("classes.json", lambda file: shapes.classes(json.loads(file.read_text())), "")
    examples = None
    if (path / "results.json").exists():
        examples = part("examples.npz", read_examples, ": none were kept")
    kept: dict[str, dict[str, Any]] = {}
    for test in sorted(path.glob("tests/*.json")):
        found = part(f"tests/{test.name}", lambda file: shapes.kept(json.loads(file.read_text())), "")
        kept |= {} if found is None else {test.stem: found}
    unreadable = [line for line in missing if line.startswith(tuple(f"{file} cannot" for file in NEEDED))]
    stands = status(path, unreadable, max((row["step"] for row in rows), default=0))
    return SavedRun(path, name, stands.name, stands.why, config, results, rows, classes, examples, missing, kept)


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return f"{type(error).__name__}: {first_line(error)}"


def read_examples(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return shapes.examples(dict(arrays))
