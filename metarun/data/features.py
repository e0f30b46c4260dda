"""Columns as numbers for a model: standardised, or one-hot, by what the training rows hold and nothing else."""

from collections.abc import Collection, Sequence

import numpy as np

from metarun.core import ConfigError, DataError
from metarun.data.cells import Table, numbers, texts
from metarun.text import one_line

MOST_CATEGORIES = 256  # of one column: with more it is a name or a text, and no category


def features(
    table: Table, names: Sequence[str], categories: Collection[str], training: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The columns `names` as x (n, d) float32, and what is to be told of them. Raises ConfigError and DataError.

    Numbers have mean 0 and standard deviation 1 among the `training` rows (n,) bool. Text, and the columns that
    `categories` names, are one-hot over what training holds, and all zeros for what it does not. A missing number is
    taken for the training mean; missing text is all zeros.
    """
    parts, missing, unknown, constant = [], {}, {}, []
    for name in names:
        if name not in categories and (values := as_numbers(table, name)) is not None:
            missing[name] = int(np.isnan(values).sum())
            mean, spread = moments(table, name, values[training])
            if spread == 0:
                constant.append(name)
            parts.append(np.nan_to_num((values - mean) / (spread or 1.0), nan=0.0)[:, None])
        else:
            cells = texts(table.columns[name])
            known = sorted({cells[row] for row in np.flatnonzero(training)} - {""})
            if len(known) > MOST_CATEGORIES:
                raise ConfigError(
                    "feature_columns",
                    one_line(name),
                    f"holds {len(known):,} different texts in training, and at most {MOST_CATEGORIES} are made "
                    "categories; leave it out by naming the others",
                )
            place = {text: i for i, text in enumerate(known)}
            column = np.zeros((len(cells), len(known)))
            for row, cell in enumerate(cells):
                if cell in place:
                    column[row, place[cell]] = 1.0
            missing[name] = cells.count("")
            unknown[name] = sum(cell not in place for cell in cells) - missing[name]
            parts.append(column)
    x = np.concatenate(parts, axis=1).astype(np.float32) if parts else np.zeros((table.rows, 0), np.float32)
    if x.shape[1] == 0:
        raise DataError(f"{table.path}: no features are left; task.feature_columns names them")
    told = []
    if counts := counted(missing):
        told.append(f"missing numbers are taken for the training mean, missing text for no category: {counts}")
    if counts := counted(unknown):
        told.append(f"text that training does not hold is taken for no category: {counts}")
    if constant:
        told.append(f"the same number in all of training: {', '.join(constant)}")
    return x, [one_line(f"{table.path}: {line}") for line in told]


def counted(cells: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in cells.items() if n)


def targets(table: Table, names: Sequence[str], training: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The columns `names` as y (n, d) float32, each with mean 0 and standard deviation 1 among the `training` rows."""
    columns, spreads = [], []
    for name in names:
        values, text = numbers(table.columns[name])
        must_be_numbers(table, name, text)
        must_be_finite(table, name, values)
        mean, spread = moments(table, name, values[training])
        if spread == 0:
            raise DataError(one_line(f"{table.path}: the target {name} is {mean:g} in all of training"))
        columns.append((values - mean) / spread)
        spreads.append(f"{name} {spread:.4g}")
    told = f"{table.path}: errors are in units of the targets' standard deviation in training: {', '.join(spreads)}"
    return np.stack(columns, axis=1).astype(np.float32), [one_line(told)]


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
