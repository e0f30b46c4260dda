"""A user's own table: rows of classes, or of groups with targets."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from metarun.core import ConfigError
from metarun.data.cells import Table, complete, must_have, read, taken, texts
from metarun.data.features import Columns, constants, units
from metarun.data.labelled import pools, splits_of
from metarun.data.pool import Found


@dataclass(frozen=True)
class Roles:
    """Which column is what. `by`, a class or a group, and `split` are of no feature; nor are targets."""

    kind: str  # class or group
    by: str
    targets: tuple[str, ...]
    features: tuple[str, ...] | None  # None: all the rest
    categories: tuple[str, ...]  # of the features, numbers that are names all the same
    split: str | None


def table_in(path: str, roles: Roles, fractions: tuple[float, ...], seed: int, columns: Columns | None = None) -> Found:
    """The rows of a CSV or Parquet file as the pools of the splits. Raises ConfigError and DataError.

    With `columns`, of another table, they are encoded as that one's rows are.
    """
    return prepared(path, roles, fractions, seed, columns)[0]


def columns_in(
    path: str, roles: Roles, fractions: tuple[float, ...], seed: int, columns: Columns | None = None
) -> Columns:
    """What its training rows tell of its columns, by which rows are encoded. Raises ConfigError and DataError."""
    return prepared(path, roles, fractions, seed, columns)[1]


@lru_cache(maxsize=8)
def prepared(
    path: str, roles: Roles, fractions: tuple[float, ...], seed: int, columns: Columns | None
) -> tuple[Found, Columns]:
    """The rows, and what is known of their columns. Raises ConfigError and DataError.

    Rows without a class or group, a target or a split are left out, and told of.
    """
    if columns is not None:
        if (targets := tuple(one.name for one in columns.targets)) != roles.targets:
            raise ConfigError("target_columns", list(roles.targets), f"must be those of training: {list(targets)}")
        roles = replace(roles, features=tuple(one.name for one in columns.features), categories=())
    whole = read(path)
    must_have(whole, f"{roles.kind}_column", roles.by)
    used = [roles.by]
    parts: list[tuple[str, tuple[str, ...]]] = [
        ("target_columns", roles.targets),
        ("split_column", () if roles.split is None else (roles.split,)),
        ("feature_columns", roles.features or ()),
    ]
    for key, names in parts:
        for name in names:
            must_have(whole, key, name, used)
            used.append(name)
    rest = tuple(name for name in whole.columns if name not in used)
    chosen = rest if roles.features is None else roles.features
    for name in roles.categories:
        must_have(whole, "category_columns", name)
        if name not in chosen:
            raise ConfigError("category_columns", name, "is no feature; only features can be categories")
    rows, told = complete(whole, [name for name in used if name not in chosen])
    table = Table(
        path,
        {name: taken(column, rows) for name, column in whole.columns.items()},
        None if whole.lines is None else [whole.lines[row] for row in rows],
        (),
    )
    labels = texts(table.columns[roles.by])
    given = None if roles.split is None else texts(table.columns[roles.split])
    splits = splits_of(path, roles.kind, labels, given, fractions, seed)
    if columns is None:
        train = set(splits["train"])
        if not train:
            raise ConfigError("fractions", list(fractions), "a part for train: its rows tell how to standardise all")
        training = np.array([name in train for name in labels])
        columns = Columns.of(table, roles.by, chosen, roles.categories, roles.targets, training)
    x, told_x = columns.inputs(table)
    y = columns.outputs(table) if roles.targets else None
    told_x += constants(table, columns) + units(table, columns)
    return Found(pools(x, labels, splits, y), (*whole.told, *told, *told_x)), columns
