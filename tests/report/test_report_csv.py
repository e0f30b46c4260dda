"""The report as files for programs and for people."""

import csv
import json
import shutil

import pytest
from support import changed

from metarun.command import report
from metarun.report import paths, runs, tables, written


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


TEXT = {"run", "status", "why", "experiment", "learner", "task", "metric", "split"}


@pytest.fixture
def four(two_runs, tmp_path):
    """A classification with a paper's figure, a regression, one that is stopped, and one that is damaged."""
    for name, source in (("blobs", "blobs"), ("sine", "sinusoid"), ("stopped", "blobs"), ("damaged", "sinusoid")):
        shutil.copytree(two_runs / source, tmp_path / name)
    (tmp_path / "stopped" / "results.json").unlink()
    (tmp_path / "damaged" / "config.yaml").write_text("[")
    (tmp_path / "damaged" / "results.json").write_text("{")

    def change(content):
        content["test"]["accuracy"] = {"mean": 0.7547, "ci95": 0.0156}
        content["speed"] |= {"tasks_per_s": 1026.5, "tflop": 0.123456789, "minutes": 9.0, "members": 3}
        content["training"]["steps"] = 1026
        content["paper"] = {"source": "A", "figures": {"accuracy": [0.987, 0.004]}}

    changed(tmp_path / "blobs" / "results.json", change)
    return tmp_path


def test_a_csv_holds_numbers_in_columns_of_their_own_with_the_unit_in_the_name(four):
    found = list(csv.DictReader(written.as_csv(runs.read(paths.find([four]))).splitlines()))
    by_name = {row["run"]: row for row in found}
    for name in found[0].keys() - TEXT:
        if "." not in name:  # settings may be anything
            assert all(is_number(row[name]) for row in found if row[name]), name
    blobs, sine = by_name["blobs"], by_name["sine"]
    assert (blobs["accuracy_mean_percent"], blobs["accuracy_ci95_percent"]) == ("75.47", "1.56")
    assert (blobs["paper_accuracy_mean_percent"], blobs["paper_accuracy_ci95_percent"]) == ("98.7", "0.4")
    assert blobs["tflop"] == "0.123456789"
    assert (blobs["ways"], blobs["shots"], blobs["test_tasks"], blobs["tasks_per_s"]) == ("3", "1", "8", "1026.5")
    assert (blobs["meta_steps"], blobs["meta_steps_asked"], blobs["mse_mean"], sine["ways"]) == ("4", "4", "", "")
    assert (blobs["minutes"], blobs["members"], sine["members"]) == ("9.0", "3", "1")
    assert "| 9.0 for 3 together |" in written.as_markdown(runs.read(paths.find([four])))
    mse = json.loads((four / "sine" / "results.json").read_text())["test"]["mse"]
    assert float(sine["mse_mean"]) == pytest.approx(mse["mean"], rel=1e-9)
    assert float(sine["mse_ci95"]) == pytest.approx(mse["ci95"], rel=1e-9)
    tail = json.loads((four / "sine" / "results.json").read_text())["test_tail"]
    for name in ("worst", "cvar"):
        assert float(sine[f"mse_{name}_mean"]) == pytest.approx(tail[name], rel=1e-9)
    assert sine["accuracy_worst_mean_percent"] == ""
    assert not {"mse_worst_ci95", "mse_groups_mean"} & sine.keys()
    assert by_name["stopped"]["status"] == "stopped"
    assert by_name["stopped"]["accuracy_mean_percent"] == ""
    assert (by_name["damaged"]["status"], by_name["damaged"]["experiment"]) == ("damaged", "")
    assert "config.yaml cannot be read" in by_name["damaged"]["why"]
    assert (blobs["task.pool"], sine["task.pool"], "train.meta_batch" in blobs) == ("20", "", False)  # what differs


def test_markdown_shows_the_same_figures_with_their_intervals_and_what_is_wrong(four):
    found = runs.read(paths.find([four]))
    text = written.as_markdown(found)
    summary, paper, tail, wrong = (part.splitlines() for part in text.split("\n\n"))
    assert "| 75.47 ± 1.56 % | 8 |" in summary[2]
    assert (len(summary), len(paper)) == (6, 3)
    told = json.loads((four / "sine" / "results.json").read_text())["test_tail"]
    (row,) = [row for row in tail if row.startswith("| sine |")]
    assert f"| {told['worst']:.4f} | {told['cvar']:.4f} |" in row
    assert tail[0].endswith("| worst task | worst 30 % of tasks |")
    assert wrong[2].startswith("| damaged | damaged | config.yaml cannot be read (")
    assert tables.figure_cell(found[0], "accuracy").value == 0.7547
    assert written.markdown_text("a|b<c>`") == "a\\|b&lt;c&gt;\\`"


def test_runs_of_which_none_can_be_read_are_each_named_with_why(two_runs, tmp_path, monkeypatch):
    for name in "abcdef":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes(b"\xff\xfe" if name in "ab" else b"x: [")
    found = runs.read(paths.find([tmp_path]))
    assert [(run.path, run.status) for run in found] == [((tmp_path / name).resolve(), "damaged") for name in "abcdef"]
    assert all(run.why.startswith("config.yaml cannot be read (") and "\n" not in run.why for run in found)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        report.main(["a", "b", "c", "d", "e", "f", "--out", "o.html", "--csv", "o.csv", "--markdown", "o.md"])
    assert end.value.code == 1
    assert (tmp_path / "o.html").read_text().count("is damaged: config.yaml cannot be read (") == 6
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 7
