"""When a run logs, validates and saves, where that is left to it."""

import pytest
from support import experiments, run_of


def test_periods_left_alone_fit_any_run():
    for steps in (1, 7, 3001):
        train = run_of(f"train.steps={steps}").train
        for name in ("log_every", "eval_every", "save_every"):
            assert 1 <= train.period(name) <= steps


def test_a_short_run_is_not_all_validation_and_a_long_one_as_it_was():
    def due(steps: int, period: str) -> list[int]:
        train = run_of(f"train.steps={steps}").train
        return [step for step in range(1, steps + 1) if train.is_due(step, period)]

    for period in ("eval_every", "save_every"):
        assert due(10, period) == [10]
        assert due(15, period) == [10, 15]
        assert due(100, period) == list(range(10, 101, 10))
        assert due(3000, period) == list(range(300, 3001, 300))
        assert due(60000, period) == list(range(2000, 60001, 2000))
    assert due(10, "log_every") == list(range(1, 11))
    assert len(due(3000, "log_every")) == 50


@pytest.mark.parametrize("experiment", experiments())
def test_no_presets_periods_are_those_of_a_short_run(experiment):
    """With `auto`, validations choose the state that is tested: a published figure holds for these periods."""
    train = run_of(f"experiment={experiment}", "data_dir=null").train
    assert train.period("eval_every") == min(train.steps // 10, 2000)
    assert train.period("save_every") == min(train.steps // 10, 2000)
    assert train.period("log_every") == min(train.steps // 50, 100)
