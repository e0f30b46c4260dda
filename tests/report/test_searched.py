"""What settings that were swept over are good for, in charts."""

from pathlib import Path

import pytest

from metarun.report.runs import SavedRun
from metarun.report.searched import follows, gathered, height, placed, searched, varied

MAML, REPTILE = "metarun.learners.maml.MAML", "metarun.learners.reptile.Reptile"


def run(mean: float | None, metric: str = "accuracy", **settings) -> SavedRun:
    """A run that has these settings and came to this figure; None: it is not finished."""
    config = {"learner._target_": MAML, "train.seed": 0} | {key.replace("__", "."): v for key, v in settings.items()}
    figures = {metric: {"mean": mean, "ci95": 0.01}}
    task = {"_target_": "metarun.tasks.strokes.Strokes", "ways": config.get("task.ways", 5), "shots": 1}
    protocol = {"split": "test", "metric": metric, "task": task, "learner": {}, "episodes": 8, "seed": 0}
    results = None if mean is None else {"protocol": protocol, "test": figures}
    return SavedRun(Path("x"), "x", "finished", "", config, results, [], None, None)


def test_a_setting_that_a_choice_brings_along_is_not_one_of_its_own():
    runs = [
        run(0.5, learner__inner_lr=0.1, learner__order=2),
        run(0.6, learner__inner_lr=0.4, learner__order=2),
        run(0.7, learner___target_=REPTILE, learner__inner_lr=0.1),
    ]
    assert varied(runs) == ["learner._target_", "learner.inner_lr"]


@pytest.mark.parametrize(
    ("column", "other", "choice", "expected"),
    [
        ("1122", "1122", False, True),  # the same by another name
        ("1122", "aabb", False, False),
        ("1112", "aabb", False, False),
        ("1111", "aabb", True, True),
        ("1133", "aabb", True, True),
        ("1233", "aabb", True, False),
        ("1234", "abcd", False, False),  # a search draws each anew: no two values are alike
        ("1122", "abcd", True, True),
    ],
)
def test_what_follows_from_another_setting(column, other, choice, expected):
    assert follows(column, other, choice) is expected


def test_seeds_are_gathered_and_the_best_is_last():
    runs = [run(m, learner__inner_lr=lr, train__seed=s) for m, lr, s in ((0.5, 0.1, 0), (0.7, 0.1, 1), (0.65, 0.4, 0))]
    tried = gathered(runs, ["learner.inner_lr"], "accuracy")
    assert [(one.values, one.mean) for one in tried] == [((0.1,), pytest.approx(60)), ((0.4,), pytest.approx(65))]
    assert tried[0].runs == (50.0, 70.0)
    errors = [run(m, "mse", learner__inner_lr=lr) for m, lr in ((0.5, 0.1), (0.7, 0.4))]
    assert [one.values for one in gathered(errors, ["learner.inner_lr"], "mse")] == [(0.4,), (0.1,)]


def test_a_chart_for_each_setup():
    """Ways change what a figure means: they are no setting whose values can be held against each other."""
    runs = [run(m, learner__inner_lr=lr, task__ways=w) for w in (5, 20) for m, lr in ((0.5, 0.1), (0.7, 0.4))]
    assert [chart.title for chart in searched(runs)] == [
        "Test accuracy by learner.inner_lr: strokes, 5-way 1-shot",
        "Test accuracy by learner.inner_lr: strokes, 20-way 1-shot",
    ]


def test_what_differs_in_nothing_or_is_not_finished_has_no_chart():
    assert searched([run(0.5), run(0.6, train__seed=1)]) == []
    assert searched([run(0.5, learner__inner_lr=0.1), run(None, learner__inner_lr=0.4)]) == []
    assert searched([]) == []


def words(svg: str) -> list[str]:
    """The words of a plot, in their order."""
    return [part.split(">")[-1] for part in svg.split("</text>")[:-1]]


def test_two_settings_are_a_map_with_the_means_in_it():
    runs = [
        run(0.01 * (10 * steps + lr), learner__inner_lr=lr, learner__inner_steps=steps)
        for lr in (1, 2)
        for steps in (1, 3, 5)
    ]
    (chart,) = searched(runs)
    assert chart.title == "Test accuracy by learner.inner_lr and learner.inner_steps: strokes, 5-way 1-shot"
    found = words(chart.svg)
    assert {"11.0", "12.0", "31.0", "32.0", "51.0", "52.0"} < set(found)


def test_more_settings_are_parallel_coordinates():
    runs = [
        run(0.1 * (1 + lr), learner__inner_lr=lr, learner__inner_steps=k, train__meta_batch=b)
        for lr, k, b in ((1, 1, 2), (2, 5, 4), (3, 3, 8))
    ]
    (chart,) = searched(runs)
    assert chart.title == "Test accuracy by settings: strokes, 5-way 1-shot"
    assert {"inner_lr", "inner_steps", "meta_batch", "accuracy, %"} < set(words(chart.svg))


def test_names_with_dollars_are_no_mathematics():
    runs = [run(m, task__path=path) for m, path in ((0.5, "$a"), (0.7, "b$"))]
    (chart,) = searched([one for one in runs])
    assert {"$a", "b$"} <= set(words(chart.svg))


def test_values_on_an_axis():
    assert placed([0.1, 0.01, 10]) == ([0.1, 0.01, 10.0], [(0.01, "0.01"), (0.1, "0.1"), (10.0, "10")], True)
    assert placed([1, 3])[2] is False
    assert placed([0, 3])[2] is False
    assert placed(["b", "a"]) == ([1.0, 0.0], [(0, "a"), (1, "b")], False)
    assert placed([3, "null", 1]) == ([1.0, 2.0, 0.0], [(0, "1"), (1, "3"), (2, "null")], False)
    assert height([0.01, 0.1, 1.0]) == pytest.approx([0, 0.5, 1])
    assert height([4, 4]) == [0.5, 0.5]
