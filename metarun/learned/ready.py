"""Learners that come with metarun, trained by one command each on data that anyone may use; `metarun ready` tells."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import metarun
from metarun.config import nearest
from metarun.learned.kept import TOLD

FOLDER = Path(metarun.__file__).parent / "ready"  # NAME/learner.json, NAME/params.safetensors: scripts/make_ready.py


class Ready(NamedTuple):
    """What is told of one."""

    name: str
    command: str  # that trained it
    metric: str
    test: dict[str, Any]  # the metric's mean and ci95
    by_shots: dict[str, dict[str, Any]]  # likewise, with other numbers of support examples a class
    note: str  # what it takes
    commit: str
    date: str
    ways: int | None  # of the test; None of a regression
    shots: str
    bytes: int


def place(name: str) -> Path | None:
    """Where the learner of this name is; None if there is none."""
    return FOLDER / name if name in names() else None


def names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{TOLD}"))


def nearest_name(name: str) -> str:
    return nearest(name, names())


def every() -> Iterable[Ready]:
    for name in names():
        told = json.loads((FOLDER / name / TOLD).read_text())
        tested = told["config"]["task"] | told["config"]["eval"]["task"]
        size = sum(path.stat().st_size for path in (FOLDER / name).iterdir())
        yield Ready(name, **told["ready"], ways=tested.get("ways"), shots=str(tested["shots"]), bytes=size)
