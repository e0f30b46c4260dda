"""Runs as their directories tell of them: finished, running, stopped, failed or old. What is missing is named."""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from metarun.config import flat
from metarun.core import DataError
from metarun.report import shapes
from metarun.run.figures import main_metric
from metarun.run.record import is_taken, read_rows
from metarun.text import first_line, one_line

# Settings in which two runs of the same experiment may differ.
NOT_THE_EXPERIMENT = (
    "train.seed",
    "run.",
    "logger.",
    "data_dir",
    "task.data_dir",
    "hardware.devices",
    "hardware.task_chunk",
)
MOST_SAID, MOST_SHOWN = 4, 24  # settings in an experiment's name, and letters of a value


@dataclass(frozen=True)
class SavedRun:
    """What a run's directory holds. Each part is None, or empty, if it is not there or cannot be read."""

    path: Path
    name: str  # short, and different from the other runs'
    status: str  # finished, running, not a number, or stopped
    config: dict[str, Any]  # flat: {"train.steps": 3000, ...}
    results: dict[str, Any] | None
    rows: list[dict[str, Any]]  # of metrics.jsonl
    classes: dict[str, Any] | None
    examples: dict[str, np.ndarray] | None
    missing: list[str] = field(default_factory=list)  # in words

    @property
    def metric(self) -> str:
        """What sums the run up: accuracy or mse, say; nothing as long as nothing is known."""
        if self.results is not None:
            return main_metric(self.results)
        return next((metric for metric in ("accuracy", "mse", "loss") if any(metric in row for row in self.rows)), "")

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

    @property
    def experiment(self) -> tuple[tuple[str, str], ...]:
        """What runs of the same experiment have in common: all but the seed and where it was run."""
        if not self.config:
            return (("path", str(self.path)),)
        left_out = NOT_THE_EXPERIMENT  # nor what is null, which an older run may not have
        return tuple(
            (k, str(v)) for k, v in sorted(self.config.items()) if v is not None and not k.startswith(left_out)
        )


def find(paths: Sequence[Path]) -> list[Path]:
    """The runs at `paths` and anywhere below them. A path with none is named; raises DataError if there is no other."""
    found: list[Path] = []
    wrong: list[DataError] = []
    for path in paths:
        try:
            found += [run for run in below(path) if run not in found]
        except DataError as error:
            wrong.append(error)
    if wrong and not found:
        raise wrong[0]
    for said in wrong:
        print(f"metarun: {one_line(said)}; left out", file=sys.stderr)
    return found


def below(path: Path) -> list[Path]:
    if not path.is_dir():
        what = "is no directory" if path.exists() else "no such directory"
        raise DataError(f"{path}: {what}; name a run's, or one that holds runs")
    here = [path] if is_run(path) else sorted(file.parent for file in path.rglob("config.yaml") if is_run(file.parent))
    if not here:
        raise DataError(f"{path}: holds no run (no config.yaml)")
    return [run.resolve() for run in here]


def is_run(path: Path) -> bool:
    """Whether it has a run's config.yaml: Hydra and W&B have files of that name, too."""
    of_wandb = path.name == "files" and path.parent.parent.name == "wandb"
    others = path.name == ".hydra" or (path / "hydra.yaml").exists() or of_wandb
    return (path / "config.yaml").is_file() and not others


def read(paths: Iterable[Path]) -> list[SavedRun]:
    """The runs at `paths`, named by where their paths differ. Nothing that is damaged raises."""
    paths = list(paths)
    common = os.path.commonpath([path.parent for path in paths])
    return [read_one(path, as_text(path.relative_to(common))) for path in paths]


def as_text(path: Path | str) -> str:
    """A path, or what holds one, as text: it may have bytes that are none, which Python keeps as lone surrogates."""
    return re.sub("[\ud800-\udfff]", "\ufffd", str(path))


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

    config = part("config.yaml", lambda file: flat(shapes.settings(yaml.load(file.read_text(), LOADER))), "")
    every = part("metrics.jsonl", read_rows, ": no row was logged yet") or []
    rows = [row for row in every if shapes.is_row(row)]
    if len(rows) < len(every):
        missing.append(f"{len(every) - len(rows)} rows of metrics.jsonl cannot be read")
    readable = part("results.json", lambda file: shapes.results(json.loads(file.read_text())), ": not finished")
    results, lacking = readable or (None, [])
    missing += [f"results.json has no {name} that can be read" for name in lacking]
    finished = (path / "results.json").exists()
    classes = None
    if (path / "classes.json").exists():  # only tasks with named classes have them
        classes = part("classes.json", lambda file: shapes.classes(json.loads(file.read_text())), "")
    examples = part("examples.npz", read_examples, ": none were kept") if finished else None
    if finished:
        status = "finished"
    elif is_taken(path):
        status = "running"
    else:
        status = "not a number" if (path / "nonfinite").exists() else "stopped"
    return SavedRun(path, name, status, config or {}, results, rows, classes, examples, missing)


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return f"{type(error).__name__}: {first_line(error)}"


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_examples(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return shapes.examples(dict(arrays))


def groups(runs: Iterable[SavedRun]) -> dict[str, list[SavedRun]]:
    """Runs of the same experiment, which differ in their seeds, together; named by their first."""
    by_experiment: dict[Any, list[SavedRun]] = {}
    for run in runs:
        by_experiment.setdefault(run.experiment, []).append(run)
    firsts = [members[0] for members in by_experiment.values()]
    left_out = (*NOT_THE_EXPERIMENT, "suggested", "paper")
    keys = [key for key in differences(firsts) if not key.startswith(left_out)]
    values: dict[tuple[str, str], set[str]] = {}
    for run in firsts:
        for key in keys:
            values.setdefault((key, target_of(run, key)), set()).add(str(run.config.get(key)))
    varying = {which for which, found in values.items() if len(found) > 1}
    return {called(members[0], keys, varying): members for members in by_experiment.values()}


def called(run: SavedRun, keys: list[str], varying: set[tuple[str, str]]) -> str:
    """An experiment's name: its run's, and if that is a number, as in a sweep, also the settings that set it apart.

    These are the choices of groups among `keys`, and the settings that are `varying` among runs with the same choices.
    """
    if not run.path.name.isdigit():
        return run.name
    said = [short(run.config[key]) for key in keys if key.count(".") == 1 and is_target(key) and key in run.config]
    said += [
        f"{key.split('.')[-1]}={str(run.config[key])[:MOST_SHOWN]}"
        for key in keys
        if key in run.config and not is_target(key) and (key, target_of(run, key)) in varying
    ]
    return f"{', '.join(said[:MOST_SAID])} ({run.name})" if said else run.name


def is_target(key: str) -> bool:
    return key.endswith("._target_")


def target_of(run: SavedRun, key: str) -> str:
    """The choice of the group that a setting belongs to."""
    return str(run.config.get(f"{key.partition('.')[0]}._target_"))


def short(target: object) -> str:
    """`metarun.learners.maml.MAML` -> `maml`, `optax.adam` -> `adam`."""
    parts = str(target or "?").split(".")
    return parts[-1] if len(parts) == 1 or parts[-1].islower() else parts[-2]


def differences(runs: Sequence[SavedRun]) -> list[str]:
    """The settings in which the runs are not all alike."""
    keys = sorted({key for run in runs for key in run.config})
    return [
        key
        for key in keys
        if key not in ("run.dir", "run.name") and len({str(run.config.get(key)) for run in runs}) > 1
    ]
