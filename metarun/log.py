"""What a run tells: lines on the terminal and in metarun.log, rows in metrics.jsonl, a progress bar."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("metarun")
console = Console(highlight=False)


def live() -> bool:
    """Whether a progress bar can be shown, which then stands for the lines of DEBUG level."""
    return console.is_terminal and sys.stdout.isatty()


class Terminal(logging.Handler):
    """Prints lines above the progress bar, as they are: what comes from files is not markup."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(record.getMessage(), markup=False, soft_wrap=True)


def open_log(directory: Path) -> None:
    """Sends the program's lines to the terminal and to metarun.log in the run's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for handler in log.handlers[:]:  # an earlier job's of the same process
        log.removeHandler(handler)
        handler.close()
    to_file = logging.FileHandler(directory / "metarun.log")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    to_terminal = Terminal()
    to_terminal.setLevel(logging.INFO if live() else logging.DEBUG)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(to_file)
    log.addHandler(to_terminal)


class MetricsFile:
    """metrics.jsonl: one object a line, `{"step": ..., "split": ..., metric: value, ...}`."""

    def __init__(self, path: Path, step: int) -> None:
        """Opens `path` to go on after `step`: rows past it, of a run that was killed, are dropped."""
        if path.exists():
            rows = [row for row in read_rows(path) if row["step"] <= step]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        self.file = path.open("a")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        self.file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self.file.flush()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics.jsonl; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that whoever reads it finds either the old content or the new, whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def words(metrics: Mapping[str, float]) -> str:
    """`loss 0.1234  accuracy 0.9321`"""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


class Bar:
    """A progress bar on a terminal; nothing elsewhere, where the logged lines tell the same."""

    def __init__(self, steps: int, start: int) -> None:
        self.progress = Progress(
            TextColumn("meta-steps"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not live(),
        )
        self.task = self.progress.add_task("", total=steps, completed=start, rates="", metrics="compiling")

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, step: int, steps_per_s: float, tasks_per_s: float, metrics: Mapping[str, float]) -> None:
        rates = f"{steps_per_s:.1f}/s  {tasks_per_s:.0f} tasks/s"
        self.progress.update(self.task, completed=step, rates=rates, metrics=words(metrics))
