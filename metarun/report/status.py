"""How a run stands: finished, running, stopped, crashed, not a number, or damaged; and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metarun.run.record import FAILED, STOPPED, is_taken, last_line, newest_in

# From the best to the worst: in this order a report shows runs.
IN_ORDER = ("finished", "running", "stopped", "not a number", "crashed", "damaged")


class Status(NamedTuple):
    """One of IN_ORDER, and why, where that is not plain."""

    name: str
    why: str = ""


def status(path: Path, unreadable: Sequence[str], step: int) -> Status:
    """Of the run in `path`: `unreadable` are the parts it cannot do without, in words, `step` is its last row's.

    A run that ended without results was stopped, if its log says so, and crashed, if its log, or what a call that hung
    leaves, says so. Where nothing does (an old run, or one that was killed) it was stopped if it lost nothing: its
    newest checkpoint is no older than its last row.
    """
    if unreadable:
        return Status("damaged", "; ".join(unreadable))
    if (path / "results.json").exists():
        return Status("finished")
    if is_taken(path):
        return Status("running")
    last = last_line(path / "metarun.log")
    if (path / "nonfinite").exists() and not last.startswith(STOPPED):  # it may have gone on since
        return Status("not a number", "a meta-step was not finite: nonfinite/ has it")
    if hung(path):
        return Status("crashed", "a call to the devices hung: stacks.txt")
    if last.startswith(FAILED):
        return Status("crashed", last.removeprefix(FAILED))
    saved = newest_in(path / "checkpoints" / "last") or 0
    if last.startswith(STOPPED) or saved >= step:
        return Status("stopped")
    kept = f"of meta-step {saved:,}" if saved else "none"
    return Status("crashed", f"it was killed: its last row is of meta-step {step:,}, its newest checkpoint {kept}")


def hung(path: Path) -> bool:
    """Whether a call hung, and nobody has gone on with the run since."""
    stacks, log = path / "stacks.txt", path / "metarun.log"
    return stacks.exists() and (not log.exists() or stacks.stat().st_mtime >= log.stat().st_mtime)
