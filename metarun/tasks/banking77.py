"""BANKING77: 77 intents of a bank's customers, 75 to 227 queries each. Casanueva et al. 2020.

Five folds of 25, 25 and 27 intents, as few-shot work has it, drawn here by seeds of their own.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache

from metarun.core import Count, DataError, Ways
from metarun.data import Encoder, Found, by_label, must_be_an_encoder
from metarun.tasks import classes
from metarun.tasks.intents import Fold, files, in_fold, must_be_published
from metarun.text import first_line

SOURCE = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data/"
FILES = ("train.csv", "test.csv")
ENDS = (25, 50)  # of training's intents, and of those to choose by
# sha256 over "intent, tab, query" of both files, a line each, sorted.
DIGEST = "537763e542a3553d1f26fb5d50651cba0c766e90090583fb85ac17c0802a52a4"


@dataclass(frozen=True)
class Banking77:
    """N-way classification of customers' queries, by intents that were not seen in training; train and test pooled."""

    ways: Ways
    shots: Count
    queries: Count  # per class
    split: Fold
    encoder: Encoder
    data_dir: str | None
    metric = "accuracy"

    def __post_init__(self) -> None:
        must_be_an_encoder(self.encoder)

    def found(self) -> Found:
        return queries_by_split(self.data_dir, self.split, self.encoder)

    n_out = property(classes.n_out)
    prepares = property(lambda self: self.encoder)
    check, n_classes, class_names = classes.check, classes.n_classes, classes.class_names
    load, examples, told = classes.load, classes.examples, classes.told
    digest, fingerprint = classes.digest, classes.fingerprint
    sample, loss = classes.sample, classes.loss


@lru_cache(maxsize=8)
def queries_by_split(data_dir: str | None, fold: Fold, encoder: Encoder) -> Found:
    texts, intents = read(data_dir)
    return by_label(texts, intents, in_fold(sorted(set(intents)), fold, ENDS), encoder)


def read(data_dir: str | None) -> tuple[list[str], list[str]]:
    """The queries and their intents, from data_dir/banking77 or data_dir/text, else from the authors.

    Raises ConfigError and DataError.
    """
    paths = files("banking77", FILES, SOURCE, data_dir)
    pairs: list[tuple[str, str]] = []
    try:
        for path in paths:
            with path.open(newline="", encoding="utf-8") as file:
                pairs += [(row["text"], row["category"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(
            f"{paths[0].parent} cannot be read as BANKING77 ({first_line(error)}); remove it or mend it"
        ) from error
    must_be_published(paths, sorted(f"{intent}\t{text}" for text, intent in pairs), DIGEST)
    return [text for text, _ in pairs], [intent for _, intent in pairs]
