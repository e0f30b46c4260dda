"""A user's own table: CSV, JSON lines or Parquet."""

from dataclasses import dataclass, field

from metarun.core import ConfigError, Count, Ways
from metarun.data import Columns, Found, Roles, columns_in, must_be_fractions, table_in
from metarun.tasks import either


@dataclass(frozen=True)
class Table:
    """N-way classification of rows of classes not seen in training, or a regression in which each group is a task.

    Numbers are standardised and text is one-hot, by the rows of the training classes or groups alone; whole classes or
    groups are in one split. A regression's targets are standardised likewise, so that the mse is in units of the
    training targets' variance: 1 is what the training mean gets on training.
    """

    ways: Ways  # of a classification
    shots: Count
    queries: Count  # per class, or of the group
    path: str
    class_column: str | None  # a classification; or
    group_column: str | None  # a regression of
    target_columns: tuple[str, ...]
    feature_columns: tuple[str, ...] | None  # null: all the rest
    category_columns: tuple[str, ...]  # features whose numbers are but names
    split_column: str | None  # of train, val and test; null: drawn
    fractions: tuple[float, float, float]
    seed: int
    # Set where a run on a table is tested on another one, whose rows are encoded as the run's are.
    columns: Columns | None = field(default=None, metadata={"program": True})

    def __post_init__(self) -> None:
        must_be_fractions(self.fractions)
        both = "a classification names its class here; a regression group_column and target_columns, and no class"
        if (self.class_column is None) == (self.group_column is None):
            raise ConfigError("class_column", "null" if self.class_column is None else self.class_column, both)
        if (self.group_column is None) == bool(self.target_columns):
            allowed = "none in a classification" if self.group_column is None else "at least one, with group_column"
            raise ConfigError("target_columns", list(self.target_columns), allowed)

    @property
    def roles(self) -> Roles:
        kind, by = ("group", self.group_column) if self.class_column is None else ("class", self.class_column)
        assert by is not None
        return Roles(kind, by, self.target_columns, self.feature_columns, self.category_columns, self.split_column)

    def found(self) -> Found:
        return table_in(self.path, self.roles, self.fractions, self.seed, self.columns)

    @property
    def prepares(self) -> Columns:
        return columns_in(self.path, self.roles, self.fractions, self.seed, self.columns)

    @property
    def metric(self) -> str:
        return "accuracy" if self.group_column is None else "mse"

    n_out = property(either.n_out)
    check, n_classes, class_names = either.check, either.n_classes, either.class_names
    n_groups, of_group = either.n_groups, either.of_group
    load, examples, told = either.load, either.examples, either.told
    digest, fingerprint = either.digest, either.fingerprint
    sample, loss = either.sample, either.loss
