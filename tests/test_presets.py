"""Presets: what they say of themselves is what they are, and scripts/reproduce.py runs them and writes their page."""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import composed, experiments

from metarun import results
from metarun.conf import conf_dir, describe
from metarun.figures import figure_of, papers, show

PAPERS = [name for name in experiments() if composed(f"experiment={name}")["paper"] is not None]


@pytest.mark.parametrize("preset", PAPERS)
def test_a_preset_opens_with_its_paper_its_figure_and_its_command(preset):
    text = (conf_dir() / "experiment" / f"{preset}.yaml").read_text()
    paper = yaml.safe_load(text)["paper"]
    assert paper["source"] in describe("experiment", preset)
    for metric, (mean, _) in paper["figures"].items():
        shown = f"{100 * mean:.4g}" if metric.startswith("accuracy") else f"{mean:g}"
        assert shown in describe("experiment", preset)
    assert f"#   metarun experiment={preset}\n" in text
    assert (paper["quoted_by"] is None) or paper["quoted_by"] in text


def kept() -> dict:
    """The runs and times that the page of results is made from."""
    return json.loads((Path(__file__).parents[1] / "docs" / "results.json").read_text())


@pytest.mark.parametrize("preset", PAPERS)
def test_a_preset_says_what_was_reached_in_how_many_minutes(preset, reproduce):
    opening = (conf_dir() / "experiment" / f"{preset}.yaml").read_text().split("defaults:")[0]
    longest = reproduce.module.longest(
        [run for run in kept()["runs"] if run["preset"] == preset and "failed" not in run]
    )
    words = " ".join(opening.replace("#", " ").split())
    asked = composed(f"experiment={preset}")["train"]["steps"]
    if not longest:
        time = kept()["times"].get(preset)
        hours = time and round(asked / time["meta_steps_per_s"] / 3600)
        took = f"all meta-steps take about {hours} hours on " if time else "the time was not measured"
        assert f"expect the paper's figure; {took}" in words
        return
    done = longest[0]["steps"]
    _, said, reached = words.partition("Expect " if done == asked else f"With train.steps={done}, ")
    assert said
    assert "Not run" not in words
    for metric in composed(f"experiment={preset}")["paper"]["figures"]:
        mean = np.mean([figure_of(run, metric)["mean"] for run in longest])
        assert (f"{100 * mean:.1f}" if metric.startswith("accuracy") else f"{mean:.2f}") in reached
    minutes = np.mean([run["minutes"] for run in longest])
    assert re.search(rf" in {minutes:.0f} minutes? on \d (CPU|GPU)", reached)
    if hours := re.search(r"about (\d+) hours so", reached):
        assert int(hours[1]) == round(minutes * asked / done / 60)


@pytest.mark.parametrize("preset", PAPERS)
def test_a_presets_name_is_its_protocol(preset):
    values = composed(f"experiment={preset}")
    learner, task, setting, *_ = preset.replace("meta_sgd", "metasgd").split("_")
    assert values["task"]["_target_"].startswith(f"metarun.tasks.{task}.")
    if "w" in setting and "s" in setting:
        assert setting == f"{values['task']['ways']}w{values['task']['shots']}s"
    module = values["learner"]["_target_"].split(".")[-2].replace("_", "")
    assert module == {"fomaml": "maml"}.get(learner, learner)


def test_figures_are_found_by_name_and_put_into_words():
    found = {
        "protocol": {"split": "test"},
        "test": {"accuracy": {"mean": 0.9873, "ci95": 0.0041}, "mse": {"mean": None, "ci95": None}},
        "test_by_inner_steps": {"5": {"mse": {"mean": 0.38, "ci95": 0.02}}},
        "paper": {"figures": {"accuracy": [0.987, 0.004], "mse_after_5": [0.38, None]}},
    }
    assert show("accuracy", figure_of(found, "accuracy")) == "98.73 ± 0.41 %"
    assert show("mse", figure_of(found, "mse_after_5")) == "0.3800 ± 0.0200"
    assert show("mse", figure_of(found, "mse")) == "not a number"
    assert figure_of(found, "mse_after_7") is None
    assert (papers(found, "accuracy"), papers(found, "mse_after_5"), papers(found, "loss")) == (
        "98.7 ± 0.4 %",
        "0.38",
        "",
    )


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """The script as a module, its page in a directory of its own."""
    path = Path(__file__).parents[1] / "scripts" / "reproduce.py"
    spec = importlib.util.spec_from_file_location("reproduce", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAGE = tmp_path / "results.md"
    module.PAGE.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n")

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "--dir", str(tmp_path / "runs"), *arguments])
        assert module.main() == code
        return module.PAGE.read_text()

    run.module = module
    return run


def row_of(text: str, words: str) -> str:
    (row,) = [line for line in text.splitlines() if words in line]
    return row


def test_a_part_of_a_preset_is_run_once_and_its_row_says_so(reproduce, tmp_path, capfd):
    quick = [f"--set={setting}" for setting in ("eval.episodes=8", "eval.val_episodes=2", "train.meta_batch=2")]
    arguments = ("maml_sinusoid_10s", "--budget", "0.0001", "--seeds", "0,1", *quick)
    text = reproduce(*arguments)
    assert capfd.readouterr().out.count("metarun experiment=maml_sinusoid_10s train.steps=7") == 2
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    row = row_of(text, "0.67 (MSE after 1)")
    assert "`metarun experiment=maml_sinusoid_10s train.steps=7 eval.episodes=8 eval.val_episodes=2 train.meta_" in row
    assert "7 of 70,000 (0.01 %)" in row
    files = sorted((tmp_path / "runs" / "maml_sinusoid_10s").glob("*/results.json"))
    means = [figure_of(json.loads(file.read_text()), "mse_after_1")["mean"] for file in files]
    assert f"**{sum(means) / 2:.4f} ± " in row
    assert f"| {abs(means[0] - means[1]) / 2**0.5:.2g} over 2 |" in row
    assert all(f"`metarun experiment={name}`" in text for name in PAPERS if name != "maml_sinusoid_10s")

    assert reproduce(*arguments) == text
    assert capfd.readouterr().out == ""  # finished: nothing is run again
    for file in files:
        file.unlink()
    assert reproduce("--table-only") == text  # figures outlive the files of their runs


def finished(tmp_path, folder: str, **figures) -> Path:
    """A finished run as its results.json tells of it."""
    path = tmp_path / "runs" / folder / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "test": figures,
        "test_by_inner_steps": {},
        "protocol": {
            "split": "test",
            "episodes": 600,
            "task": {"data_dir": "/mine"},
            "learner": {},
            "transductive": False,
        },
        "state": {"state": "last"},
        "speed": {"minutes": 1.0},
        "machine": {"devices": 1, "device": "cpu"},
        "commit": None,
        "date": "2026-01-01T00:00:00",
    }
    path.write_text(json.dumps(found))
    return path


def test_the_page_shows_the_longest_run_and_what_is_wrong_with_a_figure(reproduce, tmp_path, capsys):
    finished(tmp_path, "maml_omniglot_5w1s/100-0", accuracy={"mean": 0.9, "ci95": 0.01})
    finished(tmp_path, "maml_omniglot_5w1s/200-0-inner.mode%3Dreverse", accuracy={"mean": 0.91, "ci95": 0.02})
    finished(tmp_path, "maml_omniglot_5w1s/200-0", accuracy={"mean": 0.92, "ci95": 0.02})
    finished(tmp_path, "maml_omniglot_5w1s/200-1", accuracy={"mean": 0.94, "ci95": 0.04})
    finished(tmp_path, "maml_omniglot_20w1s/100-0-learner.inner_lr%3D0.2", accuracy={"mean": None, "ci95": None})
    finished(tmp_path, "maml_omniglot_20w5s/100-0", loss={"mean": 1.0, "ci95": 0.1})
    finished(tmp_path, "maml_omniglot_5w5s/60000-0").write_text('{"test": ')
    text = reproduce("--table-only")
    assert "/mine" not in (tmp_path / "results.json").read_text()  # a path of one machine
    row = row_of(text, "maml_omniglot_5w1s train.steps=200`")
    assert "| **93.00 ± 3.00 %** | 1.4 over 2 |" in row
    row = row_of(text, "maml_omniglot_20w1s train.steps=100 learner.inner_lr=0.2`")
    assert "| **not a number** | 0 seed |" in row
    assert "| not measured | 0 seed |" in row_of(text, "maml_omniglot_20w5s train.steps=100`")
    assert row_of(text, "`metarun experiment=maml_omniglot_5w5s`").endswith("| 60,000 | not measured |")
    assert "maml_omniglot_5w5s/60000-0/results.json: left out, it cannot be read" in capsys.readouterr().err


def test_a_run_that_ends_in_an_error_stays_on_the_page_until_one_is_finished(reproduce, tmp_path, monkeypatch):
    def diverging(command, stdout, **_):
        folder = Path(command[-1].removeprefix("run.dir="))
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 5, "split": "train"}\n')
        stdout.write("meta-step 5/7\nmetarun: meta-step 6: [0] <x> is not finite\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(reproduce.module.subprocess, "run", diverging)
    preset = ("maml_sinusoid_10s", "--budget", "0.0001", "--set", "learner.inner_lr=9")
    row = row_of(reproduce(*preset, code=1), "learner.inner_lr=9")
    assert row.startswith("| `metarun experiment=maml_sinusoid_10s train.steps=7 learner.inner_lr=9` | 0 | 5 of 70,000")
    assert row.endswith("| metarun: meta-step 6: \\[0\\] &lt;x&gt; is not finite |")
    assert row_of(reproduce("--table-only"), "`metarun experiment=maml_sinusoid_10s` | 0.67").endswith("not measured |")
    finished(tmp_path, "maml_sinusoid_10s/7-0-learner.inner_lr%3D9", mse={"mean": 1.0, "ci95": None})
    assert "Ended in an error" not in reproduce("--table-only")
    shutil.rmtree(tmp_path / "runs" / "maml_sinusoid_10s" / "7-0-learner.inner_lr%3D9")
    assert reproduce(*preset, code=1) == reproduce("--table-only")
    assert "Ended in an error" not in reproduce("--table-only")  # what is finished stays


def test_an_interrupt_starts_no_other_run_and_writes_the_page(reproduce, monkeypatch):
    begun = []

    def interrupted(command, **_):
        begun.append(command)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)  # a run saves its state before it stops
        return subprocess.CompletedProcess(command, 75)

    monkeypatch.setattr(reproduce.module.subprocess, "run", interrupted)
    assert "Not run yet" in reproduce("maml_sinusoid_10s", "--seeds", "0,1,2", code=130)
    assert len(begun) == 1


def test_times_are_kept_and_a_preset_that_cannot_be_measured_does_not_end_the_others(
    reproduce, monkeypatch, tmp_path, capsys
):
    def bench(command, **_):
        name = command[5].partition("=")[2]
        found = {"meta_steps_per_s": 2.0, "devices": 1, "device": "cpu"}
        return subprocess.CompletedProcess(command, int(name == "maml_miniimagenet_5w1s"), stdout=json.dumps(found))

    monkeypatch.setattr(reproduce.module.subprocess, "run", bench)
    text = reproduce("maml_miniimagenet_5w1s", "maml_omniglot_5w1s", "--time", code=1)
    assert row_of(text, "=maml_miniimagenet_5w1s`").endswith("| 60,000 | not measured |")
    assert row_of(text, "=maml_omniglot_5w1s`").endswith("| 60,000 | 8.3 hours at 2 meta-steps/s, 1 cpu |")
    for file in tmp_path.rglob("bench.json"):
        file.write_text("")
    assert reproduce("--table-only") == text
    assert "bench.json: left out, it cannot be read" in capsys.readouterr().err


def test_a_name_that_is_no_preset_is_refused(reproduce, capsys):
    with pytest.raises(SystemExit):
        reproduce("maml_omniglot")
    assert "maml_omniglot: no such preset; allowed: anil_miniimagenet_5w1s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("--seeds", "a"), ("--seeds", "0,"), ("--jobs", "0"), ("--budget", "0"), ("--budget", "x")]
)
def test_an_option_that_cannot_be_is_refused(reproduce, wrong, capsys):
    with pytest.raises(SystemExit):
        reproduce("maml_sinusoid_10s", *wrong)
    assert f"argument {wrong[0]}: '{wrong[1]}': give " in capsys.readouterr().err


def test_the_end_of_a_run_shows_the_papers_figure_beside_its_own(capsys):
    found = {
        "protocol": {"split": "test", "episodes": 600, "task": {"_target_": "metarun.tasks.omniglot.Omniglot"}},
        "test": {"loss": {"mean": 0.04, "ci95": 0.01}, "accuracy": {"mean": 0.9873, "ci95": 0.0041}},
        "test_by_inner_steps": {"3": {"accuracy": {"mean": 0.98, "ci95": 0.01}}},
        "paper": {"source": "Finn et al. 2017, table 1", "quoted_by": None, "figures": {"accuracy": [0.987, 0.004]}},
        "state": {"state": "last", "step": 12},
        "training": {"steps": 12, "meta_batch": 32, "command": "metarun run.dir='runs/a b' experiment=x train.seed=0"},
        "speed": {"minutes": 1.0},
    }
    results.tell(found, Path("runs/a b"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "this run Finn et al. 2017, table 1" in lines
    assert "test accuracy 98.73 ± 0.41 % 98.7 ± 0.4 %" in lines
    assert "after 3 inner steps 98.00 ± 1.00 %" in lines
    assert "look at it metarun report 'runs/a b'" in lines
    assert "try next metarun -m experiment=x train.seed=0,1,2" in lines
    found["training"]["command"] = "metarun -m task=omniglot learner=maml,anil"
    assert results.next_command(found) == "metarun -m learner=maml,fomaml train.seed=0,1,2"
    for unknown in ("metarun run.dir=x", "metarun run.name=it's learner=maml"):
        found["training"]["command"] = unknown
        assert results.next_command(found) == "metarun -m learner=maml,fomaml train.seed=0,1,2"
    found["protocol"]["task"]["_target_"] = "metarun.tasks.strokes.Strokes"
    assert results.next_command(found) == "metarun task=omniglot"
