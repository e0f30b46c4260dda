"""CLINC150 and BANKING77: their splits, and files that are not theirs."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from metarun.core import DataError
from metarun.data.encoders import HashedNGrams
from metarun.tasks import banking77, clinc150
from metarun.tasks.intents import FOLDS, in_fold

ENCODER = HashedNGrams(64, (1, 1), (0, 0))


def apart(splits: dict[str, list[str]]) -> list[int]:
    """The sizes of the splits, which share no class."""
    every = [name for part in splits.values() for name in part]
    assert len(set(every)) == len(every)
    return [len(part) for part in splits.values()]


def test_clinc150_in_folds_and_by_domain(text_dir):
    found = clinc150.read(text_dir)
    assert len(found.texts) == 22_500
    folds = [clinc150.splits(found.domains, fold) for fold in FOLDS]
    assert [apart(fold) for fold in folds] == [[50, 50, 50]] * 5
    assert len({tuple(fold["test"]) for fold in folds}) == 5
    by_domain = clinc150.splits(found.domains, "domains")
    assert apart(by_domain) == [60, 45, 45]
    domain_of = {intent: domain for domain, intents in found.domains.items() for intent in intents}
    assert [sorted({domain_of[intent] for intent in part}) for part in by_domain.values()] == [
        ["banking", "credit_cards", "home", "kitchen_and_dining"],
        ["auto_and_commute", "travel", "utility"],
        ["meta", "small_talk", "work"],
    ]


def test_clinc150s_episodes_are_of_its_utterances(text_dir):
    tasks = clinc150.Clinc150(5, 1, 5, "fold0", ENCODER, text_dir)
    found = clinc150.read(text_dir)
    for split in ("train", "val", "test"):
        tasks.check(split)
        examples = tasks.examples(split, tasks.load(split))
        assert {len(x) for x in examples.values()} == {150}
        name, x = next(iter(examples.items()))
        of_intent = [text for text, intent in zip(found.texts, found.intents, strict=True) if intent == name]
        np.testing.assert_array_equal(x, ENCODER.encode(of_intent))
    assert "oos" not in found.intents


def test_banking77_in_folds(text_dir):
    tasks = [banking77.Banking77(5, 1, 5, fold, ENCODER, text_dir) for fold in FOLDS]
    texts, intents = banking77.read(text_dir)
    assert (len(texts), len(set(intents))) == (13_083, 77)
    assert [apart(in_fold(sorted(set(intents)), fold, banking77.ENDS)) for fold in FOLDS] == [[25, 25, 27]] * 5
    for one in tasks:
        for split in ("train", "val", "test"):
            one.check(split)
    assert len({one.digest("test") for one in tasks}) == 5
    sizes = {name: len(x) for name, x in tasks[0].examples("test", tasks[0].load("test")).items()}
    assert sizes == {name: intents.count(name) for name in sizes}


def copied(text_dir: str, data_dir: Path, folder: str, prefix: str, names: tuple[str, ...]) -> Path:
    (data_dir / folder).mkdir(parents=True)
    for name in names:
        shutil.copy(Path(text_dir) / "text" / f"{prefix}_{name}", data_dir / folder / name)
    return data_dir / folder


def test_a_copy_may_stand_in_a_folder_of_its_own_and_one_that_was_changed_is_refused(text_dir, tmp_path):
    folder = copied(text_dir, tmp_path, "clinc150", "clinc150", ("data_full.json", "domains.json"))
    assert clinc150.read(str(tmp_path)) == clinc150.read(text_dir)
    for name, old, new in (("data_full.json", "translate", "translation"), ("domains.json", "plug_type", "plug")):
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace(old, new))
        with pytest.raises(DataError, match=f"{name}: not what was published; remove it"):
            clinc150.read(str(tmp_path))
        (folder / name).write_text(content)
    (folder / "domains.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as CLINC150"):
        clinc150.read(str(tmp_path))
    folder = copied(text_dir, tmp_path, "banking77", "banking77", ("train.csv", "test.csv"))
    assert banking77.read(str(tmp_path)) == banking77.read(text_dir)
    (folder / "test.csv").write_text((folder / "test.csv").read_text().replace("card_arrival", "card_arrivals"))
    with pytest.raises(DataError, match=r"train\.csv and .*test\.csv: not what was published"):
        banking77.read(str(tmp_path))
    (folder / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as BANKING77"):
        banking77.read(str(tmp_path))
