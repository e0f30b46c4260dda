"""Columns as numbers for a model: standardised, or one-hot, by what the training rows hold and nothing else."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from metarun.core import ConfigError, DataError
from metarun.data.cells import Table, numbers, texts
from metarun.text import one_line

MOST_CATEGORIES = 256  # of one column: with more it is a name or a text, and no category


@dataclass(frozen=True)
class Numbers:
    """A column of numbers: what they are on average in training, and how far they spread."""

    name: str
    mean: float
    spread: float  # 0 where training holds the same number only

    def standardised(self, values: np.ndarray) -> np.ndarray:
        """values (n,) float64 with mean 0 and standard deviation 1 in training."""
        return (values - self.mean) / (self.spread or 1.0)


@dataclass(frozen=True)
class Categories:
    """A column of names: those that training holds."""

    name: str
    known: tuple[str, ...]

    def places(self, cells: Sequence[str]) -> list[int | None]:
        """Which of the known ones each cell is: as it is spelt or, if none is, by its value, as 1.0 and 1 have one."""
        place = {text: i for i, text in enumerate(self.known)}
        by_value = {value_of(text): i for i, text in reversed([*enumerate(self.known)])}
        for cell in {*cells} - {*place}:
            if (value := value_of(cell)) in by_value and value is not None:
                place[cell] = by_value[value]
        return [place.get(cell) for cell in cells]


def value_of(cell: str) -> float | None:
    """The number in a cell, in single precision unless it is whole; 1 and 0 of true and false; None of other text."""
    if cell.lower() in ("true", "false"):
        return int(cell.lower() == "true")
    if "_" in cell:  # which Python's numbers may hold
        return None
    with suppress(ValueError):
        return int(cell)  # all of its digits
    with suppress(ValueError):
        value = float(cell)
        return int(value) if value.is_integer() else float(np.float32(value))
    return None


@dataclass(frozen=True)
class Columns:
    """How rows become examples: what was learned of the training rows, and nothing of any others.

    Numbers have mean 0 and standard deviation 1 in training. Text, and numbers that are but names, are one-hot over
    what training holds, and all zeros for what it does not. A missing number is taken for the training mean; missing
    text is all zeros.
    """

    by: str  # the column of the classes, or of the groups
    features: tuple[Numbers | Categories, ...]
    targets: tuple[Numbers, ...]  # of a regression

    @classmethod
    def of(
        cls,
        table: Table,
        by: str,
        features: Sequence[str],
        categories: Collection[str],
        targets: Sequence[str],
        training: np.ndarray,
    ) -> "Columns":
        """Learned of a table's `training` rows (n,) bool. Raises ConfigError and DataError."""
        made = cls(
            by,
            tuple(feature_of(table, name, name in categories, training) for name in features),
            tuple(target_of(table, name, training) for name in targets),
        )
        if made.dimension == 0:
            raise DataError(f"{table.path}: no features are left; task.feature_columns names them")
        return made

    @property
    def dimension(self) -> int:
        return sum(1 if isinstance(one, Numbers) else len(one.known) for one in self.features)

    def inputs(self, table: Table) -> tuple[np.ndarray, list[str]]:
        """x (n, dimension) float32 of any table's rows, and what is to be told of them. Raises DataError."""
        parts, missing, unknown = [], {}, {}
        for one in self.features:
            if isinstance(one, Numbers):
                values = numbers_in(table, one.name)
                missing[one.name] = int(np.isnan(values).sum())
                parts.append(np.nan_to_num(one.standardised(values), nan=0.0)[:, None])
            else:
                cells = texts(table.columns[one.name])
                places = one.places(cells)
                column = np.zeros((len(cells), len(one.known)))
                for row, place in enumerate(places):
                    if place is not None:
                        column[row, place] = 1.0
                missing[one.name] = cells.count("")
                unknown[one.name] = places.count(None) - missing[one.name]
                parts.append(column)
        told = []
        if counts := counted(missing):
            told.append(f"missing numbers are taken for the training mean, missing text for no category: {counts}")
        if counts := counted(unknown):
            told.append(f"text that training does not hold is taken for no category: {counts}")
        x = np.concatenate(parts, axis=1).astype(np.float32)
        return x, [one_line(f"{table.path}: {line}") for line in told]

    def outputs(self, table: Table) -> np.ndarray:
        """y (n, d) float32: the targets of a table's rows, standardised; NaN where there is none. Raises DataError."""
        columns = [one.standardised(numbers_in(table, one.name)) for one in self.targets]
        return np.stack(columns, axis=1).astype(np.float32)

    def standardised(self, y: np.ndarray) -> np.ndarray:
        """Targets (n, d) as they stand in a table as the model has them, float64."""
        return (y - np.array([one.mean for one in self.targets])) / self.spreads

    def in_their_units(self, y: np.ndarray) -> np.ndarray:
        """Standardised targets (n, d) as they stand in a table, float64."""
        return y.astype(np.float64) * self.spreads + np.array([one.mean for one in self.targets])

    @property
    def spreads(self) -> np.ndarray:
        """(d,): what 1 in a standardised target is in a table."""
        return np.array([one.spread for one in self.targets])


def feature_of(table: Table, name: str, category: bool, training: np.ndarray) -> Numbers | Categories:
    """What a feature's `training` rows (n,) bool hold. Raises ConfigError and DataError."""
    if not category and (values := as_numbers(table, name)) is not None:
        return Numbers(name, *moments(table, name, values[training]))
    cells = texts(table.columns[name])
    known = sorted({cells[row] for row in np.flatnonzero(training)} - {""})
    if len(known) > MOST_CATEGORIES:
        raise ConfigError(
            "feature_columns",
            one_line(name),
            f"holds {len(known):,} different texts in training, and at most {MOST_CATEGORIES} are made "
            "categories; leave it out by naming the others",
        )
    return Categories(name, tuple(known))


def target_of(table: Table, name: str, training: np.ndarray) -> Numbers:
    mean, spread = moments(table, name, numbers_in(table, name)[training])
    if spread == 0:
        raise DataError(one_line(f"{table.path}: the target {name} is {mean:g} in all of training"))
    return Numbers(name, mean, spread)


def numbers_in(table: Table, name: str) -> np.ndarray:
    """A column's finite numbers (n,) float64, NaN where there is none. Raises DataError for text, and for others."""
    values, text = numbers(table.columns[name])
    must_be_numbers(table, name, text)
    return must_be_finite(table, name, values)


def counted(cells: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in cells.items() if n)


def constants(table: Table, columns: Columns) -> list[str]:
    """The features that say nothing, of which training holds one number: a line."""
    constant = [one.name for one in columns.features if isinstance(one, Numbers) and one.spread == 0]
    return [one_line(f"{table.path}: the same number in all of training: {', '.join(constant)}")] if constant else []


def units(table: Table, columns: Columns) -> list[str]:
    """What the errors of a regression are in units of: a line."""
    spreads = ", ".join(f"{one.name} {one.spread:.4g}" for one in columns.targets)
    told = f"{table.path}: errors are in units of the targets' standard deviation in training: {spreads}"
    return [one_line(told)] if columns.targets else []


def moments(table: Table, name: str, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of those that are there; 0 where they differ by no more than rounding does."""
    there = values[~np.isnan(values)]
    if not len(there):
        raise DataError(one_line(f"{table.path}: {name} has no value in any training row; leave it out"))
    mean, spread = float(there.mean()), float(there.std())
    return mean, spread if np.ptp(there) > 0 and spread > 1e-12 * abs(mean) else 0.0


def as_numbers(table: Table, name: str) -> np.ndarray | None:
    """The column's numbers if all its cells that hold something are numbers, else None: it is of text.

    Raises DataError for a column of numbers with some text in it.
    """
    values, text = numbers(table.columns[name])
    many = int(np.count_nonzero(~np.isnan(values)))
    if many > len(text):
        must_be_numbers(table, name, text, "mend it, leave the column out, or name it in task.category_columns")
    return must_be_finite(table, name, values) if many and not text else None


def must_be_numbers(table: Table, name: str, text: list[int], how: str = "mend it") -> None:
    """Raises DataError if there are rows with text."""
    if text:
        cell, place = table.columns[name][text[0]], table.place(text[0])
        more = f" (nor are {len(text) - 1:,} more)" if len(text) > 1 else ""
        raise DataError(one_line(f"{table.path}, {place}: {cell!r} in the column {name} is no number{more}; {how}"))


def must_be_finite(table: Table, name: str, values: np.ndarray) -> np.ndarray:
    if len(infinite := np.flatnonzero(np.isinf(values))):
        raise DataError(one_line(f"{table.path}, {table.place(int(infinite[0]))}: {name} is infinite"))
    return values
