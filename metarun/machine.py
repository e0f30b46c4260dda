"""The machine beside this process: what share of its cores others take while something is measured."""

import time
from contextlib import suppress
from typing import NamedTuple

import psutil

BUSY = 0.05  # of the cores: with more of them taken by others, times are theirs as well


class Cores(NamedTuple):
    """What the cores that this process may use have done so far, all together, in seconds."""

    counted: float  # busy or idle
    busy: float  # for whomever, other guests of a virtual machine's host included
    own: float  # of this, for this process and all that it has started


def cores() -> Cores | None:
    """A reading; None where the system does not tell."""
    try:
        process = psutil.Process()
        every = psutil.cpu_times(percpu=True)
        usable = process.cpu_affinity() if hasattr(process, "cpu_affinity") else range(len(every))
        times = [every[core]._asdict() for core in usable if core < len(every)]
        # What a guest takes is in `user` and `nice` already.
        counted = sum(sum(of.values()) - of.get("guest", 0) - of.get("guest_nice", 0) for of in times)
        idle = sum(of["idle"] + of.get("iowait", 0) for of in times)
        return Cores(counted, counted - idle, own_seconds(process))
    except (OSError, RuntimeError, psutil.Error):
        return None


def own_seconds(process: psutil.Process) -> float:
    """What a process and its children have computed: those that run, and those that have ended and were waited for."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # ended meanwhile
            total += sum(each.cpu_times()[:4])  # user, system, and of its ended children
    return total


def taken_by_others(before: Cores | None, after: Cores | None) -> float | None:
    """The share of the cores, 0 to 1, that others took between two readings; None where the system does not tell."""
    if before is None or after is None or after.counted <= before.counted:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return min(1.0, max(0.0, others / (after.counted - before.counted)))


def look(seconds: float) -> float | None:
    """The share that others take now: what they take while this waits for so long."""
    before = cores()
    time.sleep(seconds)
    return taken_by_others(before, cores())


def is_busy(share: float | None) -> bool:
    """Whether others took so much that times are not to be trusted; not where the system does not tell."""
    return share is not None and share > BUSY


def in_words(share: float | None) -> str:
    """`others took 3 % of the cores`"""
    return "what others took of the cores is not known" if share is None else f"others took {share:.0%} of the cores"
