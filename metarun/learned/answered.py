"""What an adapted learner answers to queries, how well where that is known, and all of it as JSON and as CSV."""

import csv
import io
import json
from typing import Any, NamedTuple

import numpy as np

from metarun.core import DataError
from metarun.data import Columns, Own
from metarun.learned.learner import Adapted, Queries
from metarun.learned.own_task import QUERY, of_option

MOST_IN_CURVE = 2_000  # examples: with more, to adapt again and again takes long
CURVE = (0, 1, 3, 5)  # inner steps after which it is told how things stand, beside the learner's own number


class Classified(NamedTuple):
    """The class of each query."""

    names: tuple[str | int, ...]
    classes: tuple[str, ...]
    probabilities: np.ndarray  # (n, ways)
    labels: tuple[str | None, ...] | None  # as the user has them

    @property
    def predicted(self) -> list[str]:
        return [self.classes[i] for i in self.probabilities.argmax(1)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(true, predicted) of the queries whose class is known."""
        known = zip(self.labels or (), self.predicted, strict=False)
        return [(label, predicted) for label, predicted in known if label is not None]

    @property
    def accuracy(self) -> float | None:
        pairs = self.pairs
        return sum(label == predicted for label, predicted in pairs) / len(pairs) if pairs else None

    @property
    def judged(self) -> bool:
        """Whether it is known how good they are."""
        return bool(self.pairs)

    @property
    def confusion(self) -> np.ndarray:
        """(ways, ways): how many queries of each class were taken for each."""
        found = np.zeros((len(self.classes), len(self.classes)), int)
        for label, predicted in self.pairs:
            found[self.classes.index(label), self.classes.index(predicted)] += 1
        return found

    def as_json(self) -> dict[str, Any]:
        each = zip(self.names, self.predicted, self.probabilities.tolist(), strict=True)
        return {
            "classes": list(self.classes),
            "predictions": [
                {"query": name, "predicted": one, "probabilities": dict(zip(self.classes, p, strict=True))}
                for name, one, p in each
            ],
            "accuracy": self.accuracy,
        }

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """The head of a table, and a row a query."""
        head = ["query", *(["label"] if self.labels else []), "predicted", *(f"p({name})" for name in self.classes)]
        labels = [[label or ""] for label in self.labels] if self.labels else [[]] * len(self.names)
        each = zip(self.names, labels, self.predicted, self.probabilities.tolist(), strict=True)
        return head, [[name, *label, one, *p] for name, label, one, p in each]


class Regressed(NamedTuple):
    """The targets of each query, in the user's own units."""

    names: tuple[str | int, ...]
    targets: tuple[str, ...]
    predicted: np.ndarray  # (n, d)
    truth: np.ndarray | None  # (n, d), NaN where it is not known
    sd: np.ndarray | None = None  # (n, d), the learner's own standard deviations; None: it has none

    @property
    def errors(self) -> list[float | None]:
        """The mean squared error of each target, over the queries where it is known."""
        if self.truth is None:
            return [None] * len(self.targets)
        squared = ((self.predicted - self.truth) ** 2).T
        return [float(np.nanmean(one)) if (~np.isnan(one)).any() else None for one in squared]

    @property
    def judged(self) -> bool:
        return self.mse is not None

    @property
    def mse(self) -> float | None:
        """Their mean."""
        known = [error for error in self.errors if error is not None]
        return sum(known) / len(known) if known else None

    def as_json(self) -> dict[str, Any]:
        told = {"query": list(self.names), "predicted": self.predicted.tolist()}
        told |= {} if self.sd is None else {"sd": self.sd.tolist()}
        predictions = [dict(zip(told, each, strict=True)) for each in zip(*told.values(), strict=True)]
        return {"targets": list(self.targets), "predictions": predictions, "mse": self.mse}

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """As of `Classified`: what is known, what is predicted and, if it has them, its standard deviations."""
        known = {"": self.truth, "predicted ": self.predicted, "sd ": self.sd}
        there = {word: values for word, values in known.items() if values is not None}
        head = ["query", *(f"{word}{name}" for word in there for name in self.targets)]
        each = zip(self.names, in_cells(np.concatenate(list(there.values()), axis=1)), strict=True)
        return head, [[name, *cells] for name, cells in each]


Answers = Classified | Regressed


def in_cells(values: np.ndarray) -> list[list[Any]]:
    return [["" if np.isnan(value) else value for value in row] for row in values.tolist()]


def answered(adapted: Adapted, query: Own, queries: Queries) -> Answers:
    """The answers to a user's queries. Raises ConfigError, and DataError where they are no finite numbers."""
    with of_option(QUERY):
        if adapted.classes is None:
            outputs = adapted.told(query.x, queries).astype(np.float64)
        else:
            outputs = adapted.predict_proba(query.x, queries)
    if not np.isfinite(outputs).all():
        raise DataError(
            "the learner's outputs are no finite numbers after adapting to this support set; fewer --inner-steps, or "
            "inputs as large as in training, may help"
        )
    if adapted.classes is not None:
        return Classified(query.names, tuple(map(str, adapted.classes)), outputs, query.labels)
    predicted, sd = outputs[:, : adapted.n_out], outputs[:, adapted.n_out :] if adapted.learned.uncertain else None
    columns, truth = adapted.learned.purpose.prepares, query.targets
    names = tuple(f"y{i}" for i in range(adapted.n_out)) if adapted.n_out > 1 else ("y",)
    if isinstance(columns, Columns):
        names = tuple(one.name for one in columns.targets)
        predicted, sd = columns.in_their_units(predicted), None if sd is None else sd * columns.spreads
        truth = None if truth is None else columns.in_their_units(truth)
    return Regressed(query.names, names, predicted, truth, sd)


def curve(adapted: Adapted, query: Own, queries: Queries) -> dict[int, Answers]:
    """The answers after other numbers of inner steps, and the learner's own, in order; none where it takes none."""
    own = adapted.numbers.get("inner_steps")
    if own is None or len(adapted.support_x) + len(query.x) > MOST_IN_CURVE:
        return {}
    learned = adapted.learned
    labels = adapted.support_y if adapted.classes is None else adapted.classes[adapted.support_y]
    found = {}
    for steps in sorted({*CURVE, int(own)}):
        other = learned.adapt(adapted.support_x, labels, inner_steps=steps, seed=adapted.seed)
        found[steps] = answered(other, query, queries)
    return found


def as_json(answers: Answers) -> str:
    return in_utf8(json.dumps(answers.as_json(), indent=1, ensure_ascii=False) + "\n")


def as_csv(answers: Answers) -> str:
    file = io.StringIO()
    head, rows = answers.rows()
    csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return in_utf8(file.getvalue())


def in_utf8(text: str) -> str:
    """The text with ? for what no file can hold: a name that is not of UTF-8, half of a pair of UTF-16."""
    return text.encode(errors="replace").decode()
