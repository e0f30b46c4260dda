"""The worst tasks of a test and its groups of tasks, against loops over the tasks."""

from types import SimpleNamespace

import numpy as np
import pytest

from metarun.report import tables
from metarun.report.runs import SavedRun
from metarun.run import tails
from metarun.run.figures import figure_of, papers
from metarun.run.results import tail_rows

VALUES = np.random.default_rng(0).gamma(2.0, 1.5, 43)


@pytest.mark.parametrize("metric", ["mse", "accuracy"])
@pytest.mark.parametrize("level", [0.0, 0.5, 0.7, 0.9, 0.99])
def test_the_tail_mean_is_the_mean_of_the_worst_share(metric, level):
    """The least of Rockafellar and Uryasev's bound, which is another way to define it; values that are ten times there
    make every share a whole number."""
    values = np.tile(VALUES, 100)
    order = sorted(values, reverse=metric == "mse")
    worst = order[: round((1 - level) * len(order))]
    np.testing.assert_allclose(tails.cvar(values, metric, level), np.mean(worst), rtol=1e-9)
    badness = VALUES if metric == "mse" else -VALUES
    share = (1 - level) * len(VALUES)
    bounds = [v + np.maximum(badness - v, 0).sum() / share for v in badness]
    if share >= 1:
        sign = 1 if metric == "mse" else -1
        np.testing.assert_allclose(tails.cvar(VALUES, metric, level), sign * min(bounds), rtol=1e-9)
    else:
        assert tails.cvar(VALUES, metric, level) == tails.worst(VALUES, metric)
    assert tails.worst(VALUES, metric) == (max if metric == "mse" else min)(VALUES)


def test_what_is_no_number_is_the_worst():
    assert np.isnan(tails.worst(np.array([1.0, np.nan, 2.0]), "mse"))
    assert np.isnan(tails.cvar(np.array([1.0, np.nan, 2.0]), "mse", 0.7))
    assert tails.cvar(np.array([1.0, np.inf, 2.0]), "mse", 0.0) == np.inf


class Families:
    metric = "mse"

    def group_names(self, split):
        return ["one", "two", "three", "none of it"] if split == "test" else None


def made(split="test", level=0.5):
    groups = np.arange(len(VALUES)) % 3
    groups[groups == 1] = 2
    groups[4] = 1  # one task alone
    answers = SimpleNamespace(metrics={"mse": VALUES, "loss": np.zeros(43)}, groups=groups)
    run = SimpleNamespace(tasks=Families(), eval_tasks=Families(), eval=SimpleNamespace(split=split, tail=level))
    return run, SimpleNamespace(answers=answers), groups


def test_groups_are_told_as_a_loop_over_the_tasks_finds_them():
    run, evaluation, groups = made()
    found = tails.of_groups(run, evaluation)
    means = {}
    for number, name in enumerate(("one", "two", "three")):
        own = [value for value, group in zip(VALUES, groups, strict=True) if group == number]
        means[name] = sum(own) / len(own)
        assert found["each"][name]["tasks"] == len(own)
        np.testing.assert_allclose(found["each"][name]["mean"], means[name])
        if len(own) == 1:
            assert found["each"][name]["ci95"] is None
        else:
            np.testing.assert_allclose(found["each"][name]["ci95"], 1.96 * np.std(own, ddof=1) / len(own) ** 0.5)
    assert list(found["each"]) == list(means)
    ordered = sorted(means.values(), reverse=True)
    np.testing.assert_allclose(found["mean"], sum(ordered) / 3)
    np.testing.assert_allclose(found["worst"], ordered[0])
    assert means[found["worst_group"]] == found["worst"]
    np.testing.assert_allclose(found["cvar"], (ordered[0] + 0.5 * ordered[1]) / 1.5)
    assert tails.of_groups(*made(split="val")[:2]) is None


def test_results_have_them_by_name_and_the_terminal_tells_them():
    run, evaluation, _ = made()
    found = {
        "protocol": {"split": "test", "metric": "mse"},
        "test": {"mse": {"mean": 3.0, "ci95": 0.1}},
        "test_tail": tails.of_tasks(run, evaluation),
        "test_groups": tails.of_groups(run, evaluation),
        "paper": {"figures": {"mse_cvar": [1.5, None]}},
    }
    for name, part, key in (
        ("mse_worst", "test_tail", "worst"), ("mse_cvar", "test_tail", "cvar"),
        ("mse_groups", "test_groups", "mean"), ("mse_groups_worst", "test_groups", "worst"),
        ("mse_groups_cvar", "test_groups", "cvar"),
    ):  # fmt: skip
        assert figure_of(found, name) == {"mean": found[part][key]}
        assert figure_of({**found, part: None}, name) is None
    assert figure_of(found, "loss_worst") is None
    assert figure_of(found, "mse") == found["test"]["mse"]
    rows = {name.strip(): (value, theirs) for name, value, theirs, _ in tail_rows(found)}
    assert rows["worst 50 % of tasks"] == (f"{found['test_tail']['cvar']:.4f}", papers(found, "mse_cvar"))
    assert rows["of two"][0] == f"{VALUES[4]:.4f}"
    many = {f"group {i}": {"mean": float(i), "ci95": None, "tasks": 1} for i in range(13)}
    rows = [name.strip() for name, *_ in tail_rows({**found, "test_groups": {**found["test_groups"], "each": many}})]
    assert rows[2] == "mean of 13 groups"
    assert rows[4] == "worst 50 % of groups"


def test_a_report_has_a_column_for_each_of_a_few_groups_and_three_for_many(tmp_path):
    run, evaluation, _ = made()
    found = {
        "protocol": {"split": "test", "metric": "mse"},
        "test": {"mse": {"mean": 3.0, "ci95": 0.1}},
        "test_tail": tails.of_tasks(run, evaluation),
        "test_groups": tails.of_groups(run, evaluation),
    }
    many = {f"group {i}": {"mean": float(i), "ci95": None, "tasks": 1} for i in range(13)}
    other = {**found, "test_groups": {**found["test_groups"], "each": many}}
    few, wide = (SavedRun(tmp_path, name, "finished", "", {}, one, [], None, None) for name, one in
                 (("few", found), ("many", other)))  # fmt: skip
    table = tables.by_group([few, wide])
    assert table.columns == ["run", "of", "one", "two", "three"]
    means = [one["mean"] for one in found["test_groups"]["each"].values()]
    assert [[cell.value for cell in row[2:]] for row in table.rows] == [means]
    assert tables.by_group([wide]) is None
    table = tables.tails([few, wide])
    assert table.columns == [
        "run", "mean", "worst task", "worst 50 % of tasks", "groups", "mean of groups", "worst group", "it is",
        "worst 50 % of groups",
    ]  # fmt: skip
    tail, groups = found["test_tail"], found["test_groups"]
    assert [cell.value for cell in table.rows[0]] == [
        "few", 3.0, tail["worst"], tail["cvar"], 3, groups["mean"], groups["worst"], groups["worst_group"],
        groups["cvar"],
    ]  # fmt: skip
    assert table.rows[1][4].value == 13
