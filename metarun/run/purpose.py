"""What a run's learner is for: the examples that it takes and what it answers, kept with the run as purpose.json.

With it the learner can be used where the run's data are not.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarun import engine
from metarun.config.learned import built
from metarun.core import ConfigError, DataError, Prepares, PyTree, Tasks
from metarun.files import write_atomically
from metarun.text import first_line

FILE = "purpose.json"
Told = dict[str, Any]  # a purpose in JSON


class Purpose(NamedTuple):
    """Of the tasks that a learner was trained on."""

    shape: tuple[int, ...]  # of one example, as the model sees it
    dtype: str
    metric: str  # "accuracy", "mse" or "return": see core.Tasks
    n_out: int  # ways, or the targets' dimension
    prepares: Any  # what makes such an example of a file, a text or a row: see core.Prepares; None: arrays are given
    data: dict[str, list[str | None]] | None = None  # of the splits it is learned from, digests: see `here`


def purpose_of(tasks: Tasks, data: PyTree) -> Purpose:
    """Of tasks whose training data these are. Traces only."""
    example = engine.input_of(tasks, data)
    prepares = tasks.prepares if isinstance(tasks, Prepares) else None
    return Purpose(example.shape, str(example.dtype), tasks.metric, tasks.n_out, prepares)


def here(
    tasks: Tasks, train: PyTree, separate: Mapping[str, Any] | None = None, validation: Tasks | None = None
) -> Purpose:
    """The purpose of a run whose training data these are, with its data's digests.

    Of each split those of its classes, by `Tasks.digest`, and of its examples, if `separation` has compared them.
    """
    every = {"train": tasks} if validation is None else {"train": tasks, "val": validation}
    contents = {} if separate is None else separate["contents"]
    data = {split: [of_split.digest(split), contents.get(split)] for split, of_split in every.items()}
    return purpose_of(tasks, train)._replace(data=data)


def must_be_as_before(before: Told | None, now: Purpose) -> str | None:
    """A line where examples that are decoded or encoded are not the same to the last bit: another version may do so.

    Raises DataError if a run that goes on would train or validate on other data than before. None: it begins.
    """
    for split, use in (("train", "train"), ("val", "validate")):
        if (what := differing(before, now, split)) and (what != EXAMPLES or now.prepares is None):
            raise DataError(
                f"the data to {use} on are not those that the run began with: put those back, or let another run "
                "go on from what it has learned (train.init_from)"
            )
    return None if all(differing(before, now, split) is None for split in ("train", "val")) else NOT_TO_THE_BIT


def must_be_learned_from(before: Told | None, now: Purpose) -> str | None:
    """A line where training's examples are not the same as what was learned from, to the last bit.

    Raises DataError where they are of other classes, some of which may now stand in the test, or are encoded otherwise.
    """
    what = differing(before, now, "train")
    if what not in (None, EXAMPLES):
        raise DataError(f"the data to train on are no longer {what} those that this was learned from: put those back")
    return NOT_TO_THE_BIT if what else None


EXAMPLES = "the examples of"
NOT_TO_THE_BIT = "training's examples are not, to the last bit, those that this was learned from; its classes are"


def differing(before: Told | None, now: Purpose, split: str) -> str | None:
    """In what a split is another than before, in words; None if in nothing, as far as is known.

    What an earlier version of metarun learned tells of the shape alone.
    """
    here = as_told(now)
    if before is None:
        return None
    if any(before.get(part) != here[part] for part in ("shape", "dtype")):
        return "of the shape of"
    ours, theirs = (one.get("data") for one in (here, before))
    digests = theirs.get(split) if isinstance(theirs, dict) else None
    if not (isinstance(ours, dict) and isinstance(digests, list) and len(digests) == 2):
        return None
    if before.get("prepares") != here["prepares"]:
        return "encoded as"
    for what, one, other in zip(("of the classes of", EXAMPLES), ours[split], digests, strict=True):
        if None not in (one, other) and one != other:
            return what
    return None


def as_told(purpose: Purpose) -> Told:
    """As it is read from a file."""
    told: Told = json.loads(json.dumps(as_json(purpose)))
    return told


def told(directory: Path) -> Told | None:
    """What `keep` left in a run's directory, with nothing made of it; None if there is nothing that can be read."""
    try:
        found = json.loads((directory / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}); remove it if the run's data are there") from error


def of_json(values: dict[str, Any]) -> Purpose:
    """The reverse of `as_json`. Raises ValueError, KeyError, TypeError, AttributeError, ConfigError."""
    prepares = None if values["prepares"] is None else built("prepares", values["prepares"])
    shape = tuple(int(n) for n in values["shape"])
    kinds = str(np.dtype(values["dtype"])), str(values["metric"]), int(values["n_out"])
    return Purpose(shape, *kinds, prepares, values.get("data"))
