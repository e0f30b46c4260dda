"""Where figures go besides the run's directory: nowhere, or to several trackers at once, none of which stops a run."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metarun.core import Logger, Tracked, Tracker
from metarun.text import first_line

log = logging.getLogger("metarun")


class Nowhere:
    """A tracker that keeps nothing."""

    def row(self, step: int, row: dict[str, float]) -> None:
        pass

    def close(self, summary: dict[str, float]) -> None:
        pass


@dataclass(frozen=True)
class NoLogger:
    """metrics.jsonl and results.json only."""

    def open(self, run: Tracked) -> Tracker:
        return Nowhere()


class Trackers:
    """The trackers of all of a run's loggers. One that fails says so once, and is left out from then on."""

    def __init__(self, loggers: Mapping[str, Logger], run: Tracked) -> None:
        self.at_work: dict[str, Tracker] = {}
        for name, logger in loggers.items():
            if (tracker := self.attempt(name, logger.open, run)) is not None:
                self.at_work[name] = tracker

    def row(self, step: int, row: dict[str, float]) -> None:
        for name, tracker in list(self.at_work.items()):
            self.attempt(name, tracker.row, step, dict(row))

    def close(self, summary: dict[str, float]) -> None:
        for name, tracker in list(self.at_work.items()):
            self.attempt(name, tracker.close, dict(summary))

    def attempt(self, name: str, act: Callable[..., Any], *given: object) -> Any:
        """What `act` returns; None of one that fails, whose tracker is then left out."""
        try:
            return act(*given)
        except Exception as error:  # whatever a tracker raises, training goes on
            self.at_work.pop(name, None)
            log.warning(f"logger {name}: nothing more goes there ({reason(error)})")
            return None


def without_key(text: str) -> str:
    """The same text, without W&B's key."""
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "(WANDB_API_KEY)") if key else text


def reason(error: Exception) -> str:
    """An error's first line, without W&B's key: taken out before the line is shortened, as half of it is not found."""
    return first_line(RuntimeError(without_key(str(error) or type(error).__name__)))
