"""What the run is at, for who waits: a live line on a terminal; elsewhere a logged line about what takes long."""

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from metarun.run.log import live
from metarun.run.terminal import console, say
from metarun.text import printable

log = logging.getLogger("metarun")

# In seconds. What takes less than QUIET is not told; what goes on is told again; lines are at least APART.
QUIET, AGAIN, APART, TICK = 2.0, 30.0, 5.0, 0.25


class Now(NamedTuple):
    """What the run is at since when, and how far."""

    what: str
    since: float
    quiet: float
    done: int
    total: int | None  # None: nobody knows how far it is
    note: str

    def in_words(self, seconds: float) -> str:
        """`loading the data (12 s)`, `test episodes: 300 of 3,000`"""
        far = f" ({seconds:.0f} s)" if self.total is None else f": {self.done:,} of {self.total:,}"
        return f"{self.what}{far}{f'  {self.note}' if self.note else ''}"


class Status:
    """Tells what the run is `at`, as long as its context lasts.

    Until the run has its log, which `opened` says, lines go to the terminal alone, and none is live: what fetches data
    has a progress bar of its own.
    """

    def __init__(self, of: str = "") -> None:
        """`of` which of several runs, in words that lines begin with."""
        self.of = of
        self.now: Now | None = None
        self.told = 0.0  # when a line last said where the run is
        self.say: Callable[[str], object] = say
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.tell, name="status", daemon=True)
        self.line = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[far]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            expand=True,  # the note gets what the others leave, and is cut where that is too little
            transient=True,
            refresh_per_second=4,
            disable=not live(),
        )

    def __enter__(self) -> "Status":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.line.live.is_started:
            self.line.stop()

    def opened(self) -> None:
        """The run has its log; where a terminal has the live line, its lines go to the file only."""
        self.say = log.debug
        self.line.start()

    def at(self, what: str, total: int | None = None, done: int = 0, note: str = "", quiet: float = QUIET) -> None:
        """From now on the run is at `what`, or further with it; it is told once it has taken `quiet` seconds."""
        what = f"{self.of}{what}"
        before, self.now = self.now, Now(what, time.monotonic(), quiet, done, total, note)
        if before is not None and before.what == what:
            self.now = self.now._replace(since=before.since)
            [row] = self.line.task_ids
        else:
            for row in self.line.task_ids:
                self.line.remove_task(row)
            row = self.line.add_task(what, total=total, far="", note="")
        far = "" if total is None else f"{done:,}/{total:,}"
        self.line.update(row, completed=done, far=far, note=printable(note))

    def heard(self) -> None:
        """Another line has just said where the run is."""
        self.told = time.monotonic()

    def tell(self) -> None:
        """Says what takes long, in a thread of its own."""
        said: Now | None = None
        while not self.over.wait(TICK):
            now, at = self.now, time.monotonic()
            if now is None:
                continue
            again = said is not None and (said.what, said.since) == (now.what, now.since)
            if at - now.since >= now.quiet and at - self.told >= (max(AGAIN, now.quiet) if again else APART):
                self.say(now.in_words(at - now.since))
                said, self.told = now, at
