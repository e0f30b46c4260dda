"""A user's own texts: CSV, JSON lines or Parquet with a text and a label a row."""

from dataclasses import dataclass

from metarun.core import Count, Ways
from metarun.data import Encoder, Found, must_be_an_encoder, must_be_fractions, texts_in
from metarun.tasks import classes


@dataclass(frozen=True)
class Text:
    """N-way classification of texts of classes that were not seen in training.

    What a model sees is `encoder`'s vector of each text, made once and kept in the cache directory.
    """

    ways: Ways
    shots: Count
    queries: Count  # per class
    path: str
    text_column: str
    label_column: str
    split_column: str | None  # of train, val and test; null: drawn
    encoder: Encoder
    fractions: tuple[float, float, float]
    seed: int
    metric = "accuracy"

    def __post_init__(self) -> None:
        must_be_fractions(self.fractions)
        must_be_an_encoder(self.encoder)

    def found(self) -> Found:
        columns = self.text_column, self.label_column, self.split_column
        return texts_in(self.path, *columns, self.encoder, self.fractions, self.seed)

    n_out = property(classes.n_out)
    prepares = property(lambda self: self.encoder)
    check, n_classes, class_names = classes.check, classes.n_classes, classes.class_names
    load, examples, told = classes.load, classes.examples, classes.told
    digest, fingerprint = classes.digest, classes.fingerprint
    sample, loss = classes.sample, classes.loss
