"""The report's page and tables: every section, what comes from runs stays text, a real browser."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from support import MARKUP, Page

from metarun import answers, verbs
from metarun.evaluate import Answers
from metarun.report import page, runs, tables


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
