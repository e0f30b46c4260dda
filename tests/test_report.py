"""The report: over finished, running, failed, old and damaged runs; what comes from runs stays text."""

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock
from support import composed, on_blobs

from metarun import answers, config, train, verbs
from metarun.conf import flat
from metarun.evaluate import Answers
from metarun.report import charts, page, runs, tables

SMALL = (
    "logger=none", "train.steps=4", "train.meta_batch=2", "eval.episodes=8", "eval.val_episodes=2",
    "eval.inner_steps=[0,1]",
)  # fmt: skip
MARKUP = "<script>alert(1)</script>|`x`"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    """A classification and a regression, finished; the classification's name and classes have markup in them."""
    folder = tmp_path_factory.mktemp("runs")
    blobs = on_blobs(*SMALL, "eval.shots=[1,2]")
    sinusoid = composed("task=sinusoid", "model.hidden=[8]", *SMALL)
    for name, values in (("blobs", blobs), ("sinusoid", sinusoid)):
        values["run"] |= {"dir": str(folder / name), "name": MARKUP}
        train.train(config.build_run(values))
    classes = {"classes": {MARKUP: [1, 2], "b": [3, 3]}, "confusions": [[MARKUP, "b", 1]]}
    (folder / "blobs" / "classes.json").write_text(json.dumps(classes))
    return folder


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_every_section_and_needs_nothing_else(two_runs):
    text = page.html(runs.read(runs.find([two_runs])))
    found = Page(text)
    for section in ("Summary", "Learning curves", "Adaptation", "Speed and memory", "Runs closely", "Differences"):
        assert section in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1  # its own
    links = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(re.match(r"#|data:", str(link)) for link in links)
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert MARKUP in found.text  # as text


def test_its_figures_are_those_of_the_results(two_runs):
    found = runs.read(runs.find([two_runs]))
    (header, *rows) = csv.reader(tables.as_csv(found).splitlines())
    by_name = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    accuracy = json.loads((two_runs / "blobs" / "results.json").read_text())["test"]["accuracy"]
    expected = f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['ci95']:.2f} %"
    assert by_name["blobs"]["test, 95 % interval"] == expected
    assert by_name["blobs"]["meta-steps"] == "4 of 4"
    assert len(tables.as_markdown(found).splitlines()) == 4
    assert tables.markdown_text("a|b<c>`") == "a\\|b&lt;c&gt;\\`"


def test_runs_that_are_running_failed_old_or_damaged_are_shown_with_what_is_missing(two_runs, tmp_path):
    for name in ("running", "stopped", "failed", "old", "damaged"):
        shutil.copytree(two_runs / "blobs", tmp_path / name)
        if name not in ("old", "damaged"):
            (tmp_path / name / "results.json").unlink()
    (tmp_path / "failed" / "nonfinite").mkdir()
    (tmp_path / "stopped" / "metrics.jsonl").unlink()
    (tmp_path / "old" / "examples.npz").unlink()
    for file in ("config.yaml", "examples.npz", "classes.json"):
        (tmp_path / "damaged" / file).write_bytes(b"\x00{")
    with FileLock(tmp_path / "running" / ".lock"):
        found = {run.name: run for run in runs.read(runs.find([tmp_path]))}
    assert {name: run.status for name, run in found.items()} == {
        "running": "running", "stopped": "stopped", "failed": "not a number", "old": "finished", "damaged": "finished"
    }  # fmt: skip
    assert found["stopped"].missing == ["no metrics.jsonl: no row was logged yet", "no results.json: not finished"]
    assert found["old"].missing == ["no examples.npz: none were kept"]
    assert len(found["damaged"].missing) == 3
    text = Page(page.html(list(found.values()))).text
    assert "stopped: no metrics.jsonl: no row was logged yet; no results.json: not finished" in text


def test_seeds_of_one_experiment_are_taken_together(two_runs, tmp_path):
    means = []
    for seed in range(3):
        shutil.copytree(two_runs / "sinusoid", tmp_path / str(seed))
        values = yaml.safe_load((tmp_path / str(seed) / "config.yaml").read_text())
        values["train"]["seed"] = seed
        (tmp_path / str(seed) / "config.yaml").write_text(yaml.safe_dump(values))
        results = json.loads((tmp_path / str(seed) / "results.json").read_text())
        means.append(float(seed))
        results["test"]["mse"]["mean"] = means[-1]
        (tmp_path / str(seed) / "results.json").write_text(json.dumps(results))
    found = runs.read(runs.find([tmp_path]))
    assert [len(members) for members in runs.groups(found).values()] == [3]
    table = tables.over_seeds(found)
    assert table is not None
    assert [cell.value for cell in table.rows[0][1:4]] == [3, np.mean(means), np.std(means, ddof=1)]
    assert runs.differences(found) == ["train.seed"]


def copies(source: Path, folder: Path, *settings: dict[str, Any]) -> list[runs.SavedRun]:
    """A sweep's runs: each with these settings more, in a directory that is a number."""
    for i, each in enumerate(settings):
        shutil.copytree(source, folder / str(i), ignore=shutil.ignore_patterns("checkpoints"))
        config_yaml = folder / str(i) / "config.yaml"
        config_yaml.write_text(yaml.safe_dump(nested(flat(yaml.safe_load(config_yaml.read_text())) | each)))
    return runs.read(runs.find([folder]))


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        group = found
        for part in path:
            group[part] = group.get(part) or {}
            group = group[part]
        group[last] = value
    return found


MAML, ANIL = ({"learner._target_": f"metarun.learners.{name}.{name.upper()}"} for name in ("maml", "anil"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            [MAML, MAML | {"train.seed": 1}, MAML | {"learner.inner_lr": 0.2}, ANIL],
            {"maml, inner_lr=0.4 (0)": 2, "maml, inner_lr=0.2 (2)": 1, "anil (3)": 1},
        ),
        (
            [
                {"optimizer._target_": f"optax.{name}", "optimizer.learning_rate": rate}
                for name in ("adam", "sgd")
                for rate in (0.1, 0.2)
            ],
            {f"{name}, learning_rate={rate} ({i + j})": 1
             for i, name in ((0, "adam"), (2, "sgd")) for j, rate in enumerate((0.1, 0.2))},
        ),
        (
            [{"paper.figures.accuracy": [0.9, 0.1], "task.shots": 1}, {"task.shots": 5}, {"train.task.ways": 20}],
            {"shots=1 (0)": 1, "shots=5 (1)": 1, "shots=1, ways=20 (2)": 1},
        ),
    ],
)  # fmt: skip
def test_a_sweeps_experiments_are_named_by_what_sets_them_apart(two_runs, tmp_path, settings, expected):
    found = runs.groups(copies(two_runs / "blobs", tmp_path, *settings))
    assert {name: len(members) for name, members in found.items()} == expected


def test_over_seeds_each_seed_counts_once_and_runs_without_settings_stand_alone(two_runs, tmp_path):
    found = copies(two_runs / "sinusoid", tmp_path / "sweep", {"train.seed": 0}, {"train.seed": 0}, {"train.seed": 1})
    changed(tmp_path / "sweep" / "1" / "results.json", lambda c: c["test"]["mse"].pop("ci95"))
    for file in ("results.json", "metrics.jsonl"):  # of the first seed there is nothing yet
        (tmp_path / "sweep" / "0" / file).unlink()
    found = runs.read(runs.find([tmp_path / "sweep", tmp_path / "sweep" / ".." / "sweep" / "1"]))
    assert len(found) == 3
    (row,) = tables.over_seeds(found).rows
    assert row[1].value == 2
    for run in found:
        (run.path / "config.yaml").write_text("")
    assert len(runs.groups(runs.read(runs.find([tmp_path / "sweep"])))) == 3


def changed(file: Path, change: Callable[[Any], object]) -> None:
    """Changes a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


MALFORMED = {
    "a figure is text": ("results.json", lambda c: c["test"]["accuracy"].update(mean="high")),
    "no split": ("results.json", lambda c: c["protocol"].pop("split")),
    "no accuracy after an inner step": ("results.json", lambda c: c["test_by_inner_steps"]["1"].pop("accuracy")),
    "inner steps are no number": ("results.json", lambda c: c["test_by_inner_steps"].update(few={})),
    "no machine": ("results.json", lambda c: c.pop("machine")),
    "a figure is a number in text": ("results.json", lambda c: c["test"]["accuracy"].update(mean="0.9")),
    "minutes are text": ("results.json", lambda c: c["speed"].update(minutes="1.5")),
    "a paper without figures": ("results.json", lambda c: c.update(paper={"source": "x"})),
    "a list": ("classes.json", lambda c: c.update(classes=[1])),
    "counts are text": ("classes.json", lambda c: c["classes"].update(a=["1", "many"])),
    "a confusion of one": ("classes.json", lambda c: c.update(confusions=[["a"]])),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_file_with_another_content_is_named_as_missing(two_runs, tmp_path, how):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    file, change = MALFORMED[how]
    changed(tmp_path / "run" / file, change)
    (found,) = runs.read(runs.find([tmp_path]))
    assert [line.partition(" (")[0] for line in found.missing] == [f"{file} cannot be read"]
    assert f"Missing: {file} cannot be read" in Page(page.html([found])).text


def test_rows_settings_and_pictures_may_be_anything(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    rows = ['{"step": 1, "split": "val", "accuracy": "NaN"}', "[1]", '{"step": 4, "split": "val", "accuracy": 0.5}']
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(rows))
    with np.load(tmp_path / "run" / "examples.npz") as arrays:
        np.savez(tmp_path / "run" / "examples.npz", **dict(arrays) | {"outputs": arrays["outputs"][:1]})
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    values["train"] |= {"seed": "first", "steps": None}
    values["learner"] = 3
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(values))
    (found,) = runs.read(runs.find([tmp_path]))
    assert found.missing == [
        "1 rows of metrics.jsonl cannot be read", "examples.npz cannot be read (ValueError)"
    ]  # fmt: skip
    assert [row["step"] for row in found.rows] == [4]
    assert "first" in Page(page.html([found])).text


@pytest.mark.parametrize(
    "other", [{"query_y": bool}, {"support_y": float}, {"outputs": "V4"}, {"query_x": "U3"}, {"support_y": np.int64}]
)
def test_examples_of_another_kind_are_named_as_missing(two_runs, tmp_path, other):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    ((name, kind),) = other.items()
    with np.load(tmp_path / "run" / "examples.npz") as arrays:
        np.savez(tmp_path / "run" / "examples.npz", **dict(arrays) | {name: arrays[name].astype(kind)})
    (found,) = runs.read(runs.find([tmp_path]))
    assert found.missing == ([] if kind is np.int64 else ["examples.npz cannot be read (ValueError)"])
    assert "Runs closely" in page.html([found])


def test_a_path_that_is_no_text_is_shown_all_the_same(two_runs, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(two_runs / "sinusoid", folder / "one")
    (folder / "one" / "results.json").unlink()
    shutil.copytree(two_runs / "sinusoid", tmp_path / "two")
    page.html(runs.read(runs.find([tmp_path]))).encode()


def test_what_is_not_a_number_is_left_out_of_the_plots(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")

    def change(content: Any) -> None:
        nothing = {"mean": None, "ci95": None}
        content["test"]["accuracy"] = content["test_by_shots"]["1"]["figures"]["accuracy"] = nothing
        content["test_by_inner_steps"]["0"]["accuracy"] = content["test"]["accuracy_instance_02"] = nothing

    changed(tmp_path / "run" / "results.json", change)
    (found,) = runs.read(runs.find([tmp_path]))
    assert found.missing == []
    assert list(charts.by_shots(found)) == [2]
    assert list(charts.by_inner_steps(found)) == [1]
    assert charts.by_instance(found) == {}
    assert "not a number" in Page(page.html([found])).text


def test_many_runs_are_drawn_in_as_many_plots_as_a_dozen(two_runs, tmp_path, monkeypatch):
    """Plots are what takes time."""
    monkeypatch.setattr(page, "CLOSELY", 2)
    for i in range(50):
        without = shutil.ignore_patterns("checkpoints")
        shutil.copytree(two_runs / "sinusoid", tmp_path / f"{i:03}", ignore=without)
    text = page.html(runs.read(runs.find([tmp_path])))
    assert "50 runs" in text
    assert text.count("<svg") == page.html(runs.read(runs.find([tmp_path])[:12])).count("<svg")


def test_classes_are_counted_over_tasks_by_name():
    found = Answers(
        outputs=np.eye(2)[np.array([[0, 1, 1], [0, 0, 1]])],
        y=np.array([[0, 1, 0], [0, 1, 1]]),
        classes=np.array([[2, 0], [0, 1]]),
    )
    counted = answers.by_class(found, ["a", "b", "a"])
    # Tasks: (a as 0, a as 1): right, right, wrong but of the same name; (a, b): right, b taken for a, right.
    assert counted.classes == {"a": (4, 4), "b": (1, 2)}
    assert counted.confusions == [("b", "a", 1)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "report: names no run"),
        (["nowhere"], "nowhere: no such directory"),
        (["."], ".: holds no run"),
        (["--pdf", "x"], "report --pdf: no such option"),
        ([".", "--out"], "report --out: names no file"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        verbs.report(arguments)
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_opens_and_sorts_it_without_an_error(two_runs, tmp_path):
    found = runs.read(runs.find([two_runs]))
    sort = """<script>
    document.querySelectorAll("#summary th button")[0].click();
    const names = () => [...document.querySelectorAll("#summary tbody tr")].map(row => row.cells[0].textContent).join();
    const down = names();
    document.querySelectorAll("#summary th button")[0].click();
    document.title = down + " then " + names() + " alerts " + (window.alerted || 0);
    </script>"""
    spy = "<script>window.alert = () => { window.alerted = 1; };</script>"
    text = page.html(found).replace("<body>", f"<body>{spy}").replace("</body>", f"{sort}</body>")
    (tmp_path / "report.html").write_text(text)
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'report.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "<title>sinusoid,blobs then blobs,sinusoid alerts 0</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
