"""How a sweep stands, as it is told: seeds gathered, the best first, what failed and why."""

import io
import json

import pytest
from rich.console import Console

from metarun.sweep import record, table
from metarun.sweep.record import Job, Sweep


@pytest.fixture
def swept(tmp_path):
    """A sweep of which each job came to what is given: a test's mean, or why it failed; None: it has not begun.

    A third is validation's mean, the test's own by default.
    """

    def made(metric: str, *jobs: tuple[str, float | str | None] | tuple[str, float, float | None]) -> Sweep:
        found = tuple(Job(n, ("learner=maml", *own.split()), tmp_path / str(n)) for n, (own, *_) in enumerate(jobs))
        record.begin(Sweep(tmp_path, (), ("learner=maml", "..."), "grid", found))
        for job, (_, came, *given) in zip(found, jobs, strict=True):
            if isinstance(came, float):
                job.directory.mkdir()
                (validated,) = given or [came]
                rows = [] if validated is None else [{"step": 1, "split": "val", metric: validated}]
                (job.directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
                results = {
                    "protocol": {"split": "test", "metric": metric},
                    "test": {metric: {"mean": came, "ci95": 0.01 * (1 + job.number)}},
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


def test_a_sweep_over_seeds_alone_is_one_setting(swept):
    (one,) = table.gathered(swept("mse", ("train.seed=0", 3.0), ("train.seed=1", 2.0)))
    assert (one.own, one.mean) == ("", 2.5)


def test_what_is_not_finished_is_told_with_why_and_what_to_do(swept, tmp_path):
    text = told(swept("mse", ("a=1", 3.0), ("a=2", "a meta-step was\nnot finite"), ("a=3", None)))
    assert text.startswith(f"sweep in {tmp_path}: 3 jobs, 1 finished, 1 waiting, 1 failed\n")
    assert f"failed: {tmp_path}/1 (a=2): a meta-step was not finite; its lines: {tmp_path}/1/metarun.log\n" in text
    assert f"it goes on with: metarun -m run.dir={tmp_path}\n" in text
    assert f"what failed once more: metarun -m run.dir={tmp_path} sweep.retry=true\n" in text


def test_results_that_cannot_be_read_are_left_out(swept, tmp_path):
    sweep = swept("mse", ("a=1", 3.0), ("a=2", 2.0))
    (tmp_path / "1" / "results.json").write_text('{"test": ')
    assert [one.own for one in table.gathered(sweep)] == ["a=1"]
