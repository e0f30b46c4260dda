"""What a finished run states of itself."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import run_of

from metarun.core import DataError
from metarun.run.figures import episodes_in_short, figure_of
from metarun.run.results import evaluated_on, figure_rows, protocol, table_of, tell
from metarun.run.train import earlier_results


def test_a_regression_has_shots_and_no_ways():
    task = {"ways": 5, "shots": 3, "queries": 2}
    assert episodes_in_short({"task": task, "learner": {}, "metric": "mse"}) == "3 shots, 2 queries"
    assert episodes_in_short({"task": task, "learner": {}, "metric": "accuracy"}) == "5-way 3-shot, 2 queries a class"


def test_the_protocol_has_the_whole_of_a_learners_group_that_the_test_changes_a_part_of():
    run = run_of("task=bandits", "learner=rl2_attention", "+eval.learner={memory: {blocks: 1}}")
    assert run.eval_learner.memory.blocks == 1
    assert protocol(run, [], None)["learner"] == {
        **run.config["learner"],
        "memory": {**run.config["learner"]["memory"], "blocks": 1},
    }


def test_what_is_tested_is_images_as_they_are():
    run = run_of("task=cifar_fs", "task.augment.support.flip=true", "++eval.task.queries=7")
    assert evaluated_on(run) == {**run.config["task"], "queries": 7, "augment": None}
    assert evaluated_on(run_of("task=sinusoid")).keys() == run_of("task=sinusoid").config["task"].keys()
    fields = [field.name for field in dataclasses.fields(run.eval_tasks)]
    assert {name: getattr(run.eval_tasks, name) for name in fields} == {
        name: value for name, value in evaluated_on(run).items() if name != "_target_"
    }


FOUND: dict[str, Any] = {
    "protocol": {"split": "test", "metric": "mse", "episodes": 20, "task": {"_target_": "own.Wards"}},
    "test": {"mse": {"mean": 0.5, "ci95": 0.1}},
    "test_by_inner_steps": {},
    "state": {"state": "last", "step": 1},
    "training": {"steps": 1, "meta_batch": 4, "command": "metarun task=sinusoid"},
    "speed": {"minutes": 1.0},
}


def told(capsys, **found: Any) -> list[str]:
    tell({**FOUND, **found}, Path("runs/1"))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("part", "damaged"),
    [('"command"', '"comma.d"'), ('{"minutes": 1.0}', "null"), ("1.0", '"1.0"'), ("20", "")],
)
def test_results_of_which_a_part_is_damaged_are_told_in_one_line(tmp_path, part, damaged):
    whole = json.dumps(FOUND)
    (tmp_path / "results.json").write_text(whole)
    assert earlier_results(tmp_path) == FOUND
    (tmp_path / "results.json").write_text(whole.replace(part, damaged))
    with pytest.raises(DataError, match=r"results.json is damaged \(.+\); move it away"):
        earlier_results(tmp_path)


def test_names_that_people_gave_are_told_as_they_are(capsys):
    figure = {"mean": 0.25, "ci95": None, "tasks": 1}
    groups = {"metric": "mse", "level": 0.5, "each": dict.fromkeys(["[/b] x", "ward [north]", "a\x1b[31m"], figure)}
    lines = told(capsys, test_groups=groups, paper={"source": "x", "figures": {}})
    assert {"of [/b] x 0.2500", "of ward [north] 0.2500", "of a\\x1b[31m 0.2500"} < set(lines)


def test_a_long_name_is_told_whole_in_one_line_where_that_is_no_terminal_and_folded_in_one(capsys):
    name = "averylongname" * 10
    tests = {name: {"figures": {"mse": {"mean": 0.25, "ci95": 0.1}}, "by_shots": {}}}
    assert f"on {name} 0.2500 ± 0.1000" in told(capsys, tests=tests)
    narrow = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    narrow.print(table_of(figure_rows({**FOUND, "tests": tests}), {}))
    lines = narrow.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert name in "".join("".join(line.split()[:1]) for line in lines)


@pytest.mark.parametrize("metric", ["mse", "abs_loss", "loss", "worst", "error_after_all"])
def test_a_metric_of_any_name_has_all_its_figures(metric):
    def figure(mean: float) -> dict[str, float]:
        return {"mean": mean, "ci95": 0.1}

    found = {
        **FOUND,
        "protocol": {**FOUND["protocol"], "metric": metric},
        "test": {"loss": figure(9), "loss_inductive": figure(9)},
        "test_by_inner_steps": {"5": {metric: figure(3)}},
        "test_tail": {"metric": metric, "level": 0.5, "worst": 5.0, "cvar": 4.0},
    }
    found["test"] |= {metric: figure(1), f"{metric}_inductive": figure(2)}
    named = {"": 1, "_inductive": 2, "_after_5": 3, "_cvar": 4, "_worst": 5}
    assert {end: figure_of(found, metric + end)["mean"] for end in named} == named
    told = ["1.0000 ± 0.1000", "2.0000 ± 0.1000", "5.0000", "4.0000", "3.0000 ± 0.1000"]
    assert [value for _, value, *_ in figure_rows(found)] == told
