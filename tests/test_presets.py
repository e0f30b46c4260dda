"""Presets: what they say of themselves is what they are, and scripts/reproduce.py runs them and writes their page."""

import importlib.util
import json
import sys
from pathlib import Path

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
    page = tmp_path / "results.md"
    page.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n")
    monkeypatch.setattr(module, "PAGE", page)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "--dir", str(tmp_path / "runs"), *arguments])
        module.main()
        return page.read_text()

    return run


def test_a_part_of_a_preset_is_run_once_and_its_row_says_so(reproduce, tmp_path, capfd):
    quick = ("--set", "eval.episodes=8", "eval.val_episodes=2", "train.meta_batch=2")
    text = reproduce("maml_sinusoid_10s", "--budget", "0.0001", "--seeds", "0,1", *quick)
    assert capfd.readouterr().out.count("metarun experiment=maml_sinusoid_10s train.steps=7") == 2
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    row = next(line for line in text.splitlines() if "0.67 (MSE after 1)" in line and "train.steps" in line)
    assert "7 of 70,000 (0.01 %)" in row
    assert " over 2 |" in row
    files = sorted((tmp_path / "runs" / "maml_sinusoid_10s").glob("*/results.json"))
    means = [figure_of(json.loads(file.read_text()), "mse_after_1")["mean"] for file in files]
    assert f"**{sum(means) / 2:.4f} ± " in row
    assert all(f"`metarun experiment={name}`" in text for name in PAPERS if name != "maml_sinusoid_10s")

    assert reproduce("maml_sinusoid_10s", "--budget", "0.0001", "--seeds", "0,1", *quick) == text
    assert capfd.readouterr().out == ""  # finished: nothing is run again

    shorter = json.loads(files[0].read_text())
    shorter["training"]["steps"] = 6
    for file in files:
        file.unlink()
    assert reproduce("--table-only") == text  # rows outlive the files of their runs,
    files[0].write_text(json.dumps(shorter))
    assert reproduce("--table-only") == text  # and shorter runs
    shorter["training"]["steps"] = 7
    files[0].write_text(json.dumps(shorter))
    assert "| 1 seed |" in reproduce("--table-only")  # but not one of as many meta-steps


def test_a_name_that_is_no_preset_is_refused(reproduce, capsys):
    with pytest.raises(SystemExit):
        reproduce("maml_omniglot")
    assert "maml_omniglot: no such preset; allowed: anil_miniimagenet_5w1s" in capsys.readouterr().err


def test_the_end_of_a_run_shows_the_papers_figure_beside_its_own(capsys):
    found = {
        "protocol": {"split": "test", "episodes": 600, "task": {"_target_": "metarun.tasks.omniglot.Omniglot"}},
        "test": {"loss": {"mean": 0.04, "ci95": 0.01}, "accuracy": {"mean": 0.9873, "ci95": 0.0041}},
        "test_by_inner_steps": {"3": {"accuracy": {"mean": 0.98, "ci95": 0.01}}},
        "paper": {"source": "Finn et al. 2017, table 1", "quoted_by": None, "figures": {"accuracy": [0.987, 0.004]}},
        "state": {"state": "last", "step": 12},
        "training": {"steps": 12, "meta_batch": 32},
        "speed": {"minutes": 1.0},
    }
    results.tell(found, Path("runs/a b"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "this run Finn et al. 2017, table 1" in lines
    assert "test accuracy 98.73 ± 0.41 % 98.7 ± 0.4 %" in lines
    assert "after 3 inner steps 98.00 ± 1.00 %" in lines
    assert "look at it metarun report 'runs/a b'" in lines
