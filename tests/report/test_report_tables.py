"""What a report makes of runs: experiments and their seeds, sweeps, the papers' figures, curves."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import Page, changed

from metarun.config import MOVED, flat
from metarun.report import charts, experiments, page, paths, runs, tables, written
from metarun.report.searched import searched, varied

pytestmark = pytest.mark.usefixtures("unsaved")


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
    found = runs.read(paths.find([tmp_path]))
    assert [len(members) for members in experiments.groups(found).values()] == [3]
    table = tables.over_seeds(experiments.groups(found))
    assert table is not None
    assert [cell.value for cell in table.rows[0][2:5]] == [3, np.mean(means), np.std(means, ddof=1)]
    assert experiments.differences(found) == ["train.seed"]


def copies(source: Path, folder: Path, *settings: dict[str, Any]) -> list[runs.SavedRun]:
    """A sweep's runs: each with these settings more, in a directory that is a number."""
    for i, each in enumerate(settings):
        shutil.copytree(source, folder / str(i), ignore=shutil.ignore_patterns("checkpoints"))
        config_yaml = folder / str(i) / "config.yaml"
        config_yaml.write_text(yaml.safe_dump(nested(flat(yaml.safe_load(config_yaml.read_text())) | each)))
    return runs.read(paths.find([folder]))


def test_seeds_of_an_earlier_version_are_of_the_same_experiment(two_runs, tmp_path):
    moved = {new: old for old, new in MOVED.items()}
    config = flat(yaml.safe_load((two_runs / "sinusoid" / "config.yaml").read_text()))
    earlier = {key: moved[value] for key, value in config.items() if isinstance(value, str) and value in moved}
    assert set(earlier) == {"hardware._target_", "logger._target_"}
    found = copies(two_runs / "sinusoid", tmp_path, {"train.seed": 0} | earlier, {"train.seed": 1})
    assert [len(members) for members in experiments.groups(found).values()] == [2]
    assert experiments.differences(found) == ["train.seed"]


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
            {"maml, inner_lr=0.4": 2, "maml, inner_lr=0.2": 1, "anil": 1},
        ),
        (
            [
                {"optimizer._target_": f"optax.{name}", "optimizer.learning_rate": rate}
                for name in ("adam", "sgd")
                for rate in (0.1, 0.2)
            ],
            {f"{name}, learning_rate={rate}": 1 for name in ("adam", "sgd") for rate in (0.1, 0.2)},
        ),
        (
            [{"paper.figures.accuracy": [0.9, 0.1], "task.shots": 1}, {"task.shots": 5}, {"train.task.ways": 20}],
            {"shots=1": 1, "shots=5": 1, "shots=1, ways=20": 1},
        ),
        (  # what needs no saying is not said: optimizers that go with the learners, settings of one learner alone
            [MAML | {"optimizer._target_": "optax.adam"}, ANIL | {"optimizer._target_": "optax.sgd"},
             MAML | {"learner.first_order": True, "train.steps": 7}],
            {"maml": 1, "anil": 1, "maml, first order": 1},
        ),
        # A preset and the same by hand are one experiment.
        ([MAML | {"paper.source": "A", "suggested.inner_lr": 3}, MAML, MAML | {"train.steps": 9}],
         {"steps=4": 2, "steps=9": 1}),
        ([{"model.hidden": n, "eval.episodes": n} for n in (4, 5)], {"hidden=4": 1, "hidden=5": 1}),
        ([MAML, MAML | {"train.seed": 1}], {"maml": 2}),  # one experiment needs a name, too
        (  # values so long that they are cut, and cut alike
            [{"task.names": "a" * 30 + end} for end in "bc"],
            {f"names={'a' * 12}…{'a' * 11}{end}": 1 for end in "bc"},
        ),
        ([{"task.names": "a" * 30 + end + "a" * 30} for end in "bc"], {"maml": 1, "maml (2)": 1}),
    ],
)  # fmt: skip
def test_a_sweeps_experiments_are_named_by_what_sets_them_apart(two_runs, tmp_path, settings, expected):
    found = experiments.groups(copies(two_runs / "blobs", tmp_path, *settings))
    assert {name: len(members) for name, members in found.items()} == expected


def with_figures(run: Path, mean: float | None, ci95: float | None) -> None:
    changed(run / "results.json", lambda c: c["test"]["accuracy"].update(mean=mean, ci95=ci95))


def test_a_damaged_run_takes_no_figures_from_others_and_stands_last(two_runs, tmp_path):
    """The mean of 62.00 % and 75.28 % is 68.64 %; that of a copy whose results were cut off is none."""
    copies(two_runs / "blobs", tmp_path, MAML, MAML | {"train.seed": 1})
    (tmp_path / "0").rename(tmp_path / "seed0"), (tmp_path / "1").rename(tmp_path / "seed1")
    shutil.copytree(tmp_path / "seed0", tmp_path / "broken")
    (tmp_path / "broken" / "results.json").write_text((tmp_path / "seed0" / "results.json").read_text()[:300])
    for name, mean in (("seed0", 0.62), ("seed1", 0.7528)):
        with_figures(tmp_path / name, mean, 0.01)
    found = runs.read([tmp_path / name for name in ("broken", "seed0", "seed1")])
    assert [(run.name, run.status) for run in found] == [
        ("seed0", "finished"), ("seed1", "finished"), ("broken", "damaged")
    ]  # fmt: skip
    together = experiments.groups(found)
    assert {name: [run.name for run in members] for name, members in together.items()} == {"maml": ["seed0", "seed1"]}
    (row,) = tables.over_seeds(together).rows
    assert [cell.text for cell in row] == ["maml", "blobs, 3-way 1-shot", "2", "68.64 %", "9.39 %", "± 1.00 %"]
    assert tables.summary_row(found[-1])[8].text == ""
    assert {key.name for chart in charts.charts(together) for key in chart.legend} == {"maml", "chance, 33.3 %"}
    assert "broken is damaged: results.json cannot be read" in Page(page.html(found)).text


def test_over_seeds_figures_are_those_that_are_computed_by_hand(two_runs, tmp_path):
    """60, 66 and 75 %: their mean is 67, their squared distances from it 49 + 1 + 64 = 114, the root of half 7.55."""
    copies(two_runs / "blobs", tmp_path, *({"train.seed": seed} for seed in range(5)))
    for seed, (mean, ci95) in enumerate(((0.60, 0.01), (0.66, 0.02), (0.75, 0.06))):
        with_figures(tmp_path / str(seed), mean, ci95)
    (tmp_path / "3" / "results.json").unlink()  # a fourth seed that was stopped does not count
    (members,) = experiments.groups(runs.read([tmp_path / str(seed) for seed in range(4)])).values()
    assert len(members) == 4
    found = tables.of_seeds(members)
    assert found == ("accuracy", 3, pytest.approx(0.67), pytest.approx(0.57**0.5 / 10), pytest.approx(0.03))
    (row,) = tables.over_seeds({"one": members}).rows
    assert [cell.text for cell in row[3:]] == ["67.00 %", "7.55 %", "± 3.00 %"]
    assert tables.over_seeds({"one": members[:1]}) is None
    with_figures(tmp_path / "4", None, None)  # with one whose figure is no number, a mean would be of other seeds
    (members,) = experiments.groups(runs.read(paths.find([tmp_path]))).values()
    assert tables.of_seeds(members) == ("accuracy", 4, None, None, None)
    (row,) = tables.over_seeds({"one": members}).rows
    assert [cell.text for cell in row[2:]] == ["4", "not a number", "", ""]


def test_the_summary_says_ways_shots_and_test_tasks_and_once_what_is_alike(two_runs, tmp_path):
    found = runs.read([two_runs / "blobs", two_runs / "sinusoid"])
    summed = tables.summary(found)
    at = [summed.columns.index(name) for name in ("ways", "shots", "test tasks")]
    assert [[row[i].text for i in at] for row in summed.rows] == [["3", "1", "8"], ["", "10", "8"]]
    assert tables.alike(summed) == {"learner": "maml", "test tasks": "8"}
    assert tables.alike(tables.summary(found[:1])) == {}
    shutil.copytree(two_runs / "blobs", tmp_path / "a")
    (tmp_path / "a" / "config.yaml").write_text("[")
    some = tables.summary(runs.read([two_runs / "blobs", two_runs / "sinusoid", tmp_path / "a"]))
    assert tables.alike(some) == {"learner": "maml", "test tasks": "8"}  # what is not known of `a` does not count


def test_a_regression_has_no_ways_though_its_task_has_a_key_for_them(two_runs, tmp_path):
    def on_a_table(content: Any) -> None:
        task = {"_target_": "metarun.tasks.table.Table", "ways": 5, "shots": 5}
        content["protocol"]["task"] = task
        elsewhere = {"figures": content["test"], "by_inner_steps": {}, "by_shots": {}, "task": task | {"shots": 2}}
        content["tests"] = {"other": elsewhere}

    for run in copies(two_runs / "sinusoid", tmp_path, {"train.seed": 0}, {"train.seed": 1}):
        changed(run.path / "results.json", on_a_table)
    found = runs.read(paths.find([tmp_path]))
    assert "ways" not in tables.summary(found).columns
    assert {row["ways"] for row in csv.DictReader(written.as_csv(found).splitlines())} == {""}
    elsewhere, together = tables.elsewhere(found), tables.over_seeds(experiments.groups(found))
    assert elsewhere is not None
    assert together is not None
    assert [elsewhere.rows[0][1].text, elsewhere.columns[3]] == ["table, 5 shots", "other (table, 2 shots)"]
    assert together.rows[0][1].text == "table, 5 shots"


def test_what_differs_is_transposed_where_it_fits_better(two_runs, tmp_path):
    found = copies(two_runs / "blobs", tmp_path, {"train.seed": 0}, {"train.seed": 1, "learner.inner_lr": 0.2})
    few = tables.what_differs(found)
    assert few.columns == ["run", "learner.inner_lr", "train.seed"]
    assert [[cell.text for cell in row] for row in few.rows] == [["0", "0.4", "0"], ["1", "0.2", "1"]]
    (maml, anil) = tables.what_differs(copies(two_runs / "blobs", tmp_path / "a", MAML, ANIL)).rows
    assert [maml[1].text, anil[1].text] == ["maml", "anil"]
    many = copies(two_runs / "blobs", tmp_path / "b", {}, {f"task.with_a_long_name_{i:02}": i for i in range(20)})
    table = tables.what_differs(many)
    assert table.columns == ["setting", "0", "1"]
    assert [cell.text for cell in table.rows[3]] == ["task.with_a_long_name_03", "", "3"]


def test_classes_that_are_surely_bad_come_first_with_their_counts():
    """Wilson's upper ends: 0 of 1 has 0.793, 40 of 100 0.498, 1 of 20 0.236; a class without queries comes last."""
    assert tables.at_most(0, 1) == pytest.approx(0.7935, abs=1e-4)
    assert tables.at_most(40, 100) == pytest.approx(0.4980, abs=1e-4)
    assert tables.at_most(1, 20) == pytest.approx(0.2361, abs=1e-4)
    table = tables.by_class({"once": (0, 1), "never": (0, 0), "often": (40, 100), "bad": (1, 20)})
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["bad", "5 %", "1", "20"], ["often", "40 %", "40", "100"], ["once", "0 %", "0", "1"], ["never", "", "0", "0"]
    ]  # fmt: skip


def test_the_summary_tells_first_order_maml_from_maml(two_runs, tmp_path):
    found = copies(two_runs / "blobs", tmp_path, MAML, MAML | {"learner.first_order": True})
    assert [tables.summary_row(run)[2].text for run in found] == ["maml", "maml, first order"]


def test_over_seeds_each_seed_counts_once_and_runs_without_settings_do_not(two_runs, tmp_path):
    found = copies(two_runs / "sinusoid", tmp_path / "sweep", {"train.seed": 0}, {"train.seed": 0}, {"train.seed": 1})
    changed(tmp_path / "sweep" / "1" / "results.json", lambda c: c["test"]["mse"].pop("ci95"))
    for file in ("results.json", "metrics.jsonl"):  # of the first seed there is nothing yet
        (tmp_path / "sweep" / "0" / file).unlink()
    found = runs.read(paths.find([tmp_path / "sweep", tmp_path / "sweep" / ".." / "sweep" / "1"]))
    assert len(found) == 3
    (row,) = tables.over_seeds(experiments.groups(found)).rows
    assert row[2].value == 2
    for run in found:
        (run.path / "config.yaml").write_text("")
    assert experiments.groups(runs.read(paths.find([tmp_path / "sweep"]))) == {}  # they are damaged


def test_a_setting_that_an_older_run_lacks_and_the_machine_do_not_set_seeds_apart(two_runs, tmp_path):
    more = {"train.seed": 1, "hardware.devices": 1, "learner.of_later": None}
    places = ("data_dir", "task.data_dir", "eval.task.data_dir", "eval.tasks.omniglot.data_dir")
    here, there = ({key: folder for key in places} for folder in ("here", "there"))
    other = {"train.seed": 2, "hardware.precision": "bfloat16"}
    found = copies(two_runs / "blobs", tmp_path, {"train.seed": 0} | here, more | there, other | there)
    assert [len(members) for members in experiments.groups(found).values()] == [2, 1]
    assert "learner.of_later" not in experiments.differences(found)
    assert varied(found[:2]) == []


def test_a_seed_that_was_run_twice_counts_once_with_its_mean(two_runs, tmp_path):
    settings = ({"train.seed": 0}, {"train.seed": 0, "hardware.devices": 1}, {"train.seed": 1})
    copies(two_runs / "sinusoid", tmp_path, *settings)
    for i, mean in enumerate((0.1, 0.3, 0.1)):
        changed(tmp_path / str(i) / "results.json", lambda c, mean=mean: c["test"]["mse"].update(mean=mean))
    (row,) = tables.over_seeds(experiments.groups(runs.read(paths.find([tmp_path])))).rows
    assert [cell.value for cell in row[2:4]] == [2, pytest.approx(0.15)]


def test_the_papers_figures_stand_beside_the_runs_with_who_quotes_them(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")
    paper = {"source": "A et al. 2017", "quoted_by": "B et al. 2020", "figures": {"mse_after_1": [0.67, 0.1]}}
    changed(tmp_path / "run" / "results.json", lambda c: c.update(paper=paper))
    (found,) = runs.read(paths.find([tmp_path]))
    after = found.results["test_by_inner_steps"]["1"]["mse"]
    (row,) = tables.beside_papers([found]).rows
    expected = ["run", "mse after 1", f"{after['mean']:.4f} ± {after['ci95']:.4f}", "0.67 ± 0.1"]
    assert [cell.text for cell in row] == [*expected, "A et al. 2017, as quoted by B et al. 2020"]
    assert "as quoted by B et al. 2020" in Page(page.html([found])).text
    assert "as quoted by B et al. 2020" in written.as_markdown([found])


def test_figures_of_validation_say_so(two_runs, tmp_path):
    searched_over = [{"train.seed": seed, "learner.inner_lr": lr} for lr in (0.1, 0.4) for seed in range(2)]
    found = copies(two_runs / "sinusoid", tmp_path, *({"eval.split": "val"} | one for one in searched_over))

    def on_validation(content: Any) -> None:
        content["protocol"]["split"] = "val"
        for name in ("test", "test_by_inner_steps"):
            content[name.replace("test", "val")] = content.pop(name)
        content["tests"] = {"mine": {"figures": content["val"], "by_inner_steps": {}, "by_shots": {}, "task": {}}}

    for run in found:
        changed(run.path / "results.json", on_validation)
    found = runs.read([*paths.find([tmp_path]), two_runs / "sinusoid"])
    assert [tables.figure_cell(run, "mse").text.endswith(" (val)") for run in found] == [True] * 4 + [False]
    together = experiments.groups(found)
    over_seeds, elsewhere = tables.over_seeds(together), tables.elsewhere(found)
    assert over_seeds is not None
    assert {row[1].text for row in over_seeds.rows} == {"sinusoid, 10 shots (val)"}
    assert elsewhere is not None
    assert {(row[1].text, row[3].text[-6:]) for row in elsewhere.rows} == {("sinusoid, 10 shots", " (val)")}
    titles = [chart.title for chart in charts.charts(together)]
    assert [title for title in titles if "by inner steps" in title] == [
        "Test mse by inner steps: sinusoid, 10 shots (val)", "Test mse by inner steps: sinusoid, 10 shots"
    ]  # fmt: skip
    assert [c.title for c in searched(found)] == ["Test mse by learner.inner_lr: sinusoid, 10 shots (val)"]


def test_a_group_whose_mean_is_nought_does_not_sort_as_one_without(two_runs, tmp_path):
    of = {"metric": "accuracy", "level": 0.7, "worst": 0.0, "cvar": 0.0, "mean": 0.25, "worst_group": "a"}
    means = {"a": 0.0, "b": 0.5, "c": None}
    each = {name: {"mean": mean, "ci95": 0.0, "tasks": 4} for name, mean in means.items()}
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    changed(tmp_path / "run" / "results.json", lambda content: content.update(test_groups=of | {"each": each}))
    table = tables.by_group(runs.read(paths.find([tmp_path])))
    assert table is not None
    assert (table.columns[2:], [cell.value for cell in table.rows[0][2:]]) == ([*means], [0.0, 0.5, ""])


def test_a_task_with_a_metric_of_its_own_is_summed_up_by_it(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")
    text = (tmp_path / "run" / "results.json").read_text()
    assert '"metric": "mse"' in text
    text = text.replace('"mse"', '"mae"')
    (tmp_path / "run" / "results.json").write_text(text)
    (found,) = runs.read(paths.find([tmp_path]))
    assert (found.metric, found.missing) == ("mae", [])


def test_a_devices_memory_has_a_column_and_a_chart_where_it_is_known(two_runs, tmp_path):
    shutil.copytree(two_runs / "sinusoid", tmp_path / "run")
    (found,) = runs.read([tmp_path / "run"])
    assert "of the device" not in tables.summary([found]).columns
    changed(tmp_path / "run" / "results.json", lambda c: c["memory"].update(device_peak_mb=1234.4))
    (found,) = runs.read([tmp_path / "run"])
    (row,) = tables.summary([found]).rows
    assert (tables.summary([found]).columns[-1], row[-1].text) == ("of the device", "1,234")
    drawn = {one.title: one.bars for one in charts.bars([found])}
    assert drawn["Peak memory of the device"] == [("run", 1234.4, 100)]


def test_accuracy_by_instance_is_read_in_order(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")
    figures = {f"accuracy_instance_{n:02}": {"mean": n / 20, "ci95": 0.1} for n in (10, 1, 2)}
    changed(tmp_path / "run" / "results.json", lambda c: c["test"].update(figures))
    (found,) = runs.read(paths.find([tmp_path]))
    assert {n: figure["mean"] for n, figure in charts.by_instance(found).items()} == {1: 0.05, 2: 0.1, 10: 0.5}
    assert "Accuracy by instance" in Page(page.html([found])).text


def test_what_is_not_a_number_is_left_out_of_the_plots(two_runs, tmp_path):
    shutil.copytree(two_runs / "blobs", tmp_path / "run")

    def change(content: Any) -> None:
        nothing = {"mean": None, "ci95": None}
        content["test"]["accuracy"] = content["test_by_shots"]["1"]["figures"]["accuracy"] = nothing
        content["test_by_inner_steps"]["0"]["accuracy"] = content["test"]["accuracy_instance_02"] = nothing

    changed(tmp_path / "run" / "results.json", change)
    (found,) = runs.read(paths.find([tmp_path]))
    assert found.missing == []
    assert list(charts.by_shots(found)) == [2]
    assert list(charts.by_inner_steps(found)) == [1]
    assert charts.by_instance(found) == {}
    assert "not a number" in Page(page.html([found])).text


def test_other_domains_have_a_column_each_with_their_ways_and_shots(two_runs, tmp_path):
    def test_on(name: str, mean: float | None, **task: int) -> dict[str, Any]:
        def figures(mean: float | None) -> dict[str, Any]:
            return {"accuracy": {"mean": mean, "ci95": 0.01}, "loss": {"mean": 1.0, "ci95": 0.1}}

        by_shots = {"5": {"figures": figures(0.9), "by_inner_steps": {}}} if mean else {}
        task = {"_target_": f"metarun.tasks.{name}.X", "ways": 2, "shots": 1, **task}
        return {"figures": figures(mean), "by_inner_steps": {}, "by_shots": by_shots, "task": task}

    tested = (
        {"omniglot": test_on("omniglot", 0.7), "mine": test_on("folder", 0.5, ways=3)},
        {"omniglot": test_on("omniglot", None)},
        {},
        {"omniglot": {"figures": "damaged"}},
    )
    for i, tests in enumerate(tested):
        shutil.copytree(two_runs / "blobs", tmp_path / str(i), ignore=shutil.ignore_patterns("checkpoints"))
        changed(tmp_path / str(i) / "results.json", lambda content, tests=tests: content.update(tests=tests))
    found = runs.read(paths.find([tmp_path]))
    table = tables.elsewhere(found)
    assert table is not None
    omniglot, mine = "omniglot, 2-way {}-shot", "mine (folder, 3-way {}-shot)"
    columns = ["run", "trained for", "there", *(form.format(n) for form in (omniglot, mine) for n in (1, 5))]
    assert table.columns == columns
    cells = {row[0].text: [cell.text for cell in row[3:]] for row in table.rows}
    assert cells == {
        "0": ["70.00 ± 1.00 %", "90.00 ± 1.00 %", "50.00 ± 1.00 %", "90.00 ± 1.00 %"],
        "1": ["not a number", "", "", ""],
    }
    assert table.rows[0][2] == tables.figure_cell(found[0], "accuracy")
    assert "results.json has no tests that can be read" in found[3].missing
    assert written.as_csv(found).splitlines()[1].count(",70.0,1.0,50.0,1.0,") == 1
    assert "| mine \\(folder" in written.as_markdown(found) or "| mine (folder" in written.as_markdown(found)
    assert "On other domains" in page.html(found)
    assert tables.elsewhere(found[2:3]) is None
