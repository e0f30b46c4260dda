"""What a run's files must hold for the report; more may be in them. Each check raises ValueError, or KeyError."""

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, StrictInt, StringConstraints, TypeAdapter

Digits = Annotated[str, StringConstraints(pattern=r"^\d+$")]


class Figure(BaseModel):
    mean: float | None  # null where it is not a number
    ci95: float | None = None


Figures = dict[str, Figure]


class OtherShots(BaseModel):
    figures: Figures
    by_inner_steps: dict[Digits, Figures]


class Tested(BaseModel):
    """The parts of results.json whose names begin with the split."""

    figures: Figures
    by_inner_steps: dict[Digits, Figures]
    by_shots: dict[Digits, OtherShots]


class Protocol(BaseModel):
    split: str


class Training(BaseModel):
    command: str


class Speed(BaseModel):
    minutes: float
    tasks_per_s: float | None


class Memory(BaseModel):
    host_peak_mb: float


class Machine(BaseModel):
    device: str
    devices: int
    system: str


class Commit(BaseModel):
    id: str
    changed: bool


class Paper(BaseModel):
    source: str
    figures: dict[str, tuple[float, float | None]]


class Results(BaseModel):
    """The other parts of results.json."""

    protocol: Protocol
    training: Training
    speed: Speed
    memory: Memory
    machine: Machine
    versions: dict[str, str]
    commit: Commit | None
    date: str
    paper: Paper | None = None


class Row(BaseModel):
    """A row of metrics.jsonl."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]
    step: StrictInt
    split: str


class Classes(BaseModel):
    """classes.json: see metarun.answers.ByClass."""

    classes: dict[str, tuple[int, int]]
    confusions: list[tuple[str, str, int]]


ROWS = TypeAdapter(list[Row])


def results(found: Any) -> dict[str, Any]:
    """The content of a results.json."""
    split = Results.model_validate(found).protocol.split
    parts = {"figures": found.get(split), "by_inner_steps": found.get(f"{split}_by_inner_steps", {})}
    tested = Tested.model_validate({**parts, "by_shots": found.get(f"{split}_by_shots", {})})
    others = [after for other in tested.by_shots.values() for after in (other.figures, *other.by_inner_steps.values())]
    metric = "accuracy" if "accuracy" in tested.figures else "mse"
    for figures in (tested.figures, *tested.by_inner_steps.values(), *others):
        if metric not in figures:
            raise ValueError(f"no {metric}")
    return found


def rows(found: Any) -> list[dict[str, Any]]:
    ROWS.validate_python(found)
    return found


def classes(found: Any) -> dict[str, Any]:
    Classes.model_validate(found)
    return found


def settings(found: Any) -> dict[str, Any]:
    """The content of a config.yaml."""
    return TypeAdapter(dict[str, Any]).validate_python(found)


def examples(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of an examples.npz, episodes leading: see metarun.answers.keep."""
    tasks, queries = found["query_y"].shape[:2]
    outputs, names = found["outputs"], found.get("names")
    same = [found["query_x"].shape[:2] == (tasks, queries), outputs.shape[:2] == (tasks, queries), outputs.ndim == 3]
    same += [found["support_x"].shape[:2] == found["support_y"].shape[:2], len(found["support_y"]) == tasks]
    same += [found["before"].shape == outputs.shape] if "before" in found else []
    if found["query_y"].dtype.kind != "f":
        labels = np.concatenate([found["support_y"], found["query_y"]], axis=1)
        same += [labels.ndim == 2, labels.min() >= 0, labels.max() < outputs.shape[-1]]
        same += [names.shape == (tasks, outputs.shape[-1])] if names is not None else []
    if not all(same):
        raise ValueError("its arrays do not fit together")
    return found
