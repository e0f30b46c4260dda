"""A user's own rows of one task: of a table, encoded as the training table's were."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarun.core import ConfigError
from metarun.data.cells import MISSING, Column, Table, complete, listed, read, taken, texts
from metarun.data.features import Categories, Columns, Numbers, constants
from metarun.data.own import Own, labels_in, must_hold, rows_of
from metarun.text import one_line

log = logging.getLogger("metarun")


def is_by_columns(x: Any) -> bool:
    """Whether these are rows by the names of their columns: a mapping, or a data frame."""
    return isinstance(x, Mapping) or (hasattr(x, "columns") and hasattr(x, "keys"))


def rows_by_columns(name: str, given: Any, columns: Columns) -> np.ndarray:
    """x (n, dimension): the rows of a mapping or a data frame, encoded as the training table's were.

    Raises ConfigError, which calls it by this name, and DataError.
    """
    wanted = [one.name for one in columns.features]
    if missing := [one for one in wanted if one not in given]:
        what = listed(map(str, given))
        raise ConfigError(name, f"the columns {what}", one_line(f"must hold those of training, {listed(missing)} too"))
    cells = {one.name: column_of(name, one, given[one.name]) for one in columns.features}
    if len({len(column) for column in cells.values()}) != 1:
        raise ConfigError(name, "columns of several lengths", "must be of one length")
    if not len(cells[wanted[0]]):
        raise ConfigError(name, "columns without rows", "at least one example is needed")
    x, told = columns.inputs(Table(name, cells, None, ()))
    for line in told:
        log.warning(line)
    return x


def column_of(name: str, feature: Numbers | Categories, values: Any) -> Column:
    """A column's values as they would be read from a file. Raises ConfigError."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ConfigError(name, one_line(f"{feature.name}, {values!r:.40}"), "must be a list of values, one a row")
    if array.dtype.kind in "iufb" and not (array.dtype.kind == "b" and isinstance(feature, Categories)):
        return array.astype(np.float64) if array.dtype.kind in "fb" else array
    return [cell_of(value) for value in array.tolist()]


def cell_of(value: Any) -> str:
    """A value as text, "" if it is missing: None, NA and NaT are, and their names as text are not."""
    cell = str(value).strip()
    missing = cell in MISSING or (cell in ("None", "<NA>", "NaT") and not isinstance(value, str))
    return "" if missing else cell


def rows_of_task(path: str, columns: Columns, support: bool) -> Own:
    """Rows of a CSV or Parquet file or of JSON lines; their classes or targets, which queries need not have.

    Columns that training did not have are not looked at. Rows of a support set without a class or a target are left
    out, and told of. Raises ConfigError and DataError.
    """
    whole = read(path)
    answers = [one.name for one in columns.targets] or [columns.by]
    must_hold(path, whole.columns, [*(one.name for one in columns.features), *(answers if support else [])])
    rows, told = complete(whole, answers) if support else (np.arange(whole.rows), [])
    if not len(rows):
        raise ConfigError("path", path, f"no row has a {' and a '.join(answers)}")
    lines = None if whole.lines is None else [whole.lines[row] for row in rows]
    table = Table(path, {name: taken(column, rows) for name, column in whole.columns.items()}, lines, ())
    x, told_x = columns.inputs(table)
    labels = None if columns.targets else labels_in(table.columns, columns.by, np.arange(len(rows)))
    has_targets = columns.targets and set(answers) <= table.columns.keys()
    y = columns.outputs(table) if has_targets else None
    if y is not None and np.isnan(y).all():
        y = None
    groups = set(texts(table.columns[columns.by])) if columns.targets and columns.by in table.columns else set()
    if len(groups) > 1:
        told.append(one_line(f"{path}: its {len(groups)} of {columns.by} are taken for one"))
    return Own(x, rows_of(rows), labels, y, (*whole.told, *told, *told_x, *constants(table, columns)))
