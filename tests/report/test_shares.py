"""Heat maps of shares by group: which figures make one, and what stands in it."""

from types import SimpleNamespace

import numpy as np

from metarun.engine import Evaluation
from metarun.engine.evaluate import Answers
from metarun.report.shares import of_a_run, shares
from metarun.run.tails import of_groups

LEAVES = {
    "line": {"leaf_1": 0.9, "leaf_2": 0.1, "log_likelihood": -1.0, "at_1": 0.4, "at_2": 0.5},
    "ripple": {"leaf_1": 0.25, "leaf_2": 0.75, "log_likelihood": -2.0, "at_1": 0.4, "at_2": 0.5},
}


def run(measured):
    return SimpleNamespace(name="runs/a", tested=lambda part: {"measured": measured} if part == "groups" else None)


def test_figures_that_are_numbered_and_add_up_to_one_are_shares():
    assert of_a_run(run(LEAVES)) == {"leaf": {"line": [0.9, 0.1], "ripple": [0.25, 0.75]}}
    assert of_a_run(run({})) == {}
    assert of_a_run(SimpleNamespace(tested=lambda part: None)) == {}


def test_a_map_has_a_row_for_each_group_and_says_each_share():
    (chart,) = shares([run(LEAVES), run({})])
    assert chart.part == "Groups of tasks"
    assert chart.title == "Mean share of each leaf in a task, by group: runs/a"
    for said in ("90 %", "10 %", "25 %", "75 %", "line", "ripple"):
        assert said in chart.svg


def test_a_learners_own_figures_are_told_by_group():
    class Grouped:
        def group_names(self, split):
            return ["a", "b", "c"]

    of = SimpleNamespace(
        tasks=SimpleNamespace(metric="mse"), eval_tasks=Grouped(), eval=SimpleNamespace(split="test", tail=0.5)
    )
    metrics = {"mse": np.array([1.0, 2.0, 4.0]), "loss": np.ones(3), "leaf_1": np.array([0.2, 0.4, 0.9])}
    answers = Answers(np.zeros((3, 1, 1)), np.zeros((3, 1, 1)), None, np.array([2, 2, 0]), metrics)
    found = of_groups(of, Evaluation({}, answers))
    assert {group: list(own) for group, own in found["measured"].items()} == {"a": ["leaf_1"], "c": ["leaf_1"]}
    np.testing.assert_allclose([found["measured"][g]["leaf_1"] for g in "ac"], [0.9, 0.3])
