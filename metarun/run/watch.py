"""A call that hangs: told in one line, and the process ended so that a scheduler starts it again."""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from metarun.run.stop import leave

TICK = 1.0  # seconds
IDLE = 0.05  # of a core: a process that takes less does nothing


class Watch:
    """What the run is at, and for how long it has been at it without doing anything.

    Time in which a thread of the process computes, or would if the machine let it, does not count, and neither does
    time in which the process is suspended: a slow machine is no hang.
    """

    def __init__(self, patience_minutes: float | None, file: Path) -> None:
        self.patience = None if patience_minutes is None else 60 * patience_minutes
        self.file = file  # for the stacks
        self.saved: Callable[[], str] = lambda: "nothing is saved"  # and how to go on, in words
        self.what: str | None = None  # nothing is watched
        self.signs = 0  # of life, counted
        self.silent = 0.0  # in seconds, since the last one
        self.over = threading.Event()

    def at(self, what: str) -> None:
        """From now on the run is at `what`: a sign of life."""
        self.what = what
        self.signs += 1

    def look(self) -> None:
        """Looks again and again, in a thread of its own, until the watch is over."""
        before, signs = time.process_time(), self.signs
        while not self.over.wait(TICK):
            now = time.process_time()
            busy = now - before > IDLE * TICK or other_threads_would_run()
            before = now
            if self.signs != signs:
                self.silent, signs = 0.0, self.signs
            elif self.what is not None and not busy:
                self.silent += TICK
            if self.patience is not None and self.silent >= self.patience:
                self.give_up()

    def give_up(self) -> None:
        """Leaves the stacks in the run's directory and ends the process."""
        kept = f"stacks in {self.file}"
        try:
            with self.file.open("w") as file:
                file.write(f"{time.strftime('%F %T')}: {self.what}, silent for {self.silent:.0f} s\n\n")
                file.write("".join(f"{line}\n" for line in threads()) + "\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            kept = f"no stacks, as {self.file} cannot be written ({error.strerror})"
        leave(f"{self.what}: no answer for {self.silent / 60:.3g} minutes, it hangs; {self.saved()}; {kept}")


@contextmanager
def watched(patience_minutes: float | None, file: Path) -> Iterator[Watch]:
    """A `Watch` that looks after the run as long as the context lasts."""
    watch = Watch(patience_minutes, file)
    thread = threading.Thread(target=watch.look, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join()


def other_threads_would_run() -> bool:
    """Whether some thread but this one is computing, waiting for a core or the disk, or held by a debugger.

    Nothing of the kind is known where there is no /proc: False.
    """
    own = str(threading.get_native_id())
    return any(state in "RDTt" for number, _, state in _threads() if number != own)


def threads() -> list[str]:
    """A line for each thread of the process: its number, name, state, and what the kernel has it wait for."""
    lines = []
    for number, name, state in _threads():
        waits_for = ""
        with contextlib.suppress(OSError):
            waits_for = Path(f"/proc/self/task/{number}/wchan").read_text()
        lines.append(f"thread {number} {name} {state} {waits_for}")
    return lines


def _threads() -> Iterator[tuple[str, str, str]]:
    """Number, name and state (S: it waits) of each thread."""
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # one that has ended
                before, _, after = Path(f"/proc/self/task/{number}/stat").read_text().rpartition(")")
                yield number, before.partition("(")[2], after.split()[0]
