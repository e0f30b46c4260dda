"""Runs as their directories tell of them: finished, running, stopped, failed or old. What is missing is named."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from metarun.conf import flat
from metarun.core import DataError
from metarun.figures import main_metric
from metarun.log import read_rows

# Settings in which two runs of the same experiment may differ.
NOT_THE_EXPERIMENT = ("train.seed", "run.", "logger.", "data_dir", "task.data_dir")


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
        """What sums the run up: accuracy or mse."""
        if self.results is not None:
            return main_metric(self.results)
        return "accuracy" if any("accuracy" in row for row in self.rows) else "mse"

    @property
    def steps(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def experiment(self) -> tuple[tuple[str, str], ...]:
        """What runs of the same experiment have in common: all but the seed and where it was run."""
        return tuple((k, str(v)) for k, v in sorted(self.config.items()) if not k.startswith(NOT_THE_EXPERIMENT))


def find(paths: Sequence[Path]) -> list[Path]:
    """The runs at `paths` and anywhere below them. Raises DataError for a path with none."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise DataError(f"{path}: no such directory; name a run's, or one that holds runs")
        here = (
            [path] if is_run(path) else sorted(file.parent for file in path.rglob("config.yaml") if is_run(file.parent))
        )
        if not here:
            raise DataError(f"{path}: holds no run (no config.yaml)")
        found += [run for run in here if run not in found]
    return found


def is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and path.name != ".hydra" and not (path / "hydra.yaml").exists()


def read(paths: Iterable[Path]) -> list[SavedRun]:
    """The runs at `paths`, named by where their paths differ. Nothing that is damaged raises."""
    paths = [path.resolve() for path in paths]
    common = Path(*common_start([path.parts for path in paths])) if len(paths) > 1 else paths[0].parent
    return [read_one(path, str(path.relative_to(common))) for path in paths]


def common_start(paths: list[tuple[str, ...]]) -> list[str]:
    same = [parts for parts in zip(*(path[:-1] for path in paths), strict=False) if len(set(parts)) == 1]
    start = []
    for parts, other in zip(zip(*(path[:-1] for path in paths), strict=False), same, strict=False):
        if parts != other:
            break
        start.append(parts[0])
    return start


def read_one(path: Path, name: str) -> SavedRun:
    missing: list[str] = []

    def part(file: str, load: Any, why: str) -> Any:
        try:
            return load(path / file)
        except FileNotFoundError:
            missing.append(f"no {file}{why}")
        except Exception as error:  # a damaged file may raise anything
            missing.append(f"{file} cannot be read ({type(error).__name__})")
        return None

    config = part("config.yaml", lambda file: flat(yaml.load(file.read_text(), LOADER)), "")
    rows = part("metrics.jsonl", read_rows, ": no row was logged yet")
    results = part("results.json", read_results, ": not finished")
    finished = results is not None
    classes = part("classes.json", lambda file: json.loads(file.read_text()), "") if finished else None
    examples = part("examples.npz", read_arrays, ": of an older metarun") if finished else None
    if classes is None:  # tasks without named classes have none
        missing = [line for line in missing if not line.startswith("no classes.json")]
    if finished:
        status = "finished"
    elif is_locked(path):
        status = "running"
    else:
        status = "not a number" if (path / "nonfinite").exists() else "stopped"
    return SavedRun(path, name, status, config or {}, results, rows or [], classes, examples, missing)


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_results(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text())
    main_metric(found)
    return found


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def is_locked(path: Path) -> bool:
    if not (path / ".lock").exists():
        return False
    try:
        with FileLock(path / ".lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def groups(runs: Iterable[SavedRun]) -> dict[str, list[SavedRun]]:
    """Runs of the same experiment, which differ in their seeds, together; named by their first."""
    by_experiment: dict[Any, list[SavedRun]] = {}
    for run in runs:
        by_experiment.setdefault(run.experiment, []).append(run)
    return {members[0].name: members for members in by_experiment.values()}


def differences(runs: Sequence[SavedRun]) -> list[str]:
    """The settings in which the runs are not all alike."""
    keys = sorted({key for run in runs for key in run.config})
    return [
        key
        for key in keys
        if key not in ("run.dir", "run.name") and len({str(run.config.get(key, "")) for run in runs}) > 1
    ]
