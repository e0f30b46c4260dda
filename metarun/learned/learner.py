"""What a run has learned, in use: adapted to a user's own task, it answers that task's queries."""

import dataclasses
from functools import cached_property, lru_cache
from numbers import Integral
from typing import Any, Literal, overload

import jax
import numpy as np

from metarun import engine
from metarun.config.learned import Parts, parts
from metarun.core import Batch, ConfigError, Key, PyTree, Uncertain, is_collected
from metarun.data import Columns, is_by_columns
from metarun.learned.examples import as_inputs, as_labels, as_targets
from metarun.learned.programs import Programs, called, filled, made, numbers, programs
from metarun.run.purpose import Purpose
from metarun.text import one_line

Queries = Literal["alone", "together"]  # what a query's prediction may depend on beside the support set
MOST = {"inner_steps": 2**31 - 1, "seed": 2**32 - 1, "ways": 2**31 - 1, "shots": 2**31 - 1}  # of jax, whose they become


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """A learner as a run left it. `adapt` fits it to a task; nothing of it changes by that."""

    config: dict[str, Any] = dataclasses.field(repr=False)  # of the run that it is from, as in its config.yaml
    purpose: Purpose
    params: PyTree = dataclasses.field(repr=False)  # on the host
    used: dict[str, Any]  # which of the run's states: {"state": "best", "step": ...}

    def __post_init__(self) -> None:
        if is_collected(self.purpose.metric):
            allowed = "acts in an environment, and there are no examples to give it; `metarun eval` tests it"
            raise ConfigError("run", self.config["run"]["name"], allowed)

    @property
    def classification(self) -> bool:
        return self.purpose.metric == "accuracy"

    @property
    def uncertain(self) -> bool:
        """Whether it tells how sure it is of the targets that it predicts."""
        return not self.classification and isinstance(self.parts.learner, Uncertain)

    @cached_property
    def parts(self) -> Parts:
        return parts(self.config, self.purpose.n_out, self.purpose.metric)

    @cached_property
    def on_device(self) -> PyTree:
        """The parameters where programs want them, sent there once."""
        return jax.device_put(self.params)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its fields, whatever has been made of them since."""
        return Learned, (self.config, self.purpose, self.params, self.used)

    def units(self, x: Any) -> Columns | None:
        """What tells the units of the targets of x, where they are a table's own: of rows by their columns."""
        encodes = self.purpose.prepares
        return encodes if is_by_columns(x) and isinstance(encodes, Columns) and not self.classification else None

    def adapt(self, x: Any, y: Any, *, inner_steps: int | None = None, seed: int | Key = 0) -> "Adapted":
        """Fits it to a task by a support set: x (n, ...), and y (n,) labels (text, numbers, truth values or dates), or
        targets (n,) or (n, d).

        Inputs are as the model takes them (`purpose.shape`), or bytes, which stand for numbers from 0 to 1. What was
        trained on texts takes texts, too; what was trained on a table, rows by the names of their columns, a mapping or
        a data frame, with targets in the table's own units. There may be other ways than in training, and any shots, as
        far as the learner allows. `inner_steps`: in place of the learner's own number. `seed`, or a key of jax: of
        learners that adapt at random, such as those that read the support set as a sequence. Raises ConfigError.
        """
        parts, units = self.parts, self.units(x)
        x = as_inputs("x", x, self.purpose)
        if self.classification:
            classes, y = as_labels(y, len(x))
            n_out = must_be_served(self, parts, len(classes))
        else:
            classes, y, n_out = None, as_targets(y, len(x), self.purpose.n_out), self.purpose.n_out
            y = (y if units is None else units.standardised(y)).astype(np.float32)
        if inner_steps is not None and not hasattr(parts.learner, "inner_steps"):
            raise ConfigError("inner_steps", inner_steps, f"{type(parts.learner).__name__} takes none; leave it out")
        inner_steps = None if inner_steps is None else whole("inner_steps", inner_steps)
        seed = seed if is_key(seed) else whole("seed", seed)
        made_programs = programs(made(parts, n_out, self.classification))
        given = numbers(parts.learner, inner_steps)
        key = key_of(seed) if isinstance(seed, int) else seed
        fast = called(made_programs.adapt, (self.on_device, Batch(x, y), key, given), len(x))
        return Adapted(self, classes, x, y, fast, made_programs, given, inner_steps, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A learner that knows one task."""

    learned: Learned = dataclasses.field(repr=False)
    classes: np.ndarray | None  # (ways,) the labels, in the order of the probabilities; None of a regression
    support_x: np.ndarray = dataclasses.field(repr=False)  # as the model takes them
    support_y: np.ndarray = dataclasses.field(repr=False)  # (n,) numbers of classes, or targets (n, d)
    fast: PyTree = dataclasses.field(repr=False)  # what the learner knows
    programs: Programs = dataclasses.field(repr=False)
    numbers: dict[str, Any] = dataclasses.field(repr=False)
    inner_steps: int | None  # as `adapt` was given them
    seed: int | Key

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by what it was adapted to, to be adapted to that again: compiled programs cannot be pickled."""
        y = self.support_y if self.classes is None else self.classes[self.support_y]
        return adapted_again, (self.learned, self.support_x, y, self.inner_steps, self.seed)

    def outputs(self, x: Any, queries: Queries = "alone") -> np.ndarray:
        """x (n, ...) -> (n, ways) logits, or (n, d) predicted targets.

        `alone`: each query is predicted as if it were the only one, with the support set beside it where the model
        normalises by what it is given. `together`: all at once, as most papers test (transductive).
        """
        return self.told(x, queries)[:, : self.n_out]

    @property
    def n_out(self) -> int:
        """Ways, or targets."""
        return self.learned.purpose.n_out if self.classes is None else len(self.classes)

    def told(self, x: Any, queries: Queries) -> np.ndarray:
        """The `outputs`, and after these, where it is uncertain, as many standard deviations."""
        if queries not in ("alone", "together"):
            raise ConfigError("queries", queries, "must be one of: alone, together")
        x = as_inputs("x", x, self.learned.purpose)
        transductive = engine.is_transductive(self.learned.parts.model)
        if queries == "together" and transductive:
            return np.asarray(called(self.programs.predict, (self.fast, x, self.numbers), len(x)))
        found = []
        for part, own in filled(x):
            if transductive:
                arguments = self.fast, self.support_x, part, self.numbers
                outputs = called(self.programs.alone, arguments, len(self.support_x))
            else:
                outputs = self.programs.predict(self.fast, part, self.numbers)
            found.append(np.asarray(outputs)[:own])
        return np.concatenate(found)

    def predict_proba(self, x: Any, queries: Queries = "alone") -> np.ndarray:
        """x (n, ...) -> (n, ways): the probability of each of the `classes`."""
        if self.classes is None:
            raise ConfigError("predict_proba", "(a regression)", "has no probabilities; use predict")
        return probabilities(self.outputs(x, queries))

    @overload
    def predict(self, x: Any, queries: Queries = ..., *, return_std: Literal[False] = ...) -> np.ndarray: ...

    @overload
    def predict(
        self, x: Any, queries: Queries = ..., *, return_std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(self, x: Any, queries: Queries = "alone", *, return_std: bool = False) -> Any:
        """x (n, ...) -> (n,) labels as they were given to `adapt`, or targets (n, d).

        Targets are in the table's own units for rows by the names of their columns, else as the model has them. With
        `return_std` also the standard deviation (n, d) of each target, of learners that tell it, as cnp does.
        """
        units = self.learned.units(x)
        if not return_std:
            outputs = self.outputs(x, queries)
            if self.classes is not None:
                return self.classes[outputs.argmax(-1)]
            return outputs if units is None else units.in_their_units(outputs)
        if not self.learned.uncertain:
            name = "a classification" if self.classes is not None else type(self.learned.parts.learner).__name__
            raise ConfigError(
                "return_std", True, f"{name} has no standard deviations of targets (cnp has); leave it out"
            )
        told = self.told(x, queries)
        outputs, deviations = told[:, : self.n_out], told[:, self.n_out :]
        return (outputs, deviations) if units is None else (units.in_their_units(outputs), deviations * units.spreads)


def adapted_again(learned: Learned, x: np.ndarray, y: np.ndarray, inner_steps: int | None, seed: int) -> Adapted:
    return learned.adapt(x, y, inner_steps=inner_steps, seed=seed)


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Logits (n, ways) -> their softmax, in float64."""
    logits = outputs.astype(np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def whole(name: str, given: Any) -> int:
    """A number from 0 to so many, Python's or numpy's. Raises ConfigError."""
    if not isinstance(given, Integral) or not 0 <= int(given) <= MOST[name]:
        raise ConfigError(name, one_line(given), f"must be a whole number from 0 to {MOST[name]:,}")
    return int(given)


def is_key(seed: Any) -> bool:
    """Whether it is one of jax's keys, which are of a type of their own or, in older programs, of numbers."""
    if not isinstance(seed, jax.Array):
        return False
    of_its_type = jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key)
    return seed.ndim == 0 if of_its_type else seed.ndim == 1 and seed.dtype == np.uint32


@lru_cache(maxsize=32)
def key_of(seed: int) -> Key:
    """Of jax, which makes it by a program of its own: kept, as most adapt by the same seed."""
    return jax.random.key(seed)


def must_be_served(learned: Learned, parts: Parts, ways: int) -> int:
    """The ways. Raises ConfigError unless the learner can tell so many classes apart."""
    trained = learned.purpose.n_out
    width, most = parts.learner.width(ways), parts.learner.width(trained)
    if ways < 2:
        raise ConfigError("y", f"{ways} class", "at least two are needed to tell apart")
    if width is not None and most is not None and width > most:
        raise ConfigError(
            "y",
            f"{ways} classes",
            f"at most {most}: {type(parts.learner).__name__} was trained with so many outputs; learners without a head "
            "of their own (protonet, matching, r2d2, cnp, ...) take any number",
        )
    label_width = getattr(parts.learner, "label_width", ways)
    if ways > label_width:
        raise ConfigError("y", f"{ways} classes", f"at most {label_width}, the run's learner.label_width")
    return ways
