"""What a run's learner is for: the examples that it takes and what it answers, kept with the run as purpose.json.

With it the learner can be used where the run's data are not.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from metarun import engine
from metarun.config.learned import built
from metarun.core import DataError, Prepares, PyTree, Tasks
from metarun.files import write_atomically
from metarun.text import first_line

FILE = "purpose.json"


class Purpose(NamedTuple):
    """Of the tasks that a learner was trained on."""

    shape: tuple[int, ...]  # of one example, as the model sees it
    dtype: str
    metric: str  # "accuracy" or "mse"
    n_out: int  # ways, or the targets' dimension
    prepares: Any  # what makes such an example of a file, a text or a row: see core.Prepares; None: arrays are given


def purpose_of(tasks: Tasks, data: PyTree) -> Purpose:
    """Of tasks whose training data these are. Traces only."""
    example = engine.input_of(tasks, data)
    prepares = tasks.prepares if isinstance(tasks, Prepares) else None
    return Purpose(example.shape, str(example.dtype), tasks.metric, tasks.n_out, prepares)


def keep(directory: Path, purpose: Purpose) -> None:
    write_atomically(directory / FILE, json.dumps(as_json(purpose), indent=2) + "\n")


def as_json(purpose: Purpose) -> dict[str, Any]:
    return purpose._asdict() | {"prepares": described(purpose.prepares)}


def described(part: Any) -> Any:
    """A component as the values of a configuration, its `_target_` among them."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return [described(one) for one in part] if isinstance(part, tuple) else part
    fields = {field.name: described(getattr(part, field.name)) for field in dataclasses.fields(part)}
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **fields}


def read(directory: Path) -> Purpose | None:
    """What `keep` left in a run's directory; None where an earlier version did not. Raises DataError."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        return of_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}); remove it if the run's data are there") from error


def of_json(values: dict[str, Any]) -> Purpose:
    """The reverse of `as_json`. Raises KeyError, TypeError, ConfigError."""
    prepares = None if values["prepares"] is None else built("prepares", values["prepares"])
    shape = tuple(int(n) for n in values["shape"])
    return Purpose(shape, str(values["dtype"]), str(values["metric"]), int(values["n_out"]), prepares)
