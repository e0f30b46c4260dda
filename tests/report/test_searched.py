"""What settings that were swept over are good for, in charts."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from metarun.report.experiments import asked_for, groups
from metarun.report.runs import SavedRun
from metarun.report.searched import Tried, axis_of, follows, gathered, parallel, searched, varied

MAML, REPTILE = "metarun.learners.maml.MAML", "metarun.learners.reptile.Reptile"


def run(mean: float | None, metric: str = "accuracy", **settings) -> SavedRun:
    """A run that has these settings and came to this figure; None: it is not finished."""
    config = {"learner._target_": MAML, "train.seed": 0} | {key.replace("__", "."): v for key, v in settings.items()}
    figures = {metric: {"mean": mean, "ci95": 0.01}}
    task = {"_target_": "metarun.tasks.strokes.Strokes", "ways": config.get("task.ways", 5), "shots": 1}
    protocol = {"split": "test", "metric": metric, "task": task, "learner": {}, "episodes": 8, "seed": 0}
    results = None if mean is None else {"protocol": protocol, "test": figures}
    return SavedRun(Path("x"), "x", "finished", "", config, results, [], None, None)


def test_a_runs_command_tells_what_was_asked_for_if_it_has_one():
    """Python 3.11 would read the command of one that has none from standard input."""
    known = run(0.5)
    for command, asked in (
        ("metarun -m learner=maml +task.ways=5", {"learner", "task.ways"}),
        (None, set()),
        ("'", set()),
    ):
        assert asked_for([replace(known, results={**known.results, "training": {"command": command}})]) == asked


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
    returns = [run(m, "return", learner__inner_lr=lr) for m, lr in ((0.7, 0.4), (0.5, 0.1))]
    assert [one.values for one in gathered(returns, ["learner.inner_lr"], "return")] == [(0.1,), (0.4,)]
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
    alone = run(0.9, learner__inner_lr=0.4), run(0.7, learner__inner_lr=0.1)
    assert len(searched(alone)) == 1
    diverged = run(0.9, learner__inner_lr=0.4, train__seed=1)
    diverged.results["test"]["accuracy"]["mean"] = None
    assert searched([*alone, diverged]) == []  # a mean of 0.4's other seed would be of other seeds than 0.1's
    assert searched([]) == []


def words(svg: str) -> list[str]:
    """The words of a plot, in their order."""
    return [part.split(">")[-1] for part in svg.split("</text>")[:-1]]


@pytest.mark.filterwarnings("error")
def test_values_in_any_letters_are_the_browsers_to_draw():
    (chart,) = searched([run(m, task__path=path) for m, path in ((0.5, "数据甲"), (0.7, "数据乙"))])
    assert {"数据甲", "数据乙"} < set(words(chart.svg))


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
    runs = [run(m, task__path=path) for m, path in ((0.5, r"a_$b_$c"), (0.7, "b$"))]
    (chart,) = searched(runs)
    assert {"a_$b_$c", "b$"} <= set(words(chart.svg))
    each = (("a_$b_$c", 1, 1), ("b$", 1, 2), ("a_$b_$c", 2, 2), ("b$", 2, 1))
    (chart,) = searched([run(0.1, task__path=path, learner__a=a, learner__b=b) for path, a, b in each])
    assert {"a_$b_$c", "b$"} <= set(words(chart.svg))


def test_values_on_an_axis():
    assert axis_of([0.1, 0.01, 10]) == ([0.1, 0.01, 10.0], [(0.01, "0.01"), (0.1, "0.1"), (10.0, "10")], True)
    assert axis_of([1, 3]).log is False
    assert axis_of([0, 3]).log is False
    assert axis_of(["b", "a"]) == ([1.0, 0.0], [(0, "a"), (1, "b")], False)
    assert axis_of([30, "null", 1.0]) == ([1.0, 2.0, 0.0], [(0, "1"), (1, "30"), (2, "null")], False)
    assert [text for _, text in axis_of([1_000_001, 1_000_002]).ticks] == ["1000001", "1000002"]
    assert axis_of([0.01, 1.0]).heights([0.01, 0.1, 1.0]) == pytest.approx([0, 0.5, 1])
    assert axis_of([4, 4]).heights([4, 4]) == [0.5, 0.5]


def test_numbers_and_words_of_one_setting_stand_by_what_they_are_called():
    """On a map, and as parallel coordinates with the lines at their words."""
    clips = ((0.1, None, 0.01), (0.2, 10.0, 0.01), (0.3, None, 0.02), (0.4, 10.0, 0.02))
    (chart,) = searched([run(m, train__clip_norm=clip, learner__inner_lr=lr) for m, clip, lr in clips])
    assert {"10", "None", "0.01", "0.02", "40.0"} <= set(words(chart.svg))

    _, axes = plt.subplots()
    tried = [Tried((clip, 1, 2), mean, (mean,)) for clip, mean in ((0.5, 1.0), ("None", 2.0), (10.0, 3.0))]
    parallel(axes, tried, ["a", "b", "c"], "accuracy")
    lines = [line.get_ydata()[0] for line in axes.lines[:3]]
    at = {text.get_text(): text.get_position()[1] for text in axes.texts if text.get_position()[0] < 1}
    assert at == dict(zip(("0.5", "None", "10"), lines, strict=True)) == {"0.5": 0, "10": 0.5, "None": 1}
    plt.close()


def test_of_settings_that_are_alike_the_one_that_was_asked_for_is_told():
    runs = [run(0.1 * n, train__steps=n, optimizer__decay_steps=n) for n in (3, 5)]
    assert varied(runs) == ["optimizer.decay_steps"]
    for one in runs:
        one.results["training"] = {"command": "metarun -m 'train.steps=3,5' task=strokes"}
    assert varied(runs) == ["train.steps"]
    assert list(groups([replace(one, path=Path("0")) for one in runs])) == ["steps=3", "steps=5"]


def test_a_whole_number_is_the_same_setting_however_it_is_written():
    runs = [run(0.5, train__seed=s, train__clip_norm=clip) for s, clip in ((0, 10), (1, 10.0), (2, 10.5))]
    assert [len(members) for members in groups(replace(one, path=Path("0")) for one in runs).values()] == [2, 1]
