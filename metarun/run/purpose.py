"""What a run's learner is for: the examples that it takes and what it answers, kept with the run as purpose.json.

With it the learner can be used where the run's data are not.
"""

import dataclasses
import json
from collections.abc import Mapping
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


def must_be_as_before(before: Purpose | None, now: Purpose) -> None:
    """Raises DataError if a run that goes on would train or validate on other data than before. None: it begins."""
    for split, use in (("train", "train"), ("val", "validate")):
        if before is not None and differ(before, now, split):
            raise DataError(
                f"the data to {use} on are not those that the run began with: put those back, or let another run "
                "go on from what it has learned (train.init_from)"
            )


def must_be_learned_from(before: Purpose | None, now: Purpose) -> str | None:
    """A line where training's examples are not the same as what was learned from, to the last bit.

    Raises DataError where they are of other classes, some of which may now stand in the test, or are encoded otherwise.
    None also for what an earlier version of metarun learned, which does not tell.
    """
    if before is None or not differ(before, now, "train"):
        return None
    shaped, encoded = before[:2] != now[:2], before.prepares != now.prepares
    if shaped or encoded or (before.data and now.data and before.data["train"][0] != now.data["train"][0]):
        what = "of the shape of" if shaped else "encoded as" if encoded else "of the classes of"
        raise DataError(f"the data to train on are no longer {what} those that this was learned from: put those back")
    return "training's examples are not, to the last bit, those that this was learned from; its classes are"


def differ(before: Purpose, now: Purpose, split: str) -> bool:
    """Whether a split is another, as far as is known."""
    if before[:5] != now[:5]:
        return True
    if before.data is None or now.data is None:
        return False
    known = zip(before.data[split], now.data[split], strict=True)
    return any(None not in both and both[0] != both[1] for both in known)


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
    kinds = str(values["dtype"]), str(values["metric"]), int(values["n_out"])
    return Purpose(shape, *kinds, prepares, values.get("data"))
