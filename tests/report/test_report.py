"""The report's page and tables: every section, what comes from runs stays text, a real browser."""

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import MARKUP, Page

from metarun.command import report
from metarun.engine.evaluate import Answers
from metarun.report import episodes, page, runs, tables
from metarun.run import answers


def test_the_page_holds_every_section_and_needs_nothing_else(two_runs):
    text = page.html(runs.read(runs.find([two_runs])))
    found = Page(text)
    for section in ("Summary", "Learning curves", "Adaptation", "Speed and memory", "Runs closely", "Differences"):
        assert section in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1  # its own
    links = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(re.match(r"#|data:", str(link)) for link in links)
    for said in ("Accuracy by test class, the worst first", "Worst confusions", "train.steps: 4", "Query: "):
        assert said in found.text
    labels = [attributes.get("aria-label") for _, attributes in found.tags]
    assert labels.count("A task's curve, before and after adaptation") == 3
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
        settings = (tmp_path / f"{i:03}" / "config.yaml").read_text()
        (tmp_path / f"{i:03}" / "config.yaml").write_text(settings.replace("inner_lr: ", f"inner_lr: {i}"))
    found = runs.read(runs.find([tmp_path]))
    assert len(runs.groups(found)) == 50
    text = page.html(found)
    assert "50 runs" in text
    assert text.count("<svg") == page.html(found[:12]).count("<svg")
    assert len(re.findall(r"learner.inner_lr: \d", text)) == 50  # the settings of each


def test_pictures_are_what_was_drawn():
    def pixels(uri):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))

    ink = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3, 1)
    np.testing.assert_array_equal(pixels(episodes.picture(ink)), 255 - (255 * ink[:, :, 0]).astype(np.uint8))
    colours = np.linspace(0, 1, 18, dtype=np.float32).reshape(2, 3, 3)
    np.testing.assert_array_equal(pixels(episodes.picture(colours)), (255 * colours).astype(np.uint8))
    assert episodes.picture(ink[:, :, 0]) is None


def test_an_episode_is_shown_with_what_was_predicted(two_runs):
    (run,) = runs.read([two_runs / "blobs"])
    images = np.zeros((1, 3, 2, 2, 1), np.float32)
    examples = {
        "support_x": images, "support_y": np.array([[0, 1, 2]]),
        "query_x": images, "query_y": np.array([[0, 2, 1]]),
        "outputs": np.array([[[9.0, 0, 0], [0, 0, 9], [9, 0, 0]]]), "names": np.array([["a", "b", "c"]]),
    }  # fmt: skip
    (episode,) = episodes.episodes(dataclasses.replace(run, examples=examples))
    assert [shown.name for shown in episode.support] == ["a", "b", "c"]
    assert [(shown.name, shown.predicted, shown.right) for shown in episode.query] == [
        ("a", "a", True), ("c", "c", True), ("b", "a", False)
    ]  # fmt: skip
    assert (episode.right, episode.asked, episode.supported) == (2, 3, 3)
    text = page.html([dataclasses.replace(run, examples=examples)])
    assert text.count('<img src="data:image/png;base64,') == 6
    assert "2 of 3 right" in text
    assert "a, is b" in Page(text).text


def test_of_a_large_episode_the_first_examples_are_shown_and_all_are_counted(two_runs):
    (run,) = runs.read([two_runs / "blobs"])
    most = episodes.MOST_SHOWN
    outputs = np.zeros((1, most + 5, 2))
    outputs[0, most:, 1] = 1  # only those that are not shown are right
    examples = {
        "support_x": np.zeros((1, most + 20, 2, 2, 1)), "support_y": np.zeros((1, most + 20), int),
        "query_x": np.zeros((1, most + 5, 2, 2, 1)), "query_y": np.ones((1, most + 5), int), "outputs": outputs,
    }  # fmt: skip
    text = page.html([dataclasses.replace(run, examples=examples)])
    assert text.count('<img src="data:image/png;base64,') == 2 * most
    assert f"Support, {most} of {most + 20}" in text
    assert f"Query: 5 of {most + 5} right; the first {most}" in text


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
        ([".", "--out="], "report --out: names no file"),
        ([".", "--out", ""], "report --out: names no file"),
        ([".", "--csv", "."], "report --csv .: is a directory"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        report.main(arguments)
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_asked_for_are_written_and_no_others(two_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    report.main([str(two_runs), "--csv", "a.csv", "--markdown=b.md"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "b.md"]
    report.main([str(two_runs)])
    assert (tmp_path / "report.html").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        report.main([str(two_runs), "--out", "gone/a.html"])
    assert capsys.readouterr().err == "metarun: report: gone/a.html cannot be written (make the directory first)\n"


def dumped(text: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    """What headless Chromium makes of a page."""
    (tmp_path / "report.html").write_text(text)
    return subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", *options,
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'report.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


@needs_chromium
def test_a_browser_opens_and_sorts_it_without_an_error(two_runs, tmp_path):
    shutil.copytree(two_runs, tmp_path / "runs", ignore=shutil.ignore_patterns("checkpoints"))
    for name, mean in (("a", 0.1), ("b", 2e-7), ("c", None)):
        shutil.copytree(tmp_path / "runs" / "sinusoid", tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "results.json"
        found = json.loads(file.read_text())
        found["test"]["mse"]["mean"] = mean
        file.write_text(json.dumps(found))
    shutil.rmtree(tmp_path / "runs" / "sinusoid")
    sort = """<script>
    const head = name => [...document.querySelectorAll("#summary th button")].find(b => b.textContent.startsWith(name));
    const names = () => [...document.querySelectorAll("#summary tbody")][0].innerText.match(/^\\S+/gm).join();
    const sorted = name => { head(name).click(); return names(); };
    document.title = [sorted("run"), sorted("run"), sorted("test"), sorted("test"), window.alerted || 0].join(" ");
    </script>"""
    spy = "<script>window.alert = () => { window.alerted = 1; };</script>"
    text = page.html(runs.read(runs.find([tmp_path / "runs"])))
    done = dumped(text.replace("<body>", f"<body>{spy}").replace("</body>", f"{sort}</body>"), tmp_path)
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    # By name down and up; by figure down and up: an empty one is last both times.
    assert title == "c,blobs,b,a a,b,blobs,c blobs,a,b,c b,a,blobs,c 0"
    assert "CONSOLE" not in done.stderr


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_page_light_or_dark_shows_every_section_and_does_not_scroll_sideways(two_runs, tmp_path, dark):
    measure = """<script>
    const style = getComputedStyle(document.body);
    const light = colour => colour.match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b, 0);
    const seen = [...document.querySelectorAll("section")].filter(s => s.getBoundingClientRect().height > 40).length;
    const inks = [...document.querySelectorAll("svg text")].map(t => light(getComputedStyle(t).fill));
    document.title = [document.documentElement.scrollWidth <= innerWidth, seen, light(style.backgroundColor) < 384,
      Math.min(...inks) < 384].join(" ");
    </script>"""
    text = page.html(runs.read(runs.find([two_runs]))).replace("</body>", f"{measure}</body>")
    done = dumped(text, tmp_path, "--window-size=500,900", f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    sections = text.count("<section")
    assert title == f"true {sections} {'true' if dark else 'false'} {'false' if dark else 'true'}"
