"""What a run's files must hold for the report; more may be in them. Each check raises ValueError, or KeyError."""

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from pydantic import (
    BaseModel,
    ConfigDict,
    StrictFloat,
    StrictInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from metarun.config import MOVED, flat
from metarun.run.figures import main_metric

Digits = Annotated[str, StringConstraints(pattern=r"^\d+$")]


class Figure(BaseModel):
    mean: StrictFloat | None  # null where it is not a number
    ci95: Annotated[StrictFloat, Ge(0)] | None = None


Figures = dict[str, Figure]


class OtherShots(BaseModel):
    figures: Figures
    by_inner_steps: dict[Digits, Figures]


class OnDomain(BaseModel):
    """A test on another domain."""

    figures: Figures
    by_inner_steps: dict[Digits, Figures]
    by_shots: dict[Digits, OtherShots]
    task: dict[str, Any]


class Tail(BaseModel):
    """How the worst tasks of a test fared."""

    metric: str
    level: StrictFloat
    worst: StrictFloat | None
    cvar: StrictFloat | None


class OfAGroup(Figure):
    tasks: StrictInt


class Groups(Tail):
    """How the groups of a test's tasks fared."""

    mean: StrictFloat | None
    worst_group: str
    each: dict[str, OfAGroup]
    measured: dict[str, dict[str, StrictFloat | None]] = {}


class ByStep(BaseModel):
    """How a test in trials went, by step; the three are of one length."""

    reward: list[Figure]
    random: list[StrictFloat]
    best: list[StrictFloat] | None

    @model_validator(mode="after")
    def _of_one_length(self) -> "ByStep":
        if len({len(each) for each in (self.reward, self.random, self.best or self.random)}) > 1:
            raise ValueError("its parts are not of one length")
        return self


class Tested(BaseModel):
    """The parts of results.json whose names begin with the split."""

    figures: Figures
    by_inner_steps: dict[Digits, Figures]
    by_shots: dict[Digits, OtherShots]


class Protocol(BaseModel):
    split: str
    metric: str | None = None  # older runs do not say


class Asked(Protocol):
    """The protocol of a test that is kept beside a run."""

    episodes: StrictInt
    seed: StrictInt
    task: dict[str, Any]
    learner: dict[str, Any]


class Training(BaseModel):
    command: str
    steps: StrictInt


class Speed(BaseModel):
    minutes: StrictFloat
    tasks_per_s: StrictFloat | None
    tflop: StrictFloat | None = None  # older runs do not say
    members: StrictInt = 1  # runs that one program made in these minutes


class Memory(BaseModel):
    host_peak_mb: StrictFloat | None = None
    device_peak_mb: StrictFloat | None = None


class Machine(BaseModel):
    device: str
    devices: int
    system: str


class Commit(BaseModel):
    id: str
    changed: bool


class Paper(BaseModel):
    source: str
    figures: dict[str, tuple[StrictFloat, StrictFloat | None]]


# The other parts of results.json; a report does without any of them.
PARTS: dict[str, Any] = {
    "training": Training,
    "speed": Speed,
    "memory": Memory,
    "machine": Machine,
    "versions": dict[str, str],
    "commit": Commit | None,
    "date": str,
}


# Those that older runs do not have.
SINCE: dict[str, Any] = {"paper": Paper | None, "tests": dict[str, OnDomain]}


class Row(BaseModel):
    """A row of metrics.jsonl."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, StrictFloat | None]
    step: StrictInt
    split: str


class Classes(BaseModel):
    """classes.json: see metarun.run.answers.ByClass."""

    classes: dict[str, tuple[StrictInt, StrictInt]]
    confusions: list[tuple[str, str, StrictInt]]


def results(found: Any) -> tuple[dict[str, Any], list[str]]:
    """The content of a results.json, without those parts that cannot be read; and their names."""
    split = Protocol.model_validate(found["protocol"]).split
    figures = {"figures": found.get(split), "by_inner_steps": found.get(f"{split}_by_inner_steps", {})}
    tested = Tested.model_validate({**figures, "by_shots": found.get(f"{split}_by_shots", {})})
    others = [after for other in tested.by_shots.values() for after in (other.figures, *other.by_inner_steps.values())]
    kinds: dict[str, type[BaseModel]] = {"tail": Tail, "groups": Groups, "by_step": ByStep}
    for part, kind in kinds.items():
        if found.get(f"{split}_{part}") is not None:
            kind.model_validate(found[f"{split}_{part}"])
    metric = main_metric(found)
    for measured in (tested.figures, *tested.by_inner_steps.values(), *others):
        if metric not in measured:
            raise ValueError(f"no {metric}")
    parts = PARTS | {name: kind for name, kind in SINCE.items() if name in found}
    lacking = [name for name, kind in parts.items() if name not in found or not fits(found[name], kind)]
    return {name: part for name, part in found.items() if name not in lacking}, lacking


def kept(found: Any) -> dict[str, Any]:
    """The content of a test that is kept beside a run."""
    Asked.model_validate(found["protocol"])
    content, lacking = results({name: part for name, part in found.items() if name not in PARTS})
    if wrong := set(lacking) - set(PARTS):
        raise ValueError(f"no {min(wrong)}")
    return content


def fits(found: Any, kind: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(found)
    except ValidationError:
        return False
    return True


def is_row(found: Any) -> bool:
    """Whether it is a row of a metrics.jsonl."""
    return fits(found, Row)


def classes(found: Any) -> dict[str, Any]:
    Classes.model_validate(found)
    return found


def settings(found: Any) -> dict[str, Any]:
    """The content of a config.yaml, flat. What has moved since the run was made is named as it is now."""
    config = flat(TypeAdapter(dict[str, Any]).validate_python(found))
    return {key: MOVED.get(value, value) if isinstance(value, str) else value for key, value in config.items()}


def examples(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of an examples.npz, episodes leading: see metarun.run.answers.keep."""
    if found["outputs"].ndim > 3:
        return trajectories(found)
    tasks, queries = found["query_y"].shape[:2]
    outputs, labels = found["outputs"], [found["support_y"], found["query_y"]]
    before, names = found.get("before", outputs), found.get("names")
    same = [array.dtype.kind in "fiu" for array in (found["support_x"], found["query_x"], outputs, before)]
    same += [found["query_x"].shape[:2] == (tasks, queries), outputs.shape[:2] == (tasks, queries), outputs.ndim == 3]
    same += [found["support_x"].shape[:2] == labels[0].shape[:2], len(labels[0]) == tasks]
    same += [found["support_x"].ndim == found["query_x"].ndim, labels[0].ndim == labels[1].ndim]
    same.append(before.shape == outputs.shape)
    same += [0 not in found["query_x"].shape and 0 not in found["support_x"].shape]
    places = [found[name] for name in ("index", "rank", "tested") if name in found]  # older runs have none of them
    same += [len(places) in (0, 3), *(one.shape == (tasks,) and one.dtype.kind in "iu" for one in places)]
    inverted = found.get("inverted", np.full(tasks, False))  # neither have they this
    same += [inverted.shape == (tasks,), inverted.dtype.kind == "b"]
    kinds = {array.dtype.kind for array in labels}
    if kinds == {"f"}:
        same.append(labels[1].shape == outputs.shape)
    else:
        same += [kinds <= {"i", "u"}, all(y.ndim == 2 and y.min() >= 0 and y.max() < outputs.shape[-1] for y in labels)]
        same.append(names is None or names.shape == (tasks, outputs.shape[-1]))
    if not all(same):
        raise ValueError("its arrays do not fit together")
    return found


def trajectories(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of an examples.npz of tasks that were acted in: see metarun.run.answers.keep_trajectories."""
    outputs, before = found["outputs"], found.get("before", found["outputs"])
    same = [outputs.dtype.kind == before.dtype.kind == "f", outputs.shape == before.shape, 0 not in outputs.shape]
    same += [found[name].shape[:2] == outputs.shape[:2] for name in ("query_x", "query_y")]
    places = [found[name] for name in ("index", "rank", "tested")]
    if not all([*same, *(one.shape == outputs.shape[:1] and one.dtype.kind in "iu" for one in places)]):
        raise ValueError("its arrays do not fit together")
    return found
