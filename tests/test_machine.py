"""What share of the cores others take, told from what all do and what this process does: with readings made up."""

from collections import namedtuple

import psutil
import pytest

from metarun import machine
from metarun.machine import Cores, taken_by_others

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
Own = namedtuple("Own", "user system children_user children_system iowait")


class Process:
    """As much of psutil.Process as is asked."""

    def __init__(self, own=(0, 0, 0, 0), children=(), usable=(0, 1)):
        self.own, self.started, self.usable = own, children, usable

    def cpu_affinity(self):
        return list(self.usable)

    def children(self, recursive):
        assert recursive
        return self.started

    def cpu_times(self):
        if self.own is None:
            raise psutil.NoSuchProcess(1)
        return Own(*self.own, iowait=0.0)


def of_all(monkeypatch, process, *cores):
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Times(*core) for core in cores])


@pytest.mark.parametrize(
    ("after", "share"),
    [
        (Cores(counted=20, busy=10, own=10), 0),
        (Cores(counted=20, busy=14, own=10), 0.2),
        (Cores(counted=20, busy=20, own=0), 1),
        (Cores(counted=20, busy=9, own=10), 0),  # the system counts in hundredths of a second, and may say less
        (Cores(counted=0, busy=0, own=1), None),  # or does not count at all, as in some sandboxes
        (None, None),
    ],
)
def test_others_take_what_is_busy_and_not_ones_own(after, share):
    assert taken_by_others(Cores(0, 0, 0), after) == (None if share is None else pytest.approx(share))
    assert taken_by_others(after, None) is None


def test_all_that_is_not_idle_is_busy_with_what_other_guests_take_of_the_machine(monkeypatch):
    of_all(monkeypatch, Process(), (1, 2, 4, 50, 8, 0, 16, 32, 0, 0), (0, 0, 0, 100, 0, 0, 0, 0, 0, 0))
    assert machine.cores() == Cores(counted=213, busy=1 + 2 + 4 + 16 + 32, own=0)
    of_all(monkeypatch, Process(usable=(0,)), (7, 3, 0, 50, 0, 0, 0, 0, 5, 2))  # a guest's time is in user and nice
    assert machine.cores() == Cores(counted=60, busy=10, own=0)


def test_only_the_cores_that_this_process_may_use_count(monkeypatch):
    of_all(monkeypatch, Process(usable=(1,)), (9, 0, 0, 1, 0, 0, 0, 0, 0, 0), (1, 0, 0, 9, 0, 0, 0, 0, 0, 0))
    assert machine.cores() == Cores(counted=10, busy=1, own=0)


def test_what_it_has_started_is_its_own_whether_it_runs_or_has_ended(monkeypatch):
    ended = Process(own=None)
    process = Process(own=(1, 2, 4, 8), children=[Process(own=(16, 32, 64, 0)), ended])
    of_all(monkeypatch, process, (0, 0, 0, 1, 0, 0, 0, 0, 0, 0), (0, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    assert machine.cores().own == 127


@pytest.mark.parametrize("error", [FileNotFoundError, psutil.AccessDenied, NotImplementedError])
def test_a_system_that_does_not_tell_is_no_error(monkeypatch, error):
    def raising(percpu):
        raise error

    monkeypatch.setattr(psutil, "cpu_times", raising)
    assert machine.cores() is None
    assert machine.look(0) is None
    assert not machine.is_busy(None)
    assert "not known" in machine.in_words(None)


def test_this_machine_is_read(monkeypatch):
    readings = [Cores(0, 0, 0), Cores(10, 6, 0)]
    real = machine.cores()
    assert real is None or real.counted >= real.busy > 0
    monkeypatch.setattr(machine, "cores", lambda: readings.pop(0))
    share = machine.look(0)
    assert share == 0.6
    assert machine.is_busy(share)
    assert not machine.is_busy(0.01)
    assert machine.in_words(share) == "others took 60% of the cores"
