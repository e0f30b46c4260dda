"""What a report makes of runs: experiments and their seeds, sweeps, the papers' figures, curves."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from support import Page, changed

from metarun.config import flat
from metarun.report import charts, page, plots, runs, tables


def test_seeds_of_one_experiment_are_taken_together(two_runs, tmp_path):
    means = []
    for seed in range(3):
        shutil.copytree(two_runs / "sinusoid", tmp_path / str(seed))
        values = yaml.safe_load((tmp_path / str(seed) / "config.yaml").read_text())
        values["train"]["seed"] = seed
        (tmp_path / str(seed) / "config.yaml").write_text(yaml.safe_dump(values))
        results = json.loads((tmp_path / str(seed) / "results.json").read_text())
        means.append(float(seed))
        results["test"]["mse"]["mean"] = means[-1]
        (tmp_path / str(seed) / "results.json").write_text(json.dumps(results))
    found = runs.read(runs.find([tmp_path]))
    assert [len(members) for members in runs.groups(found).values()] == [3]
    table = tables.over_seeds(runs.groups(found))
    assert table is not None
    assert [cell.value for cell in table.rows[0][1:4]] == [3, np.mean(means), np.std(means, ddof=1)]
    assert runs.differences(found) == ["train.seed"]


def copies(source: Path, folder: Path, *settings: dict[str, Any]) -> list[runs.SavedRun]:
    """A sweep's runs: each with these settings more, in a directory that is a number."""
    for i, each in enumerate(settings):
        shutil.copytree(source, folder / str(i), ignore=shutil.ignore_patterns("checkpoints"))
        config_yaml = folder / str(i) / "config.yaml"
        config_yaml.write_text(yaml.safe_dump(nested(flat(yaml.safe_load(config_yaml.read_text())) | each)))
    return runs.read(runs.find([folder]))


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        group = found
        for part in path:
            group[part] = group.get(part) or {}
            group = group[part]
        group[last] = value
    return found


MAML, ANIL = ({"learner._target_": f"metarun.learners.{name}.{name.upper()}"} for name in ("maml", "anil"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            [MAML, MAML | {"train.seed": 1}, MAML | {"learner.inner_lr": 0.2}, ANIL],
            {"maml, inner_lr=0.4 (0)": 2, "maml, inner_lr=0.2 (2)": 1, "anil (3)": 1},
        ),
        (
            [
                {"optimizer._target_": f"optax.{name}", "optimizer.learning_rate": rate}
                for name in ("adam", "sgd")
                for rate in (0.1, 0.2)
            ],
            {f"{name}, learning_rate={rate} ({i + j})": 1
             for i, name in ((0, "adam"), (2, "sgd")) for j, rate in enumerate((0.1, 0.2))},
        ),
        (
            [{"paper.figures.accuracy": [0.9, 0.1], "task.shots": 1}, {"task.shots": 5}, {"train.task.ways": 20}],
            {"shots=1 (0)": 1, "shots=5 (1)": 1, "shots=1, ways=20 (2)": 1},
        ),
    ],
)  # fmt: skip
def test_a_sweeps_experiments_are_named_by_what_sets_them_apart(two_runs, tmp_path, settings, expected):
    found = runs.groups(copies(two_runs / "blobs", tmp_path, *settings))
    assert {name: len(members) for name, members in found.items()} == expected


def test_the_summary_tells_first_order_maml_from_maml(two_runs, tmp_path):
    found = copies(two_runs / "blobs", tmp_path, MAML, MAML | {"learner.first_order": True})
    assert [tables.summary_row(run)[2].text for run in found] == ["maml", "maml, first order"]


def test_over_seeds_each_seed_counts_once_and_runs_without_settings_stand_alone(two_runs, tmp_path):
    found = copies(two_runs / "sinusoid", tmp_path / "sweep", {"train.seed": 0}, {"train.seed": 0}, {"train.seed": 1})
    changed(tmp_path / "sweep" / "1" / "results.json", lambda c: c["test"]["mse"].pop("ci95"))
    for file in ("results.json", "metrics.jsonl"):  # of the first seed there is nothing yet
        (tmp_path / "sweep" / "0" / file).unlink()
    found = runs.read(runs.find([tmp_path / "sweep", tmp_path / "sweep" / ".." / "sweep" / "1"]))
    assert len(found) == 3
    (row,) = tables.over_seeds(runs.groups(found)).rows
    assert row[1].value == 2
    for run in found:
        (run.path / "config.yaml").write_text("")
    assert len(runs.groups(runs.read(runs.find([tmp_path / "sweep"])))) == 3


def test_a_setting_that_an_older_run_lacks_and_the_devices_do_not_set_seeds_apart(two_runs, tmp_path):
    more = {"train.seed": 1, "hardware.devices": 1, "learner.of_later": None}
    found = copies(
        two_runs / "blobs", tmp_path, {"train.seed": 0}, more, {"train.seed": 2, "hardware.precision": "bfloat16"}
    )
    assert [len(members) for members in runs.groups(found).values()] == [2, 1]
    assert "learner.of_later" not in runs.differences(found)


def test_a_seed_that_was_run_twice_counts_once_with_its_mean(two_runs, tmp_path):
    settings = ({"train.seed": 0}, {"train.seed": 0, "hardware.devices": 1}, {"train.seed": 1})
    copies(two_runs / "sinusoid", tmp_path, *settings)
    for i, mean in enumerate((0.1, 0.3, 0.1)):
        changed(tmp_path / str(i) / "results.json", lambda c, mean=mean: c["test"]["mse"].update(mean=mean))
    (row,) = tables.over_seeds(runs.groups(runs.read(runs.find([tmp_path])))).rows
    assert [cell.value for cell in row[1:3]] == [2, pytest.approx(0.15)]


def test_the_papers_figures_stand_beside_the_runs_with_who_quotes_them(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")
    paper = {"source": "A et al. 2017", "quoted_by": "B et al. 2020", "figures": {"mse_after_1": [0.67, 0.1]}}
    changed(tmp_path / "run" / "results.json", lambda c: c.update(paper=paper))
    (found,) = runs.read(runs.find([tmp_path]))
    after = found.results["test_by_inner_steps"]["1"]["mse"]
    (row,) = tables.beside_papers([found]).rows
    expected = ["run", "mse after 1", f"{after['mean']:.4f} ± {after['ci95']:.4f}", "0.67 ± 0.1"]
    assert [cell.text for cell in row] == [*expected, "A et al. 2017, as quoted by B et al. 2020"]
    assert "as quoted by B et al. 2020" in Page(page.html([found])).text
    assert "as quoted by B et al. 2020" in tables.as_markdown([found])


def test_figures_of_validation_say_so(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")

    def on_validation(content: Any) -> None:
        content["protocol"]["split"] = "val"
        for name in ("test", "test_by_inner_steps"):
            content[name.replace("test", "val")] = content.pop(name)

    changed(tmp_path / "run" / "results.json", on_validation)
    (found,) = runs.read(runs.find([tmp_path]))
    assert tables.figure_cell(found, "mse").text.endswith(" (val)")


def test_a_task_with_a_metric_of_its_own_is_summed_up_by_it(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")
    text = (tmp_path / "run" / "results.json").read_text()
    assert '"metric": "mse"' in text
    text = text.replace('"mse"', '"mae"')
    (tmp_path / "run" / "results.json").write_text(text)
    (found,) = runs.read(runs.find([tmp_path]))
    assert (found.metric, found.missing) == ("mae", [])


def test_a_curve_ends_where_its_shortest_seed_does_that_is_finished(monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda draw: draw(drawn))
    curves = {"a": {1: 0.1, 2: 0.2, 3: 0.3}, "b": {1: 0.3, 2: 0.4}, "stopped": {1: 0.9}}
    seeds = [SimpleNamespace(name=name, results=name != "stopped") for name in curves]

    class Axes(list):
        def plot(self, steps, values, **_):
            self.append((steps, values.tolist()))
            return [SimpleNamespace(get_color=lambda: "black")]

        fill_between = set_xlabel = set_ylabel = lambda *_, **__: None

    drawn = Axes()
    plots.curves({"one": seeds}, lambda seed: curves[seed.name], "accuracy")
    assert drawn == [([1, 2], pytest.approx([0.2, 0.3]))]
    plots.curves({"one": seeds[2:]}, lambda seed: curves[seed.name], "accuracy")
    assert drawn[1:] == [([1], pytest.approx([0.9]))]


def test_an_experiment_has_its_colour_in_every_plot_whichever_others_are_in_it():
    def colours(points):
        drawn = plots.curves({name: [SimpleNamespace(name=name, results=True)] for name in "abc"}, points, "accuracy")
        return [colour in drawn for colour in map(str.lower, plots.COLOURS[:4])]

    assert colours(lambda run: {1: 0.1, 2: 0.2}) == [True, True, True, False]
    assert colours(lambda run: {1: 0.1, 2: 0.2} if run.name != "a" else {}) == [False, True, True, False]


def test_a_devices_memory_has_a_column_and_a_chart_where_it_is_known(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")
    (found,) = runs.read([tmp_path / "run"])
    assert "of the device" not in tables.summary([found]).columns
    changed(tmp_path / "run" / "results.json", lambda c: c["memory"].update(device_peak_mb=1234.4))
    (found,) = runs.read([tmp_path / "run"])
    (row,) = tables.summary([found]).rows
    assert (tables.summary([found]).columns[-1], row[-1].text) == ("of the device", "1,234")
    drawn = {chart.title: chart.svg for chart in charts.charts([found], runs.groups([found]))}
    assert ">run<" in drawn["Peak memory of the device"]


@pytest.mark.filterwarnings("error")
def test_many_long_names_leave_room_for_the_plot():
    groups = {f"{i} {'inner_lr=0.4, ' * 9}": [SimpleNamespace(results=True)] for i in range(8)}
    drawn = plots.curves(groups, lambda _: {1: 0.1, 2: 0.2}, "accuracy")
    assert drawn.count("...") == 8


def test_accuracy_by_instance_is_read_in_order(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    figures = {f"accuracy_instance_{n:02}": {"mean": n / 20, "ci95": 0.1} for n in (10, 1, 2)}
    changed(tmp_path / "run" / "results.json", lambda c: c["test"].update(figures))
    (found,) = runs.read(runs.find([tmp_path]))
    assert {n: figure["mean"] for n, figure in charts.by_instance(found).items()} == {1: 0.05, 2: 0.1, 10: 0.5}
    assert "Accuracy by instance" in Page(page.html([found])).text


def test_what_is_not_a_number_is_left_out_of_the_plots(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")

    def change(content: Any) -> None:
        nothing = {"mean": None, "ci95": None}
        content["test"]["accuracy"] = content["test_by_shots"]["1"]["figures"]["accuracy"] = nothing
        content["test_by_inner_steps"]["0"]["accuracy"] = content["test"]["accuracy_instance_02"] = nothing

    changed(tmp_path / "run" / "results.json", change)
    (found,) = runs.read(runs.find([tmp_path]))
    assert found.missing == []
    assert list(charts.by_shots(found)) == [2]
    assert list(charts.by_inner_steps(found)) == [1]
    assert charts.by_instance(found) == {}
    assert "not a number" in Page(page.html([found])).text
