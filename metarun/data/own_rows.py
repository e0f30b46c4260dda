"""A user's own rows of one task: of a table, encoded as the training table's were."""

import numpy as np

from metarun.core import ConfigError
from metarun.data.cells import Table, complete, read, taken, texts
from metarun.data.features import Columns
from metarun.data.own import Own, labels_in, must_hold, rows_of
from metarun.text import one_line


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
    return Own(x, rows_of(rows), labels, y, (*whole.told, *told, *told_x))
