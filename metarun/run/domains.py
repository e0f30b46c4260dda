"""Other domains that a run is tested on: their data, and whether what was trained can serve them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax.errors import FlaxError

from metarun import engine
from metarun.config.run import Run
from metarun.core import ConfigError, PyTree, name_of
from metarun.run import separation
from metarun.run.separation import Part
from metarun.text import first_line

OWN = "eval.task"  # the domain of the run itself


class Domain(NamedTuple):
    """What is there of a domain, on the host."""

    data: PyTree
    separation: dict[str, Any] | None  # from the classes of training and validation: see separation.apart


def on(run: Run, name: str) -> Run:
    """The run, to be tested on another domain, and on no others."""
    return dataclasses.replace(run, eval_tasks=run.domains[name], domains={})


def load(run: Run, data: Mapping[str, PyTree], trained: PyTree) -> dict[str, Domain]:
    """Each domain of the run; `data` to train on ("train") and, if any are, to select by ("val").

    `trained` has the shapes of what was learned, or will be.

    Raises DataError, also if a class of a domain stands in training or validation, and ConfigError for one that the
    model does not take.
    """
    parts = {"train": run.tasks, "val": run.eval_tasks}
    own = {split: Part(tasks, split, data[split]) for split, tasks in parts.items() if split in data}
    found = {}
    for name, tasks in run.domains.items():
        loaded = tasks.load(run.eval.split)
        must_be_taken(on(run, name), f"eval.tasks.{name}", data["train"], loaded, trained)
        part = Part(tasks, run.eval.split, loaded)
        found[name] = Domain(loaded, separation.apart({**own, f"eval.tasks.{name}": part}))
    return found


def must_be_taken(run: Run, key: str, train: PyTree, loaded: PyTree, trained: PyTree) -> None:
    """Raises ConfigError unless what was trained predicts the queries of `run.eval_tasks`, which `key` sets.

    Traces only.
    """
    tasks = run.eval_tasks
    try:
        engine.check_shapes(run.eval_learner, engine.nets(run.shape)[1], tasks, loaded, trained)
    except (ConfigError, FlaxError, KeyError, TypeError, ValueError) as error:
        taken, given = engine.input_of(run.tasks, train), engine.input_of(tasks, loaded)
        what = name_of(tasks)
        if (taken.shape, taken.dtype) == (given.shape, given.dtype):
            if key == OWN:  # it says what it is that does not fit
                raise
            raise ConfigError(key, what, f"does not fit what was trained ({first_line(error)})") from error
        raise ConfigError(
            key,
            what,
            f"has inputs of {in_words(given)}, and the model was trained with {in_words(taken)}; "
            f"{remedy(key, tasks, taken)}",
        ) from error


def in_words(example: jax.ShapeDtypeStruct) -> str:
    """`28x28x1 float32`"""
    return f"{'x'.join(map(str, example.shape)) or 'one number'} {example.dtype}"


def remedy(key: str, tasks: Any, taken: jax.ShapeDtypeStruct) -> str:
    """What to set, where the domain's settings can mend it."""
    if hasattr(tasks, "image") and len(taken.shape) == 3 and taken.shape[0] == taken.shape[1]:
        colour = {1: "grey", 3: "rgb"}.get(taken.shape[2], "grey")
        return f"set {key}.image.side={taken.shape[0]} {key}.image.colour={colour}"
    return "train with such inputs, or leave it out"
