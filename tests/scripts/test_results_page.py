"""docs/results.md and README's table: what the page makes of what is known of the papers' rows."""

import shutil
from pathlib import Path

from pages import known as results_memory
from pages import overview
from pages import results as results_page
from pages.known import presets


def test_the_inductive_figure_of_so_many_inner_steps_is_that_after_as_many():
    run = {
        "protocol": {"split": "test", "transductive": True},
        "test": {"mse_inductive": {"mean": 1.0, "ci95": None}},
        "test_by_inner_steps": {"5": {"mse_inductive": {"mean": 0.5, "ci95": None}}},
    }
    assert results_page.alone("mse_after_5", [run]) == "0.5000"
    assert results_page.alone("mse", [run]) == "1.0000"
    assert results_page.alone("mse_after_1", [run]) == "not kept"


def test_a_row_says_where_a_run_went_on():
    gpu, cpu = {"first": 0, "devices": 1, "device": "H100"}, {"first": 5000, "devices": 2, "device": "cpu"}
    assert results_page.machines({"machine": {"devices": 1, "device": "cpu"}}) == "1 cpu"
    assert results_page.machines({"stretches": [gpu, cpu]}) == "1 H100 to meta-step 5,000, then 2 cpu"
    gone_on = gpu | {"first": 9}  # by other code
    assert results_page.machines({"stretches": [gpu, gone_on, cpu]}) == "1 H100 to meta-step 5,000, then 2 cpu"


def test_a_row_says_which_code_its_run_had():
    old, new = ({"commit": {"id": letter * 40, "changed": False}} for letter in "ab")
    assert results_page.commits(old) == "aaaaaaaa"
    assert results_page.commits(new | {"stretches": [old, old, new]}) == "aaaaaaaa, then bbbbbbbb"


def test_runs_with_settings_of_their_own_have_a_table_of_their_own():
    what = results_memory.known(Path("no runs"))
    lines = results_page.departed(what)[2:]
    commands = [line.split("`")[1].removeprefix("metarun experiment=") for line in lines]
    of_presets = [run for run in what["runs"] if run["settings"] and run["preset"] in presets()]
    own = {
        (run["preset"], *run["settings"])
        for run in of_presets
        if run not in results_memory.longest(what, run["preset"])
    }
    said = {tuple(word for word in command.split() if not word.startswith("train.steps=")) for command in commands}
    assert said == own
    found = [line for line in lines if "matching_omniglot_5w1s learner.temperature=1.0" in line]
    assert len(found) == 1
    assert "90.55 ± 0.72 %" in found[0]


def test_what_is_whole_of_the_projects_own_records(tmp_path):
    """The first records are a page's figures; all that came after are whole, and so must be those to come."""
    runs = results_memory.known(tmp_path)["runs"]
    less = [run for run in runs if not results_memory.whole(run)]
    assert len(less) <= 16
    first = [run for run in less if "_target_" not in run["protocol"]["learner"]]
    later = [run for run in less if run not in first]  # a part of each was made by code that is in no commit
    assert [run["preset"] for run in later] == ["fomaml_omniglot_5w5s", "lstm_omniglot_5w"]
    assert all(any(part["commit"]["changed"] for part in run["stretches"]) for run in later)


def test_a_run_is_whole_if_all_of_its_stretches_are(tmp_path):
    run = next(run for run in results_memory.known(tmp_path)["runs"] if results_memory.whole(run))
    clean, changed = run["commit"], run["commit"] | {"changed": True}
    assert results_memory.whole(run | {"stretches": [{"commit": clean}, {"commit": clean}]})
    for commit in (changed, None):
        assert not results_memory.whole(run | {"stretches": [{"commit": commit}, {"commit": clean}]})
        assert not results_memory.whole(run | {"commit": commit})


def test_minutes_of_runs_that_were_made_together_are_those_of_all():
    alone = {
        "protocol": {"split": "test", "task": {}}, "test": {}, "test_by_inner_steps": {}, "state": {"state": "last"},
        "speed": {"minutes": 9.0}, "machine": {"devices": 1, "device": "cpu"}, "commit": None, "date": "2026-11-28",
        "training": {},
    }  # fmt: skip
    together = alone | {"speed": {"minutes": 9.0, "members": 3}}
    assert "members" not in results_memory.the_rows_part(alone)
    assert results_page.minutes([results_memory.the_rows_part(together)] * 3) == "9.0 for 3 together"
    assert results_page.minutes([{"minutes": 1.0}, {"minutes": 2.0}]) == "1.5"
    assert results_page.minutes([{"minutes": 9.0, "members": 3}] * 3) == "9.0 for 3 together"


def test_the_projects_own_pages_are_what_is_known(tmp_path, monkeypatch):
    pages = {name: getattr(results_page, name) for name in ("PAGE", "README")}
    for name, page in pages.items():
        monkeypatch.setattr(results_page, name, Path(shutil.copy(page, tmp_path)))
    what = results_memory.known(tmp_path / "no runs")
    results_page.write(what)
    assert [(tmp_path / page.name).read_text() for page in pages.values()] == [
        page.read_text() for page in pages.values()
    ]
    rows = pages["README"].read_text()
    full = {
        run["preset"] for run in what["runs"] if run["preset"] in presets() and run["steps"] == steps(run["preset"])
    }
    assert full  # README leaves none of them out for what it reached, and quotes no part of a budget
    assert {
        name for name in presets() if f"| `experiment={name}` |" in rows or f"| `experiment={name} " in rows
    } == full
    assert "train.steps=" not in rows.split("<!-- rows: begin -->")[1].split("<!-- rows: end -->")[0]


def steps(preset: str) -> int:
    return presets()[preset]["train"]["steps"]


def test_a_figure_is_reached_or_inside_or_short_by_what_it_lacks():
    def entry(metric, paper, ours):
        return overview.Entry("p", [], metric, paper, ours, 1.0, 1)

    assert entry("accuracy", (98.7, 0.4), (98.7, 9.0)).verdict == "reached"
    assert entry("accuracy", (98.7, 0.4), (98.31, 9.0)).verdict == "inside"
    assert entry("accuracy", (98.7, 0.4), (98.2, 9.0)).verdict == "0.5 short"
    assert entry("accuracy", (98.7, None), (98.6, 0.11)).verdict == "inside ours"
    assert entry("accuracy", (98.7, None), (98.6, 0.09)).verdict == "0.1 short"
    assert entry("accuracy", (98.7, 0.05), (98.6, 0.3)).verdict == "0.1 short"
    assert entry("accuracy", (98.7, None), (98.6, None)).verdict == "0.1 short"
    assert entry("mse_after_1", (0.67, None), (0.57, None)).verdict == "reached"
    assert entry("mse_after_1", (0.67, 0.1), (0.76, None)).verdict == "inside"
    assert entry("mse_after_1", (0.67, 0.1), (0.8, None)).verdict == "0.13 short"
    assert entry("accuracy_instance_02", (1.0, None), (1.0, None)).name == "p 02"
    assert entry("mse", (1.0, None), (1.0, None))._replace(settings=["a=1"]).name == "p a=1 MSE"


def test_the_overview_has_a_row_for_each_figure_whole_budgets_first_and_counts_them(monkeypatch):
    papers = {"a": {"accuracy": [0.9, 0.01]}, "b": {"accuracy": [0.8, None]}, "c": {"accuracy": [0.5, None]}}
    presets = {name: {"train": {"steps": 100}, "paper": {"figures": figures}} for name, figures in papers.items()}
    monkeypatch.setattr(overview, "presets", lambda: presets)

    def run(preset, mean, steps, seed=0):
        figures = {"accuracy": {"mean": mean, "ci95": 0.02}}
        return {
            "preset": preset,
            "steps": steps,
            "seed": seed,
            "settings": [],
            "protocol": {"split": "test"},
            "test": figures,
        }

    what = {"runs": [run("a", 0.7, 50), run("b", 0.81, 100), run("b", 0.83, 100, 1), run("c", 0.4, 100)]}
    lines = overview.page(what).splitlines()
    assert lines[0].startswith("1 of 2 figures at the whole budget ")
    assert lines[0].endswith("; 1 have run a part of it.")
    assert lines[4:] == [
        "| b | 80.00 | 82.00 ± 2.00 | reached | 100% | 2 |",
        "| c | 50.00 | 40.00 ± 2.00 | 10 short | 100% | 1 |",
        "| a | 90.00 ± 1.00 | 70.00 ± 2.00 | 20 short | 50% | 1 |",
    ]
