"""CLINC150: 150 intents in ten domains, 150 utterances each. Larson et al. 2019.

Splits by class: five folds of 50, 50 and 50 intents, as few-shot work has it, drawn here by seeds of their own; or by
domain, the first four of the authors' list for training, the next three for choosing and the last three for the test.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from metarun.core import Count, DataError, Ways
from metarun.data import SPLITS, Encoder, Found, by_label, must_be_an_encoder
from metarun.tasks import classes
from metarun.tasks.intents import Fold, files, in_fold, must_be_published
from metarun.text import first_line

SOURCE = "https://raw.githubusercontent.com/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data/"
TEXTS, DOMAINS = "data_full.json", "domains.json"

# sha256 over "intent, tab, utterance" of all in scope, and over "domain, tab, intent" in the file's order, a line each.
TEXTS_DIGEST = "aa8f5c365bc87580edfe7bbba2d97f98ad1b743dbc7c4ca730efc108f9a72200"
DOMAINS_DIGEST = "de741042fb56fd451eb89bf789031a56b9c2b14c3c76149743806869d4a7ad61"

Split = Fold | Literal["domains"]


class Utterances(NamedTuple):
    """All in scope, those of train, val and test together: of new classes it is of no use which is which."""

    texts: list[str]
    intents: list[str]  # of each
    domains: dict[str, list[str]]  # -> their intents


@dataclass(frozen=True)
class Clinc150:
    """N-way classification of what people say to an assistant, by intents that were not seen in training."""

    ways: Ways
    shots: Count
    queries: Count  # per class
    split: Split
    encoder: Encoder
    data_dir: str | None
    metric = "accuracy"

    def __post_init__(self) -> None:
        must_be_an_encoder(self.encoder)

    def found(self) -> Found:
        return utterances_by_split(self.data_dir, self.split, self.encoder)

    n_out = property(classes.n_out)
    prepares = property(lambda self: self.encoder)
    check, n_classes, class_names = classes.check, classes.n_classes, classes.class_names
    load, examples, told = classes.load, classes.examples, classes.told
    digest, fingerprint = classes.digest, classes.fingerprint
    sample, loss = classes.sample, classes.loss


@lru_cache(maxsize=8)
def utterances_by_split(data_dir: str | None, split: Split, encoder: Encoder) -> Found:
    found = read(data_dir)
    return by_label(found.texts, found.intents, splits(found.domains, split), encoder)


def splits(domains: dict[str, list[str]], split: Split) -> dict[str, list[str]]:
    """Split -> its intents, in alphabetical order."""
    if split != "domains":
        return in_fold([intent for of_domain in domains.values() for intent in of_domain], split, [50, 100])
    parts = np.split(np.array(list(domains.values())), [4, 7])
    return {name: sorted(part.ravel().tolist()) for name, part in zip(SPLITS, parts, strict=True)}


def read(data_dir: str | None) -> Utterances:
    """From data_dir/clinc150 or data_dir/text, else from the authors. Raises ConfigError and DataError."""
    paths = files("clinc150", (TEXTS, DOMAINS), SOURCE, data_dir)
    try:
        full, domains = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        pairs = [(text, intent) for split in ("train", "val", "test") for text, intent in full[split]]
        of_domains = [f"{domain}\t{intent}" for domain, intents in domains.items() for intent in intents]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{paths[0].parent} cannot be read as CLINC150 ({first_line(error)}); remove it or mend it"
        ) from error
    must_be_published(paths[:1], sorted(f"{intent}\t{text}" for text, intent in pairs), TEXTS_DIGEST)
    must_be_published(paths[1:], of_domains, DOMAINS_DIGEST)
    return Utterances([text for text, _ in pairs], [intent for _, intent in pairs], domains)
