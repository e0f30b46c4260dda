"""TensorBoard: event files in the run's own directory, written by tensorboardX's protocol buffers."""

import logging
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metarun.config import flat
from metarun.core import ConfigError, Tracked, Tracker
from metarun.run.log import read_rows

if TYPE_CHECKING:
    from metarun.run.pictures import Picture

# What tells where a run lives and what it is called is none of its hyperparameters.
NO_HYPERPARAMETER = ("run.", "logger", "paper", "data_dir", "suggested")


@dataclass(frozen=True)
class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir runs` shows those of all runs."""

    def check(self) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            need = "needs a package: pip install 'metarun[tensorboard]'; or take another logger"
            raise ConfigError("logger", "tensorboard", need) from error

    def open(self, run: Tracked) -> Tracker:
        """The run's event file of this process; of those before, what came after the state it goes on from is void."""
        return Events(run)


class Events:
    """One event file. A row is on the disk when `row` returns: tensorboardX's own thread would hide its errors."""

    def __init__(self, of: Tracked) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # of a NaN it would say that it is one
        self.of = of
        folder = of.directory / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        before = any(folder.iterdir())
        self.writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")
        if before:
            # A run that has all its meta-steps is tested again; with none it begins again.
            void = of.step if of.step in (0, of.config["train"]["steps"]) else of.step + 1
            self.write(Event(step=void, session_log=SessionLog(status=SessionLog.START)))
            self.rows_again(void)
        self.writer.flush()

    def rows_again(self, step: int) -> None:
        """What the run has of this step already: TensorBoard makes no difference between a row and a test's figures."""
        with suppress(FileNotFoundError):
            for row in read_rows(self.of.directory / "metrics.jsonl"):
                split, at = row.pop("split"), row.pop("step")
                if at == step:
                    known = {name: math.nan if value is None else value for name, value in row.items()}
                    self.row(step, {f"{split}/{name}": value for name, value in known.items()})

    def row(self, step: int, row: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in row.items():
            self.add(step, scalar(name, value))
        self.writer.flush()

    def close(self, summary: dict[str, float]) -> None:
        """With pictures, tables and hyperparameters, if the run is tested."""
        from metarun.run.pictures import of_adaptation
        from metarun.run.shown import shown

        if (found := shown(self.of.directory)) is not None:
            self.row(found.steps, summary)
            self.hyperparameters(found.steps, summary)
            curve = [of_adaptation(found.adaptation, found.metric)] if found.adaptation else []
            for picture in (*curve, *found.episodes):
                self.image(found.steps, f"{found.place}/{picture.name}", picture)
            if found.classes:
                rows = [(name, f"{right / asked:.4f}", asked) for name, right, asked in found.classes]
                self.table(found.steps, f"{found.place}/classes", ("class", "accuracy", "queries"), rows)
                header = ("class", "taken for", "times")
                self.table(found.steps, f"{found.place}/confusions", header, found.confusions)
        self.writer.close()

    def hyperparameters(self, step: int, summary: dict[str, float]) -> None:
        """The settings beside the final figures, for TensorBoard's table of runs."""
        from tensorboardX.summary import hparams

        settings = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in flat(self.of.config).items()
            if not key.startswith(NO_HYPERPARAMETER) and value is not None
        }
        for part in hparams(settings, summary):
            self.add(step, part)

    def image(self, step: int, tag: str, picture: "Picture") -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        drawn = picture.image()
        image = Summary.Image(
            height=drawn.height, width=drawn.width, colorspace=len(drawn.getbands()), encoded_image_string=picture.png
        )
        self.add(step, Summary(value=[Summary.Value(tag=tag, image=image)]))

    def table(self, step: int, tag: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        from tensorboardX.summary import text

        lines = [header, ["---"] * len(header), *rows]
        cells = ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines]
        self.add(step, text(tag, "\n".join(cells)))

    def add(self, step: int, summary: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.write(Event(step=step, summary=summary))

    def write(self, event: Any) -> None:
        event.wall_time = time.time()
        self.writer.write_event(event)
