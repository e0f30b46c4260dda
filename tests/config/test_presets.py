"""Presets: what they say of themselves is what they are, and what was reached."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pages.known import known, longest, presets
from support import composed

from metarun.config import conf_dir, describe
from metarun.run import results
from metarun.run.figures import figure_of, papers, show

PAPERS = list(presets())


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> dict[str, Any]:
    """What docs/results.json alone knows."""
    return known(tmp_path_factory.mktemp("no runs"))


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
def test_a_preset_says_what_was_reached_in_how_many_minutes(preset, kept):
    opening = (conf_dir() / "experiment" / f"{preset}.yaml").read_text().split("defaults:")[0]
    seeds = longest(kept, preset)
    words = " ".join(opening.replace("#", " ").split())
    asked = composed(f"experiment={preset}", "data_dir=null")["train"]["steps"]
    if not seeds:
        time = kept["times"].get(preset)
        hours = time and round(asked / time["meta_steps_per_s"] / 3600)
        took = f"all meta-steps take about {hours} hours on " if time else "the time was not measured"
        assert f"expect the paper's figure; {took}" in words
        return
    done = seeds[0]["steps"]
    _, said, reached = words.partition("Expect " if done == asked else f"With train.steps={done}, ")
    assert said
    assert "Not run" not in words
    for metric in composed(f"experiment={preset}", "data_dir=null")["paper"]["figures"]:
        mean = np.mean([figure_of(run, metric)["mean"] for run in seeds])
        assert (f"{100 * mean:.1f}" if metric.startswith("accuracy") else f"{mean:.2f}") in reached
    minutes = np.mean([run["minutes"] for run in seeds])
    assert re.search(rf" in {minutes:.0f} minutes? on \d (CPU|GPU)", reached)
    if hours := re.search(r"about (\d+) hours so", reached):
        assert int(hours[1]) == round(minutes * asked / done / 60)


# What a preset says of the statistics that its paper's network is normalised with in a test, where they are not ours.
OTHER_STATISTICS = {
    "protonet": "with running statistics",
    "r2d2": "running ones when tested",
    "metaoptnet": "running ones when tested",
    "matching": "not say with which statistics",
}


@pytest.mark.parametrize("preset", [name for name in PAPERS if name.split("_")[0] in OTHER_STATISTICS])
def test_a_preset_whose_paper_normalises_otherwise_says_so_and_gives_the_inductive_figure(preset, kept):
    opening = (conf_dir() / "experiment" / f"{preset}.yaml").read_text().split("defaults:")[0]
    words = " ".join(opening.replace("#", " ").split())
    assert OTHER_STATISTICS[preset.split("_")[0]] in words
    seeds = longest(kept, preset)
    figures = [figure for run in seeds if (figure := figure_of(run, "accuracy_inductive"))]
    if figures:
        mean, ci95 = (100 * np.mean([figure[part] for figure in figures]) for part in ("mean", "ci95"))
        assert f"With each query alone that run reached {mean:.1f} +- {ci95:.1f} %." in words
    elif seeds:
        assert "That run's figure with each query alone was not kept." in words


@pytest.mark.parametrize("preset", PAPERS)
def test_a_presets_name_is_its_protocol(preset):
    values = composed(f"experiment={preset}", "data_dir=null")
    for name in ("cifar_fs", "tabular_mdp"):
        preset = preset.replace(name, name.replace("_", "-"))
    preset = preset.replace("meta_sgd", "metasgd").replace("rl2_attention", "rl2")
    learner, task, setting = [*preset.split("_"), ""][:3]
    assert values["task"]["_target_"].startswith(f"metarun.tasks.{task.replace('-', '_')}.")
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


def test_the_end_of_a_run_shows_the_papers_figure_beside_its_own(capsys):
    found = {
        "protocol": {"split": "test", "episodes": 600, "task": {"_target_": "metarun.tasks.omniglot.Omniglot"}},
        "test": {"loss": {"mean": 0.04, "ci95": 0.01}, "accuracy": {"mean": 0.9873, "ci95": 0.0041}},
        "test_by_inner_steps": {n: {"accuracy": {"mean": 0.98, "ci95": 0.01}} for n in ("1", "3")},
        "test_by_shots": {n: {"figures": {"accuracy": {"mean": 0.97, "ci95": 0.01}}} for n in ("1", "5")},
        "paper": {
            "source": "Finn et al. 2017, table 1",
            "quoted_by": "X et al. 2020",
            "figures": {"accuracy": [0.987, 0.004]},
        },
        "state": {"state": "last", "step": 12},
        "training": {"steps": 12, "meta_batch": 32, "command": "metarun run.dir='runs/a b' experiment=x train.seed=0"},
        "speed": {"minutes": 1.0},
    }
    results.tell(found, Path("runs/a b"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "this run paper" in lines
    assert "paper Finn et al. 2017, table 1, as quoted by X et al. 2020" in lines
    assert "test accuracy 98.73 ± 0.41 % 98.7 ± 0.4 %" in lines
    assert {"after 1 inner step 98.00 ± 1.00 %", "after 3 inner steps 98.00 ± 1.00 %"} < set(lines)
    assert {"with 1 shot 97.00 ± 1.00 %", "with 5 shots 97.00 ± 1.00 %"} < set(lines)
    assert lines.index("meta-steps 12, 32 tasks each") < lines.index("minutes 1.0") < lines.index("files runs/a b")
    assert "look at it metarun report 'runs/a b'" in lines
    assert "try next metarun -m experiment=x train.seed=0,1,2" in lines
    results.tell(found, Path("-x"))
    assert "look at it  metarun report ./-x\n" in capsys.readouterr().out
