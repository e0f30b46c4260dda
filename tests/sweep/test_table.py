"""How a sweep stands, as it is told: seeds gathered, the best first, what failed and why."""

import io
import json
import shlex
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from support import changed

from metarun.config import without_hydras_quotes
from metarun.sweep import grid, record, table
from metarun.sweep.made import as_made
from metarun.sweep.record import Job, Sweep


@pytest.fixture
def swept(tmp_path):
    """A sweep of which each job came to what is given: a test's mean, or why it failed; None: it has not begun.

    A third is validation's mean, the test's own by default. A mean that is NaN is null, as a run writes it.
    """

    def made(metric: str, *jobs: tuple[str, float | str | None] | tuple[str, float, float | None]) -> Sweep:
        found = tuple(Job(n, ("learner=maml", *own.split()), tmp_path / str(n)) for n, (own, *_) in enumerate(jobs))
        record.begin(Sweep(tmp_path, (), ("learner=maml", "..."), "grid", found))
        for job, (_, came, *given) in zip(found, jobs, strict=True):
            if isinstance(came, float):
                job.directory.mkdir(exist_ok=True)
                (validated,) = given or [came]
                rows = [] if validated is None else [{"step": 1, "split": "val", metric: validated}]
                (job.directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
                results = {
                    "protocol": {"split": "test", "metric": metric},
                    "test": {metric: {"mean": None if isnan(came) else came, "ci95": 0.01 * (1 + job.number)}},
                    "speed": {"minutes": 3.0 + job.number},
                }
                (job.directory / "results.json").write_text(json.dumps(results))
                record.ended(tmp_path, job, seconds=60.0)
            elif came is not None:
                record.ended(tmp_path, job, failed=came, seconds=60.0)
        return record.read(tmp_path)

    return made


def told(sweep: Sweep) -> str:
    console = Console(file=io.StringIO(), width=1000)
    table.tell(sweep, console)
    return console.file.getvalue()


def test_seeds_are_gathered_and_the_best_accuracy_is_first(swept):
    sweep = swept(
        "accuracy",
        ("train.seed=0 learner.inner_lr=0.1", 0.7),
        ("train.seed=1 learner.inner_lr=0.1", 0.8),
        ("train.seed=0 learner.inner_lr=0.4", 0.9),
        ("train.seed=1 learner.inner_lr=0.4", None),
    )
    first, second = table.gathered(sweep)
    assert (first.own, first.mean, first.std, len(first.jobs)) == ("learner.inner_lr=0.4", 0.9, None, 1)
    assert (second.own, len(second.jobs)) == ("learner.inner_lr=0.1", 2)
    assert second.mean == pytest.approx(0.75)
    assert second.ci95 == pytest.approx(0.015)
    assert second.std == pytest.approx(0.1 / 2**0.5)
    assert "the best on validation again: metarun learner=maml train.seed=0 learner.inner_lr=0.4" in told(sweep)


def test_the_smallest_error_is_first(swept):
    sweep = swept("mse", ("train.seed=0 a=1", 3.0), ("train.seed=0 a=2", 2.0), ("train.seed=0 a=3", 4.0))
    assert [one.own for one in table.gathered(sweep)] == ["a=2", "a=1", "a=3"]


@pytest.mark.parametrize(("metric", "order"), [("accuracy", ["a=2", "a=3", "a=1"]), ("mse", ["a=3", "a=2", "a=1"])])
def test_validation_chooses_and_no_figure_of_a_test(swept, metric, order):
    sweep = swept(metric, ("a=1", 0.1, None), ("a=2", 0.2, 0.7), ("a=3", 0.9, 0.6))
    assert [one.own for one in table.gathered(sweep)] == order
    assert [one["validation"] for one in table.as_json(sweep)["settings"]][-1] is None
    assert f"the best on validation again: metarun learner=maml {order[0]}" in told(sweep)


def test_without_validations_none_is_called_the_best(swept):
    sweep = swept("mse", ("a=1", 3.0, None), ("a=2", 2.0, None))
    assert [one.own for one in table.gathered(sweep)] == ["a=1", "a=2"]
    assert "again" not in told(sweep)


def test_a_setting_of_which_a_seed_is_not_a_number_is_not_the_best_and_says_so(swept):
    """Not the mean of the seeds that are numbers, however good its validation was."""
    own = [f"a={a} train.seed={seed}" for a in (1, 2) for seed in (0, 1)]
    sweep = swept("mse", (own[0], 0.1, 0.1), (own[1], nan, 0.1), (own[2], 2.0), (own[3], 4.0))
    best, worst = table.gathered(sweep)
    assert (best.own, best.mean) == ("a=2", 3.0)
    assert (worst.own, worst.seeds, worst.mean, worst.ci95, worst.std) == ("a=1", 2, None, None, None)
    text = told(sweep)
    assert [" ".join(line.split()[:5]) for line in text.splitlines() if line.startswith(" a=1")] == [
        "a=1 0.1000 not a number"
    ]
    assert f"the best on validation again: metarun learner=maml {own[2]}\n" in text
    said = table.as_json(sweep)
    assert said["settings"][1]["mse"] == {"mean": None, "ci95": None, "std_over_seeds": None}
    assert said["jobs"][1]["mse"] == {"mean": None, "ci95": 0.02}


def test_where_no_setting_is_a_number_none_is_called_the_best(swept):
    assert "again" not in told(swept("mse", ("a=1", nan, 0.1), ("a=2", nan, 0.2)))


def test_a_sweep_over_seeds_alone_is_one_setting(swept):
    (one,) = table.gathered(swept("mse", ("train.seed=0", 3.0), ("train.seed=1", 2.0)))
    assert (one.own, one.mean) == ("", 2.5)


def test_minutes_are_of_the_whole_run_and_not_of_its_last_stretch(swept):
    """Each has a last stretch of a minute, says the sweep's record; of its run results.json says 3 and 4."""
    sweep = swept("mse", ("train.seed=0", 3.0), ("train.seed=1", 2.0))
    (row,) = [line for line in told(sweep).splitlines() if line.startswith(" as it is")]
    assert "3.5" in row.split()
    assert [job["minutes"] for job in table.as_json(sweep)["jobs"]] == [3.0, 4.0]


def test_seeds_are_gathered_however_they_are_set(swept):
    (one,) = table.gathered(swept("mse", ("++train.seed=0 a=1", 3.0), ("++train.seed=1 a=1", 2.0)))
    assert (one.own, one.seeds, one.mean) == ("", 2, 2.5)


def test_a_seed_counts_once(swept):
    (one,) = table.gathered(swept("mse", ("train.seed=0", 3.0), ("train.seed=0", 3.0), ("train.seed=1", 1.0)))
    assert (one.seeds, one.mean, len(one.jobs)) == (2, 2.0, 3)
    assert one.std == pytest.approx(2**0.5)


def test_each_metric_has_a_table_and_a_best_of_its_own(swept, tmp_path):
    """An error is not to be held against an accuracy."""
    swept("accuracy", ("task=strokes", 0.7), ("task=omniglot", 0.9))
    for name, mean in (("metrics.jsonl", 6.02), ("results.json", 5.95)):
        file = tmp_path / "0" / name
        file.write_text(file.read_text().replace("accuracy", "mse").replace("0.7", str(mean)))
    text = told(record.read(tmp_path))
    assert "the best on validation of those with accuracy again: metarun learner=maml task=omniglot\n" in text
    assert "the best on validation of those with mse again: metarun learner=maml task=strokes\n" in text
    (row,) = [line for line in text.splitlines() if line.startswith(" task=strokes")]
    assert row.split()[1:3] == ["6.0200", "5.9500"]


def longer(directory, *steps: int) -> None:
    """The runs have so many meta-steps to make."""
    for number, each in enumerate(steps):
        (directory / str(number) / "config.yaml").write_text(f"train: {{steps: {each}}}\n")


@pytest.mark.parametrize("said", ["train.steps=20 ", ""])
def test_a_job_that_was_made_longer_is_told_so(swept, tmp_path, said):
    swept("accuracy", (f"{said}a=1", 0.9), (f"{said}a=2", 0.8))
    longer(tmp_path, 20, 20)
    assert f"again: metarun learner=maml {said}a=1\n" in told(record.read(tmp_path))
    longer(tmp_path, 60, 20)
    assert "again: metarun learner=maml a=1 train.steps=60\n" in told(record.read(tmp_path))
    commands = [job["command"] for job in table.as_json(record.read(tmp_path))["jobs"]]
    assert [command.split()[-1] for command in commands] == ["train.steps=60", "a=2" if said else "train.steps=20"]


def test_seeds_of_other_lengths_are_not_gathered(swept, tmp_path):
    swept("accuracy", ("train.seed=0 train.steps=20", 0.9), ("train.seed=1 train.steps=20", 0.8))
    longer(tmp_path, 60, 20)
    found = table.gathered(as_made(record.read(tmp_path)))
    assert [one.own for one in found] == ["train.steps=60", "train.steps=20"]


def were_tested(directory, *of: str) -> None:
    """The runs were tested so."""
    for number, each in enumerate(of):
        (directory / str(number) / "config.yaml").write_text(f"train: {{steps: 20}}\neval: {{{each}}}\n")


def test_seeds_that_were_tested_otherwise_are_not_gathered(swept, tmp_path):
    """One was tested again: its figure is of other tasks, and of more inner steps."""
    swept("mse", ("train.seed=0", 5.0), ("train.seed=1", 4.0), ("train.seed=2", 1.0))
    as_begun = "seed: 0, episodes: 20, val_episodes: 5, task: {data_dir: here}"
    were_tested(tmp_path, as_begun, as_begun, "seed: 7, episodes: 20, task: {queries: 1}, learner: {inner_steps: 10}")
    sweep = as_made(record.read(tmp_path))
    again, others = table.gathered(sweep)
    assert (again.own, again.mean) == ("eval.seed=7 eval.task.queries=1 eval.learner.inner_steps=10", 1.0)
    assert (others.own, others.mean, others.seeds) == ("eval.seed=0", 4.5, 2)
    assert " eval.seed=7 eval.task.queries=1 " in told(record.read(tmp_path))


def test_a_test_that_the_settings_tell_of_is_as_they_say(swept, tmp_path):
    swept(
        "mse",
        *((f"++eval.task.queries={n} eval.seed=${{train.seed}} train.seed={s}", 5.0) for n in (1, 3) for s in (4, 5)),
    )
    were_tested(tmp_path, *(f"seed: {s}, task: {{queries: {n}}}" for n in (1, 3) for s in (4, 5)))
    sweep = record.read(tmp_path)
    assert as_made(sweep) == sweep
    assert [(one.own, one.seeds) for one in table.gathered(sweep)] == [
        ("eval.task.queries=1", 2),
        ("eval.task.queries=3", 2),
    ]


def test_a_trial_that_was_tested_otherwise_says_so(swept, tmp_path):
    sweep = swept("mse", ("a=0.1", 5.0), ("a=0.2", 4.0))
    search = {"space": {"a": "interval(0,1)"}, "trials": 2, "objective": "mse", "direction": "minimize"}
    were_tested(tmp_path, "seed: 0", "seed: 7")
    found = table.gathered(as_made(replace(sweep, search=search)))
    assert [one.own for one in found] == ["a=0.2 eval.seed=7", "a=0.1 eval.seed=0"]


@pytest.mark.parametrize("directory", ["my sweep", "sw, (c)", "1e5", "it's", 'a"b', "TRUE"])
def test_a_command_to_paste_means_the_directory(swept, tmp_path, directory):
    swept("mse", ("a=1", "no"), ("a=2", None))
    text = told(replace(record.read(tmp_path), directory=Path(directory)))
    lines = [line.partition(": ")[2] for line in text.splitlines() if ": metarun -m" in line]
    assert len(lines) == 2
    for line in lines:
        _, _, setting, *_ = shlex.split(line)
        assert OverridesParser.create().parse_override(setting).value() == directory
        assert without_hydras_quotes(setting.removeprefix("run.dir=")) == directory


def test_a_metric_is_told_by_its_name_whatever_that_is(swept):
    assert "error [m] ± 95 %" in told(swept("error [m]", ("a=1", 3.0)))


def test_minutes_of_jobs_that_were_made_together_are_told_as_those_of_all(swept):
    sweep = swept("mse", ("train.seed=0", 3.0), ("train.seed=1", 2.0))
    for job in sweep.jobs:
        changed(job.directory / "results.json", lambda found: found["speed"].update(minutes=9.0, members=2))
    assert "9.0 for 2 together" in told(sweep)
    jobs = table.as_json(sweep)["jobs"]
    assert [(job["minutes"], job["members"]) for job in jobs] == [(9.0, 2)] * 2


def test_at_80_columns_no_setting_is_broken(swept):
    own = [f"train.seed={s} learner.inner_lr=0.0133853 train.steps={n}" for s in (0, 1) for n in (1, 15)]
    sweep = swept("mse", *((one, 3.0) for one in own))
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    table.tell(sweep, console)
    text = console.file.getvalue()
    assert {"train.steps=15", "3.0000"} <= {*text.split()}
    assert max(map(len, text[text.index("setting") : text.index("the best")].splitlines())) <= 80

    narrow = swept("mse", ("learner.inner_lr=0.0133853", 3.0), ("learner.inner_lr=0.4", 3.0))
    console = Console(file=io.StringIO(), width=50, force_terminal=True, color_system=None)
    table.tell(narrow, console)
    assert "learner.inner_lr=0.0133853" in console.file.getvalue().split()


@pytest.mark.parametrize(
    ("jobs", "code"),
    [
        ([("a=1", 3.0), ("a=2", 2.0)], None),
        ([("a=1", 3.0), ("a=2", None)], 75),
        ([("a=1", "no number"), ("a=2", None)], 1),
    ],
)
def test_the_end_of_a_sweep_tells_a_scheduler_whether_it_is_done(swept, jobs, code):
    sweep = swept("mse", *jobs)
    if code is None:
        return grid.tell(sweep)
    with pytest.raises(SystemExit) as ended:
        grid.tell(sweep)
    assert ended.value.code == code


def test_what_is_not_finished_is_told_with_why_and_what_to_do(swept, tmp_path):
    text = told(swept("mse", ("a=1", 3.0), ("a=2", "a meta-step was\nnot finite"), ("a=3", None)))
    assert text.startswith(f"sweep in {tmp_path}: 3 jobs, 1 finished, 1 waiting, 1 failed\n")
    assert f"failed: {tmp_path}/1 (a=2): a meta-step was not finite; its lines: {tmp_path}/1/metarun.log\n" in text
    assert f"it goes on with: metarun -m run.dir={tmp_path}\n" in text
    assert f"what failed once more: metarun -m run.dir={tmp_path} sweep.retry=true\n" in text


@pytest.mark.parametrize("content", [b"", b"- a\n", b"train: {steps: x}\neval: 3\n", b"train: {steps: 4\xff}\n"])
def test_a_configuration_that_cannot_be_read_tells_nothing_of_its_job(swept, tmp_path, content):
    sweep = swept("mse", ("a=1", 3.0), ("a=2", None))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.yaml").write_bytes(content)
    assert f"stopped: {tmp_path}/1 (a=2)" in told(sweep)
    record.ended(tmp_path, sweep.jobs[1], pruned=True)
    assert "1 job was pruned after 0 of 0 meta-steps" in told(record.read(tmp_path))


@pytest.mark.parametrize("content", ['{"test": ', '{"protocol": [], "test": {}}'])
def test_results_that_cannot_be_read_are_left_out_and_named(swept, tmp_path, content):
    sweep = swept("mse", ("a=1", 3.0), ("a=2", 2.0))
    assert "cannot be read" not in told(sweep)
    (tmp_path / "1" / "results.json").write_text(content)
    assert [one.own for one in table.gathered(sweep)] == ["a=1"]
    how = f"move it away, and metarun -m run.dir={tmp_path} tests the run again"
    assert f"not in the table, as it cannot be read: {tmp_path}/1/results.json; {how}\n" in told(sweep)
