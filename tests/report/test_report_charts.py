"""The report's charts: their lines, and which of them stand in one plot."""

from types import SimpleNamespace
from typing import Any

import pytest

from metarun.report import charts, plots, setups
from metarun.report.plots import Line


def run(name: str = "run", rows: Any = (), config: Any = None, results: Any = None, metric: str = "accuracy") -> Any:
    """What charts ask of a run."""
    settings = {"task._target_": "metarun.tasks.strokes.Strokes", "task.ways": 5, "task.shots": 1}
    return SimpleNamespace(
        name=name, rows=list(rows), config=settings | (config or {}), results=results, metric=metric,
        part=lambda name: (results or {}).get(name) or {}, tested=lambda part="": (results or {}).get(part, {}),
    )  # fmt: skip


def rows(split: str, **metrics: list[float]) -> list[dict[str, Any]]:
    every = zip(*metrics.values(), strict=True)
    return [{"step": i, "split": split, **dict(zip(metrics, values, strict=True))} for i, values in enumerate(every, 1)]


def titled(groups: dict[str, list[Any]]) -> dict[str, list[str]]:
    """The names in each chart's legend."""
    return {chart.title: [key.name for key in chart.legend] for chart in charts.charts(groups)}


def test_a_curve_is_the_mean_of_the_seeds_in_per_cent_and_ends_with_the_shortest_that_is_finished():
    values = {"a": {1: 0.1, 2: 0.2, 3: 0.3}, "b": {1: 0.3, 2: 0.6}, "stopped": {1: 0.9}}
    seeds = [SimpleNamespace(name=name, results=name != "stopped") for name in values]
    (line,) = charts.curves({"one": seeds}, lambda seed: values[seed.name], 100)
    assert (line.place, line.name, line.x) == (0, "one", [1, 2])
    assert line.y == pytest.approx([20, 40])
    assert [pytest.approx(end) for end in line.spread] == [[10, 20], [30, 60]]
    (line,) = charts.curves({"one": seeds[2:]}, lambda seed: values[seed.name], 100)
    assert (line.x, line.y, line.spread) == ([1], [90], None)


def test_test_figures_are_the_mean_of_the_seeds_give_or_take_the_mean_of_their_intervals():
    values = {
        "a": {0: {"mean": 0.2, "ci95": 0.02}, 1: {"mean": 0.5, "ci95": 0.04}, 5: {"mean": 0.9, "ci95": 0}},
        "b": {0: {"mean": 0.4, "ci95": 0.04}, 1: {"mean": 0.7, "ci95": None}},
    }
    seeds = [SimpleNamespace(name=name) for name in values]
    (line,) = charts.mean_figures({"one": seeds}, lambda seed: values[seed.name], 100)
    assert (line.x, line.y) == ([0, 1], [pytest.approx(30), pytest.approx(60)])
    assert [pytest.approx(end) for end in line.spread] == [[27, 58], [33, 62]]


@pytest.mark.usefixtures("unsaved")
def test_each_task_and_each_training_protocol_has_a_plot_of_its_own_with_its_chance():
    accuracy = [*rows("train", accuracy=[0.1, 0.2]), *rows("val", accuracy=[0.3, 0.4])]
    twenty = {"train.task.ways": 20}
    groups = {
        "maml": [run(rows=accuracy)],
        "protonet": [run(rows=accuracy, config=twenty)],
        "omniglot": [run(rows=accuracy, config={"task._target_": "metarun.tasks.omniglot.Omniglot"})],
        "more queries": [run(rows=accuracy, config={"task.queries": 9, "task.of_later": None, "task.data_dir": "x"})],
    }
    five, nineteen = "chance, 20 %", "chance, 5 %"
    assert titled(groups) == {
        "Validation accuracy: strokes, 5-way 1-shot": ["maml", "protonet", "more queries", five],
        "Validation accuracy: omniglot, 5-way 1-shot": ["omniglot", five],
        "Training accuracy: strokes, 5-way 1-shot": ["maml", "more queries", five],
        "Training accuracy: strokes, 20-way 1-shot": ["protonet", nineteen],
        "Training accuracy: omniglot, 5-way 1-shot": ["omniglot", five],
    }


@pytest.mark.usefixtures("unsaved")
def test_a_test_on_other_tasks_than_training_has_a_plot_of_its_own_and_shots_share_one():
    def tested(ways: int, shots: int) -> dict[str, Any]:
        figure = {"accuracy": {"mean": 0.5, "ci95": 0.1}}
        task = {"_target_": "metarun.tasks.strokes.Strokes", "ways": ways, "shots": shots}
        steps = {"by_inner_steps": {"0": figure, "1": figure}}
        return {
            "protocol": {"task": task, "split": "test"},
            "test": figure,
            **steps,
            "by_shots": {"1": {"figures": figure, "by_inner_steps": {}}},
        }

    groups = {f"{ways}, {shots}": [run(results=tested(ways, shots))] for ways, shots in ((5, 1), (20, 1), (5, 5))}
    assert titled(groups) == {
        "Test accuracy by inner steps: strokes, 5-way 1-shot": ["5, 1", "chance, 20 %"],
        "Test accuracy by inner steps: strokes, 20-way 1-shot": ["20, 1", "chance, 5 %"],
        "Test accuracy by inner steps: strokes, 5-way 5-shot": ["5, 5", "chance, 20 %"],
        "Test accuracy by shots: strokes, 5-way": ["5, 1", "5, 5", "chance, 20 %"],
        "Test accuracy by shots: strokes, 20-way": ["20, 1", "chance, 5 %"],
    }


def test_the_worst_tasks_stand_against_the_mean_of_several_experiments_without_a_line_for_chance():
    def tested(mean: float, worst: float) -> Any:
        tail = {"metric": "accuracy", "level": 0.7, "worst": worst / 2, "cvar": worst}
        found = {"protocol": {"split": "test"}, "test": {"accuracy": {"mean": mean, "ci95": 0.01}}, "test_tail": tail}
        return run(results=found)

    one, other = tested(0.8, 0.5), tested(0.7, 0.6)
    assert titled({"one": [one]}) == {}
    title = "Test accuracy of the worst tasks against the mean: strokes, 5-way 1-shot"
    assert titled({"one": [one], "other": [other]}) == {title: ["one", "other"]}
    lines = charts.means_and({"one": [one], "other": [other]}, "accuracy_cvar", "accuracy")
    assert [(line.x, line.y) for line in lines] == [([80], [50]), ([70], [60])]


@pytest.mark.usefixtures("unsaved")
def test_of_many_setups_the_first_have_charts_and_the_last_of_these_says_how_many_have_none():
    every = {str(n): [run(rows=rows("val", accuracy=[0.3]), config={"task.ways": n})] for n in range(2, 16)}
    drawn = charts.charts(every)
    assert [chart.left_out for chart in drawn] == [*[""] * 11, "2 more setups are left out"]
    assert charts.ended(drawn[:1], 2, "map")[0].left_out == "1 more map is left out"
    assert charts.charts({"2": every["2"]})[0].left_out == ""


def test_setups_that_would_read_alike_are_told_apart():
    one, other = (setups.setup(run(config={"task.split": split}), "val") for split in ("finn", "vinyals"))
    assert list(setups.titles([one, other]).values()) == [
        "strokes, 5-way 1-shot, split=finn", "strokes, 5-way 1-shot, split=vinyals"
    ]  # fmt: skip
    sine = run(config={"task._target_": "metarun.tasks.sinusoid.Sinusoid", "task.ways": None, "task.shots": 10})
    assert (setups.setup(sine, "val").words, setups.setup(sine, "val").chance) == ("sinusoid, 10 shots", None)


@pytest.mark.usefixtures("unsaved")
def test_classifications_have_curves_of_their_loss_and_a_loss_that_is_the_metric_has_none():
    classified = run(rows=rows("val", accuracy=[0.3, 0.4], loss=[1.5, 1.25]))
    assert [title.partition(":")[0] for title in titled({"a": [classified]})] == [
        "Validation accuracy",
        "Validation loss",
    ]
    (line,) = charts.curves({"a": [classified]}, lambda run: charts.over_steps(run, "val", "loss"), 1)
    assert line.y == [1.5, 1.25]
    fitted = run(rows=rows("val", mse=[0.3, 0.4], loss=[0.3, 0.4]), metric="mse", config={"task.ways": None})
    assert list(titled({"a": [fitted]})) == ["Validation mse: strokes, 1 shots"]


def test_an_experiment_has_its_colour_in_every_plot_whichever_others_are_in_it():
    points = {"a": {}, "b": {1: 0.1}, "c": {1: 0.2}}
    lines = charts.curves(
        {name: [SimpleNamespace(name=name, results=True)] for name in "abc"}, lambda r: points[r.name], 1
    )
    assert [(key.name, key.colour) for key in plots.legend(lines)] == [("b", "var(--c1)"), ("c", "var(--c2)")]
    drawn = plots.curves(lines, "accuracy")
    assert [f"var(--c{i})" in drawn for i in range(4)] == [False, True, True, False]
    assert plots.INK not in drawn


def test_of_many_experiments_the_first_dozen_has_names_and_no_two_look_alike():
    lines = [Line(i, str(i), [1, 2], [0.1, 0.2]) for i in range(15)]
    keys = plots.legend(lines)
    assert [key.name for key in keys] == [*map(str, range(12)), "3 others"]
    assert len({(key.colour, key.dashes) for key in keys}) == 13
    assert plots.curves(lines, "loss").count("var(--c") == 12


def test_the_axis_of_meta_steps_is_logarithmic_where_lengths_are_very_unequal():
    def powers(*lengths: int) -> bool:
        lines = [Line(i, "a", [1.0, float(n)], [0.1, 0.2]) for i, n in enumerate(lengths)]
        return ">10,000<" in plots.curves(lines, "loss")

    assert powers(20_000, 2_000)
    assert not powers(20_000, 10_000)


def test_an_error_that_diverged_does_not_hide_the_others():
    def logarithmic(*values: float, chance: float | None = None) -> bool:
        line = Line(0, "a", [0.0, 1.0], list(values), ([0.0, -1.0], [2.0, 9e4]))
        return ">1,000<" in plots.points([line], "inner steps", "mse", chance)

    assert logarithmic(0.5, 26_000)
    assert not logarithmic(900, 1100)
    assert not logarithmic(0.5, 26_000, chance=20)


def test_plots_have_one_width_and_one_size_of_text():
    lines = [Line(0, "a name that is rather long", [1.0, 2000.0], [0.1, 0.2], ([0.0, 0.1], [0.2, 0.3]))]
    every = [plots.curves(lines, "accuracy, %", 20), plots.points(lines, "shots", "mse")]
    for drawn in every:
        assert 'viewBox="0 0 288 187.2"' in drawn
        assert drawn.count("font-size: 9px") == drawn.count("<text")
        assert "a name" not in drawn


def test_bars_begin_at_zero_and_are_as_long_as_their_numbers():
    results = ({"speed": {"tasks_per_s": 50.0}}, {"speed": {"tasks_per_s": 200.0}}, {"speed": {"tasks_per_s": None}})
    (one,) = charts.bars([run(name, results=each) for name, each in zip("abc", results, strict=True)])
    assert (one.title, one.unit, one.bars) == ("Training speed", "tasks/s", [("a", 50, 25), ("b", 200, 100)])


def in_trials(rewards: list[float], best: list[float] | None = None, **settings: Any) -> Any:
    task = {"task._target_": "metarun.tasks.bandits.Bandits", "task.ways": None, "task.shots": None, **settings}
    told = {"reward": [{"mean": value, "ci95": 0.1} for value in rewards], "random": [0.5, 0.5, 0.5], "best": best}
    return run(config=task, metric="", results={"by_step": told})


@pytest.mark.usefixtures("unsaved")
def test_within_a_trial_lines_are_means_of_seeds_beside_a_random_policy_and_who_knows_the_task():
    groups = {"rl2": [in_trials([0.5, 0.6, 0.7], [0.8, 0.8, 0.8]), in_trials([0.5, 0.7, 0.7], [0.8, 0.8, 0.8])]}
    groups["maml"] = [in_trials([0.4, 0.4, 0.4], [0.8, 0.8, 0.8])]
    both, lines = ["rl2", "maml", "at random"], charts.trial_lines(groups, charts.regrets)
    assert titled(groups) == {
        "Reward by step of a trial: bandits": [*both, "who knows the task"],
        "Regret by step: bandits": both,
    }
    assert [line.x for line in lines] == [[1, 2, 3]] * 3
    assert lines[0].y == pytest.approx([0.3, 0.45, 0.55])
    assert [pytest.approx(end) for end in lines[0].spread] == [[0.3, 0.4, 0.5], [0.3, 0.5, 0.6]]
    assert lines[1].y == pytest.approx([0.4, 0.8, 1.2])
    assert lines[2].y == pytest.approx([0.3, 0.6, 0.9])
    assert len({(key.colour, key.dashes) for key in plots.legend(lines)}) == 3
    paid = charts.trial_lines(groups, charts.rewards)
    assert [line.y for line in paid] == [pytest.approx(y) for y in ([0.5, 0.65, 0.7], [0.4] * 3, [0.5] * 3, [0.8] * 3)]


def test_a_task_that_does_not_know_its_best_has_no_regret():
    assert list(titled({"rl2": [in_trials([0.5, 0.6, 0.7])]})) == ["Reward by step of a trial: bandits"]
    assert titled({"maml": [run(metric="", results={"by_step": None})]}) == {}
