"""`metarun data`: what is told of a data set, and the episodes that are shown."""

import errno
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import composed, run_of

from metarun import report
from metarun.command import main
from metarun.config.run import build_tasks
from metarun.core import Batch
from metarun.run import data, drawn


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """A command in an empty directory, and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("metarun.run.log.console._width", 200)  # whichever test made it first

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["metarun", "data", *arguments])
        capfd.readouterr()
        main.command()
        return capfd.readouterr().out

    return run


def rows(out: str) -> dict[str, list[str]]:
    """The table's rows by their first cells."""
    return {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}


def test_it_tells_what_is_there_and_draws_two_episodes(command, small_folder, tmp_path):
    out = command("task=folder", f"task.path={small_folder}", "task.queries=5")
    assert rows(out)["split"] == [
        "classes",
        "examples",
        "smallest",
        "median",
        "largest",
        "5-way",
        "1-shot",
        "5-way",
        "5-shot",
    ]
    assert rows(out)["train"] == ["15", "120", "8", "8", "8", "yes", "no"]
    assert rows(out)["test"] == ["5", "40", "8", "8", "8", "yes", "no"]
    assert "an example is 32x32x3, uint8; episodes with 5 queries a class" in out
    assert "no 5-way 5-shot episode of test: shots+queries=5+5: at most 8 together" in out
    assert "no classes stand in two splits; no example stands in two splits" in out
    assert out.endswith("two episodes of train: folder-episodes.png\n")
    assert Image.open(tmp_path / "folder-episodes.png").size[0] > 400
    first = (tmp_path / "folder-episodes.png").read_bytes()
    assert command("folder", f"task.path={small_folder}").endswith("train: folder-episodes-2.png\n")
    assert (tmp_path / "folder-episodes.png").read_bytes() == first
    assert command("task=sinusoid", "--out=waves.txt").endswith("two episodes of train: waves.txt\n")
    assert (tmp_path / "waves.txt").read_text().startswith("episode 1 of train: 5 shots\n\n  support\n    ")


def test_on_a_full_disk_nothing_is_left_of_what_was_to_be_shown(command, small_folder, tmp_path, monkeypatch, capfd):
    """A part of it would be there already when the same command is given again."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for words in (["folder", f"task.path={small_folder}", "--out=a.png"], ["sinusoid", "--out=a.txt"]):
        with pytest.raises(SystemExit) as end:
            command(*words)
        assert end.value.code == 1
        assert f"metarun: data: {words[-1][6:]} cannot be written (No space left on device)\n" in capfd.readouterr().err
    assert not list(tmp_path.glob("*a.*"))


def test_a_class_in_two_splits_is_damaged_data(command, tmp_path, capfd):
    shades = {"train/a": 1, "train/b": 2, "val/c": 3, "val/d": 4, "test/e": 1, "test/f": 6}  # e is a
    for folder, shade in shades.items():
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (32, 32), (30 * shade, 9 * i, 0)).save(tmp_path / "set" / folder / f"{i}.png")
    with pytest.raises(SystemExit) as end:
        command("task=folder", f"task.path={tmp_path / 'set'}", "task.queries=1")
    assert end.value.code == 1
    out, err = capfd.readouterr()
    assert rows(out)["train"][:2] == ["2", "4"]
    assert "1 classes stand in train and in test alike, 'a' ('e' there)" in err


def test_what_is_shown_is_as_large_as_the_split_can_give_and_can_be_seen(small_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    tasks = run_of("task=folder", f"task.path={small_folder}", "task.queries=3").tasks
    fractions = {"ways": 7, "shots": 1, "queries": 7, "fractions": (0.04, 0.16, 0.8)}
    few = type(tasks)(**{**vars(tasks), **fractions})  # one class to train on, four, and twenty
    shown = data.show(few, data.look(few))
    assert shown is not None
    assert (shown.split, shown.tasks.ways, shown.tasks.shots, shown.tasks.queries) == ("val", 4, 1, 6)
    names = few.class_names("val")
    for episode, called in zip(shown.episodes, shown.names, strict=True):
        assert called == [names[c] for c in episode.classes]
        stored = few.examples("val", few.load("val"))
        for x, label in zip(episode.query.x, episode.query.y, strict=True):
            assert any(np.allclose(x, one / 255) for one in stored[called[label]])
    assert data.show(type(tasks)(**{**vars(tasks), "shots": 5, "queries": 6}), data.look(tasks)) is None  # 8 a class


def test_the_sheet_has_each_image_in_its_classes_row_support_first():
    x = np.arange(6, dtype=np.float32)[:, None, None, None] / 10 * np.ones((1, 4, 4, 1), np.float32)
    episode = report.Drawn("", Batch(x[:2], np.array([1, 0])), Batch(x[2:], np.array([0, 1, 1, 0])), ["a", "b"], {})
    sheet = drawn.sheet(episode)  # images of 4 pixels, 1 between them and 2 more before the queries
    assert sheet.shape == (9, 4 + 1 + 2 + 4 + 1 + 4, 3)
    found = [[round(float(sheet[row, column, 0]), 2) for column in (0, 7, 12)] for row in (0, 5)]
    assert found == [[0.1, 0.2, 0.5], [0.0, 0.3, 0.4]]
    assert (sheet[4] == 1).all()


def test_text_is_told_by_the_text_it_was_made_from_and_targets_by_their_numbers():
    x = np.eye(2, dtype=np.float32)
    batch = Batch(x, np.array([0, 0]))
    originals = {row.tobytes(): text for row, text in zip(x, ("where is\nmy card", ""), strict=True)}
    lines = report.episodes_as_text([report.Drawn("one", batch, batch, ["cards"], originals)]).splitlines()
    assert lines[2:5] == ["  support", "    cards  where is my card", "    cards  0 1"]
    targets = Batch(np.arange(10.0)[None], np.array([[0.5, 2]]))
    lines = report.episodes_as_text([report.Drawn("two", targets, targets, [], {})]).splitlines()
    assert lines[3] == "    0.5 2  0 1 2 3 4 5 6 7 ... (10 numbers)"


def test_a_split_without_groups_has_no_sizes(capsys):
    sizes = {"train": np.array([2, 9, 4]), "val": np.array([], int), "test": np.array([3])}
    possible = {"5 shots": {"train": None, "val": "ways=5: at most 0", "test": None}}
    data.tell("mine", SimpleNamespace(queries=1), data.Seen("groups", sizes, "x", possible, ["left out"], {}))
    out = capsys.readouterr().out
    assert rows(out)["train"] == ["3", "15", "2", "4", "9", "yes"]
    assert rows(out)["val"] == ["0", "0", "no"]
    assert out.endswith("mine: x; episodes with 1 query\nno 5 shots episode of val: ways=5: at most 0\nleft out\n")


def test_texts_are_shown_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    lines = [f"{word} number {i},{word}" for word in ("card", "bank", "loan", "coin") for i in range(4)]
    (tmp_path / "asked.csv").write_text("\n".join(["text,label", *lines]))
    overrides = ("task.ways=2", "task.queries=2", "task.fractions=[0.5,0,0.5]", f"task.path={tmp_path}/asked.csv")
    tasks = build_tasks(composed("task=text", *overrides))
    shown = data.show(tasks, data.look(tasks))
    assert shown is not None
    both = zip(shown.episodes, shown.names, strict=True)
    episodes = [report.Drawn("", e.support, e.query, names, shown.originals) for e, names in both]
    said = [line.split() for line in report.episodes_as_text(episodes).splitlines() if "number" in line]
    assert len(said) == 2 * 2 * 3
    assert all(called == word for called, word, *_ in said)
    assert len({tuple(words) for words in said[:6]}) == 6
