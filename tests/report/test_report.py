"""The report's page and tables: every section, what comes from runs stays text, a real browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import MARKUP, Page, changed, composed

from metarun.command import report
from metarun.config import flat
from metarun.report import experiments, page, paths, runs
from metarun.report.setups import setup


@pytest.fixture(scope="module")
def text(two_runs) -> str:
    """Their page."""
    return page.html(runs.read(paths.find([two_runs])))


def test_the_page_holds_every_section_and_needs_nothing_else(text):
    found = Page(text)
    for section in ("Summary", "Learning curves", "Adaptation", "Speed and memory", "Runs closely", "Differences"):
        assert section in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1  # its own
    links = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(re.match(r"#|data:", str(link)) for link in links)
    for said in ("Accuracy by test class, the worst first", "Worst confusions", "train.steps: 4", "Query"):
        assert said in found.text
    labels = [attributes.get("aria-label") for _, attributes in found.tags]
    assert labels.count("A task, before and after adaptation") == 3
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert MARKUP in found.text  # as text


@pytest.mark.usefixtures("unsaved")
def test_many_runs_are_drawn_in_as_many_plots_as_a_dozen(two_runs, tmp_path, monkeypatch):
    """Plots are what takes time."""
    monkeypatch.setattr(page, "CLOSELY", 2)
    for i in range(50):
        without = shutil.ignore_patterns("checkpoints")
        shutil.copytree(two_runs / "sinusoid", tmp_path / f"{i:03}", ignore=without)
        settings = (tmp_path / f"{i:03}" / "config.yaml").read_text()
        (tmp_path / f"{i:03}" / "config.yaml").write_text(settings.replace("inner_lr: ", f"inner_lr: {i}"))
    found = runs.read(paths.find([tmp_path]))
    assert len(experiments.groups(found)) == 50
    text = page.html(found)
    assert "50 runs" in text
    twelve = page.html(found[:12])
    assert text.count('class="plot"') == twelve.count('class="plot"')
    assert text.count("The first 40 of 50 runs") == text.count('class="bars"') > 0
    assert "The first" not in Page(twelve).text
    assert len(re.findall(r"learner.inner_lr: \d", text)) == 50  # the settings of each


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
        ([".", "--out", "--csv", "runs.csv"], "report --out: names no file"),
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


@pytest.mark.usefixtures("unsaved")
def test_files_that_are_asked_for_are_written_and_no_others(two_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    report.main([str(two_runs), "--csv", "a.csv", "--markdown=b.md"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "b.md"]
    report.main([str(two_runs)])
    assert (tmp_path / "report.html").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        report.main([str(two_runs), "--out", "gone/a.html"])
    assert (
        capsys.readouterr().err == "metarun: report --out gone/a.html: cannot be written (make the directory first)\n"
    )


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
    text = page.html(runs.read(paths.find([tmp_path / "runs"])))
    done = dumped(text.replace("<body>", f"<body>{spy}").replace("</body>", f"{sort}</body>"), tmp_path)
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    # By name down and up; by figure down and up: an empty one is last both times.
    assert title == "c,blobs,b,a a,b,blobs,c blobs,a,b,c b,a,blobs,c 0"
    assert "CONSOLE" not in done.stderr


@needs_chromium
@pytest.mark.parametrize("dark", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_narrow_page_light_or_dark_shows_every_section_and_does_not_scroll_sideways(text, tmp_path, dark):
    measure = """<script>
    const style = getComputedStyle(document.body);
    const light = colour => colour.match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b, 0);
    const seen = [...document.querySelectorAll("section")].filter(s => s.getBoundingClientRect().height > 40).length;
    const inks = [...document.querySelectorAll("svg text")].map(t => light(getComputedStyle(t).fill));
    document.title = [document.documentElement.scrollWidth <= innerWidth, seen, light(style.backgroundColor) < 384,
      Math.min(...inks) < 384].join(" ");
    </script>"""
    text = text.replace("</body>", f"{measure}</body>")
    done = dumped(text, tmp_path, "--window-size=500,900", f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    sections = text.count("<section")
    assert title == f"true {sections} {'true' if dark else 'false'} {'false' if dark else 'true'}"


def many_columns(two_runs: Path, folder: Path) -> list[runs.SavedRun]:
    """Runs whose summary has all columns, among them long ones."""
    for i in range(4):
        run = folder / f"{i}_of_a_rather_long_name_{'first' if i % 2 else 'second'}"
        shutil.copytree(two_runs / ("blobs" if i else "sinusoid"), run)

        def change(content: dict[str, Any]) -> None:
            content["memory"]["device_peak_mb"] = 12345.0
            content["paper"] = {"source": "A", "figures": {"accuracy": [0.9123, 0.0123], "mse": [0.3512, 0.0123]}}
            for metric in ("accuracy", "mse"):
                if metric in content["test"]:
                    content["test"][f"{metric}_inductive"] = content["test"][metric]

        changed(run / "results.json", change)
    return runs.read(paths.find([folder]))


@needs_chromium
@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("width", [pytest.param(1300, marks=pytest.mark.slow), 500])
def test_a_summary_too_wide_for_the_page_lets_lesser_columns_give_way_and_says_so(two_runs, tmp_path, width):
    measure = """<script>
    const box = document.querySelector("#summary .wide"), cue = box.nextElementSibling;
    const shown = () => [...box.querySelectorAll("th")].filter(th => th.offsetParent).map(th => th.textContent);
    const before = shown(), fits = box.scrollWidth <= box.clientWidth + 1, said = cue.textContent;
    cue.querySelector("button").click();
    document.title = JSON.stringify({before, fits, said, after: shown(), cut: box.classList.contains("cut"),
      now: cue.textContent, page: document.documentElement.scrollWidth <= innerWidth});
    </script>"""
    text = page.html(many_columns(two_runs, tmp_path / "runs")).replace("</body>", f"{measure}</body>")
    done = dumped(text, tmp_path, f"--window-size={width},900")
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    found = json.loads(html.unescape(title))
    kept = ["run", "status", "test, 95 % interval"]
    assert [name for name in found["before"] if name in kept] == kept
    gone = [name for name in found["after"] if name not in found["before"]]
    assert "of the device" in gone
    assert (len(gone) > len(found["after"]) / 2) == (width == 500)
    assert found["fits"] or (width == 500 and "Scroll sideways" in found["said"])
    assert all(name in found["said"] for name in gone)
    assert (found["cut"], found["page"]) == (True, True)
    assert found["now"].startswith("Scroll sideways for more columns")


def test_how_training_images_are_changed_sets_no_validations_apart():
    plain, flipped = (
        runs.SavedRun(Path(), "", "", "", flat(composed("task=cifar_fs", *settings)), None, [], None, None)
        for settings in ((), ("task.augment.query.flip=true",))
    )
    assert setup(plain, "val") == setup(flipped, "val")
    assert setup(plain, "test") == setup(flipped, "test")
    assert setup(plain, "train") != setup(flipped, "train")
    assert setup(flipped, "val").words == "cifar_fs, 5-way 1-shot"
