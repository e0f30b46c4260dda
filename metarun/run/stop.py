"""Being asked to stop: by Ctrl-C, by SIGTERM from a scheduler, by the clock."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from metarun import exit_codes
from metarun.files import WRITING

SECONDS_TO_WRITE = 10  # that a stopped process waits for a file to be whole
# The variable by which a sweep's process tells those of its jobs who it is: without it they have no business left.
PARENT = "METARUN_SWEEP_PROCESS"


class Interrupted(Exception):
    """Asked to stop: all is saved, and the same command goes on."""


# What makes a `Stop` for as long as a run is at work, of its run.max_minutes.
Stopping = Callable[[float | None], AbstractContextManager["Stop"]]


class Stop:
    """Whether the run has been asked to stop. While something is `unsaved` it is for the run to save it and leave.

    With nothing unsaved the first signal ends the process, and a second Ctrl-C always does, whatever the main thread
    is at: Python's own handlers wait until a compilation or a call to the devices returns.
    """

    def __init__(self, max_minutes: float | None, then: str = "") -> None:
        """`then` stands after how to go on, wherever that is told."""
        self.how_to_go_on, self.then = "the same command", then
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.received = False
        self.unsaved = False
        self.agree: Callable[[bool], bool] = lambda asked: asked
        self.tell: Callable[[], object] = lambda: None  # those who are to stop, too

    @property
    def asked(self) -> bool:
        return self.received or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether it is the clock that asks, and nobody else."""
        return not self.received and self.deadline is not None and time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raises Interrupted if the run has been asked to stop; of several processes, process 0."""
        if self.agree(self.asked):
            raise Interrupted

    def signal(self, number: int) -> None:
        self.tell()
        if not self.unsaved:
            WRITING.acquire(timeout=SECONDS_TO_WRITE)
            leave(f"stopped; nothing was left to save; go on with: {self.how_to_go_on}{self.then}")
        if self.received and number == signal.SIGINT:
            leave(f"stopped at once; go on from the last save with: {self.how_to_go_on}{self.then}")
        self.received = True


def leave(message: str, code: int = exit_codes.STOPPED) -> None:
    """Ends the process here and now, from any thread."""
    plain = "\r\x1b[2K\x1b[?25h" if sys.stderr.isatty() else ""  # a live line stands there, and hides the cursor
    with suppress(OSError):
        os.write(2, f"{plain}metarun: {message}\n".encode())
    os._exit(code)


@contextmanager
def stop_on_signals(max_minutes: float | None, then: str = "") -> Iterator[Stop]:
    """A `Stop` that hears SIGINT and SIGTERM as long as the context lasts, if this is the main thread."""
    stop = Stop(max_minutes, then)
    with hearing(stop.signal):
        yield stop


@contextmanager
def leave_on_signals(end: Callable[[], object] = lambda: leave("stopped")) -> Iterator[None]:
    """SIGINT and SIGTERM `end` the process as long as the context lasts, at once: there is nothing to save.

    But for a file that is being written: it is whole first, unless the disk takes too long.
    """

    def heard(number: int) -> None:
        WRITING.acquire(timeout=SECONDS_TO_WRITE)
        end()

    with hearing(heard):
        yield


@contextmanager
def hearing(tell: Callable[[int], None]) -> Iterator[None]:
    """`tell` is told of each SIGINT and SIGTERM, in a thread, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()  # the interpreter writes a signal's number at once, in whatever call it is
    theirs.setblocking(False)

    def listen() -> None:
        while received := ours.recv(1):
            tell(received[0])

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    earlier_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # A handler in Python that does nothing: without one the signal would end the process, or raise.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_fd)
        theirs.close()
        listener.join()
        ours.close()


@contextmanager
def raising_on_interrupt(max_minutes: float | None) -> Iterator[Stop]:
    """A `Stop` for a process that is not the run's own to end, such as a notebook's.

    Ctrl-C (SIGINT, in the main thread) asks to stop where something is unsaved; else it raises Interrupted, and when
    it comes a second time KeyboardInterrupt. What other signals do is left as it is.
    """
    stop = Stop(max_minutes)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def heard(*_: object) -> None:
        if stop.received or not stop.unsaved:
            raise KeyboardInterrupt
        stop.received = True

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    except KeyboardInterrupt:
        if stop.received:
            raise
        raise Interrupted(f"stopped; nothing was left to save; go on with: {stop.how_to_go_on}") from None
    finally:
        signal.signal(signal.SIGINT, before)


def stop_without_parent() -> None:
    """If this process is a sweep's job: once the sweep's own process is gone it is asked to stop, as by SIGTERM."""
    if (parent := os.environ.pop(PARENT, None)) is None:
        return

    def look() -> None:
        while str(os.getppid()) == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()
