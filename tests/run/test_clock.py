"""The clock of a run: how fast meta-steps are, however late the host reads of them."""

import pytest

from metarun.run import clock


@pytest.fixture
def reported(monkeypatch):
    """A clock that was told of calls, each so many seconds after the one before."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def made(*calls: tuple[float, int]) -> clock.Clock:
        told = clock.Clock()
        for seconds, steps in calls:
            now[0] += seconds
            told.arrived(steps)
        return told

    return made


def test_the_first_report_tells_nothing_of_speed(reported):
    assert reported((9.0, 5)).rate == 0
    assert reported((9.0, 5)).speed(4, 100) == ""


def test_the_rate_is_meta_steps_over_their_seconds(reported):
    told = reported((9.0, 5), (2.0, 10), (2.0, 10))
    assert told.rate == pytest.approx(5)
    assert told.mean_rate() == pytest.approx(5)
    assert told.speed(4, 100) == "  5.0 meta-steps/s  20 tasks/s  0:00:20 left"


def test_two_reports_at_once_are_no_faster_than_one_after_the_other(reported):
    steady = [(1.0, 50)] * 20
    late = reported(*steady, (2.0, 50), (1e-6, 50))
    assert late.rate == pytest.approx(50, rel=0.1)


def test_the_rate_follows_a_machine_that_becomes_slower(reported):
    assert reported(*[(1.0, 50)] * 20, *[(1.0, 10)] * 20).rate == pytest.approx(10, rel=0.1)


def test_what_the_host_did_between_is_not_counted(reported):
    told = reported((1.0, 10), (1.0, 10))
    told.interrupted()
    told.arrived(10)
    assert told.mean_rate() == pytest.approx(10)
