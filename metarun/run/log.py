"""What a run tells: lines on the terminal and in metarun.log, rows in metrics.jsonl."""

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from metarun.files import write_atomically
from metarun.run.terminal import console, say

log = logging.getLogger("metarun")


# How the last line of metarun.log begins, unless the run was finished or killed.
STOPPED, FAILED = "stopped", "failed: "


def live() -> bool:
    """Whether a live line can be shown (run.status), which then stands for the lines of DEBUG level."""
    return console.is_terminal and sys.stdout.isatty()


# The directory of the run that has the word, of several at work in one program; None: they all have it.
_member: ContextVar[Path | None] = ContextVar("member", default=None)


class Lines(logging.Handler):
    """Prints lines above the live one."""

    def emit(self, record: logging.LogRecord) -> None:
        member = _member.get()
        if member is not None and record.levelno < logging.WARNING:
            return  # of many runs at once what each has to say is too much
        of = "" if member is None else f"{member.name}: "
        say(f"{of}{record.getMessage()}")


class LogFile(logging.FileHandler):
    """A log file that a full disk makes incomplete, and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):  # what was held back does not fit either; the file is closed all the same
            super().close()


def open_log(directory: Path, *members: Path) -> None:
    """Sends the program's lines to the terminal and to metarun.log in the run's directory.

    And those of `members`, directories of runs that are at work together, each to its own: see `speaking`.
    """
    log_to(log_file(directory, None), *(log_file(member, member) for member in members), Lines())


def log_file(directory: Path, member: Path | None) -> LogFile:
    """The metarun.log in a directory, for the lines of a member, or of all together."""
    directory.mkdir(parents=True, exist_ok=True)
    to_file = LogFile(directory / "metarun.log")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    to_file.addFilter(lambda record: _member.get() == member)
    return to_file


@contextmanager
def speaking(member: Path) -> Iterator[None]:
    """Lines are the run's in this directory alone; of them the terminal has warnings."""
    token = _member.set(member)
    try:
        yield
    finally:
        _member.reset(token)


def log_on_terminal(errors: bool) -> None:
    """Sends the program's lines, and all else that is told, to the terminal alone: by standard error, if `errors`."""
    console.stderr = errors
    log_to(Lines())


def log_to(*handlers: logging.Handler) -> None:
    """Each of the program's lines goes to these; to what prints them, unless a live line says as much."""
    close_log()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in handlers:
        if isinstance(handler, Lines):
            handler.setLevel(logging.INFO if live() else logging.DEBUG)
        log.addHandler(handler)


def close_log() -> None:
    """Lets go of the log of an earlier run of the same process."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()


def in_log_file(directory: Path, line: str) -> None:
    """Writes a line into the run's metarun.log alone, if that is open: how it ended, for who reads it later."""
    for handler in log.handlers:
        if isinstance(handler, LogFile) and handler.baseFilename == os.path.abspath(directory / "metarun.log"):
            handler.emit(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))


def last_line(path: Path) -> str:
    """The last line of a metarun.log, without its time; nothing if there is none."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
        return next((line.partition(" ")[2].partition(" ")[2] for line in reversed(lines) if line.strip()), "")
    return ""


class MetricsFile:
    """metrics.jsonl: one object a line, `{"step": ..., "split": ..., metric: value, ...}`.

    What the disk does not take is kept, told once, and tried again with the next row.
    """

    def __init__(self, path: Path, step: int, again: str | None = None) -> None:
        """Begins to go on after `step`: rows past it, of a run that was killed, are dropped.

        So are those of the split `again` at `step` itself, which will come once more.
        """
        self.path = path
        self.waiting: list[str] = []
        self.failed = False
        if path.exists():
            rows = [row for row in read_rows(path) if row["step"] <= step]
            rows = [row for row in rows if (row["step"], row["split"]) != (step, again)]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        self.waiting.append(json.dumps(finite({"step": step, "split": split, **metrics}), allow_nan=False) + "\n")
        self.flush()

    def flush(self) -> None:
        try:
            append(self.path, "".join(self.waiting))
            self.waiting = []
        except OSError as error:
            if not self.failed:
                log.warning(f"{self.path} cannot be written ({error.strerror}); training goes on and keeps its rows")
            self.failed = True

    def close(self) -> list[str]:
        """Tries once more; what was lost, in words: nothing, or one line."""
        self.flush()
        return [f"{len(self.waiting)} rows of {self.path.name} could not be written"] if self.waiting else []


def append(path: Path, text: str) -> None:
    """Adds `text` to a file, all of it or nothing."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        rest = text.encode()
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics.jsonl; what is none, such as a last line that was cut off, is left out."""
    rows = []
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):  # no JSON, or no text at all
            row = json.loads(line)
            if isinstance(row, dict) and type(row.get("step")) is int and "split" in row:
                rows.append(row)
    return rows


def finite(values: Any) -> Any:
    """Nested results with null for every number that is none: NaN is not JSON."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def words(metrics: Mapping[str, float]) -> str:
    """`loss 0.1234  accuracy 0.9321`"""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
