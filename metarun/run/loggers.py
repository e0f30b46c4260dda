"""Where figures go besides the run's directory: Weights & Biases, or nowhere."""

import logging
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from metarun.core import Tracker
from metarun.run import display
from metarun.text import first_line

log = logging.getLogger("metarun")


class Nowhere:
    """A tracker that keeps nothing."""

    def row(self, step: int, row: dict[str, float]) -> None:
        pass

    def close(self, summary: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class NoLogger:
    """metrics.jsonl and results.json only."""

    def open(self, directory: Path, config: dict[str, Any], name: str, tags: tuple[str, ...]) -> Tracker:
        return Nowhere()


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases: online with a login or a key, else offline, without ever asking."""

    project: str
    entity: str | None
    group: str | None
    mode: Literal["auto", "online", "offline"]

    def open(self, directory: Path, config: dict[str, Any], name: str, tags: tuple[str, ...]) -> Tracker:
        """A W&B run, the same one each time for the same `directory`."""
        try:
            return WandbRun(self, directory, config, name, tags)
        except Exception as error:  # whatever W&B raises, training goes on
            log.warning(f"W&B: not logging there ({reason(error)})")
            return Nowhere()


# How long the end of a run waits for W&B, and how long W&B may take to begin, in seconds.
PATIENCE, TIME_TO_BEGIN = 60.0, 20.0


class WandbRun:
    """One W&B run, fed from a thread of its own: training waits for it at the end alone, and not for ever.

    At its first failure it says so once, and keeps quiet from then on.
    """

    def __init__(
        self, settings: Wandb, directory: Path, config: dict[str, Any], name: str, tags: tuple[str, ...]
    ) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        folder = directory / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "run_id"
        shown = display.kept(folder / "display.json", name, config, begun=id_file.exists())
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))

        def start(mode: str) -> Any:
            return wandb.init(
                project=settings.project,
                entity=settings.entity,
                group=settings.group or shown.group,
                name=shown.name,
                tags=list(tags),
                config=config,
                dir=directory,
                id=id_file.read_text().strip(),
                resume="allow",
                mode=mode,  # type: ignore[arg-type]
                settings=wandb.Settings(console="off", silent=True, init_timeout=TIME_TO_BEGIN),
            )

        # W&B's own variable, which may also say `disabled`, stands unless the configuration names a mode.
        mode = os.environ.get("WANDB_MODE", "auto") if settings.mode == "auto" else settings.mode
        if mode == "auto":
            mode = "online" if _has_login() else "offline"
        if mode == "online" and not _has_login():
            log.warning("W&B: no login and no WANDB_API_KEY here; logging offline")
            mode = "offline"
        try:
            self.run = start(mode)
        except Exception as error:
            if mode != "online":
                raise
            log.warning(f"W&B: cannot be reached ({reason(error)}); logging offline")
            mode = "offline"
            wandb.teardown()  # its service may still hold the run's id
            self.run = start(mode)
        if mode == "offline":
            log.info(f"W&B: offline; upload later with: wandb sync {Path(self.run.dir).parent}")
        elif mode == "online":
            log.info(f"W&B: {self.run.url}")
        self.folder = directory / "wandb"
        self.acts: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self.thread.start()

    def row(self, step: int, row: dict[str, float]) -> None:
        self.acts.put(lambda: self.run.log(row, step=step))

    def close(self, summary: dict[str, Any]) -> None:
        self.acts.put(lambda: self.run.summary.update(summary))
        self.acts.put(self.run.finish)
        self.acts.put(None)
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            abandoned.append(self.thread)
            log.warning(
                f"W&B: no answer in {PATIENCE:.0f} seconds; what is not there yet is in {self.folder}: wandb sync"
            )

    def _work(self) -> None:
        while (act := self.acts.get()) is not None:
            try:
                act()
            except Exception as error:  # a tracker that breaks must not take the training with it
                log.warning(f"W&B: stopped logging there ({reason(error)})")
                abandoned.append(self.thread)
                return


# Threads that still wait for W&B, or that it failed: at the interpreter's end it would wait, or fail, once more.
abandoned: list[threading.Thread] = []


def _has_login() -> bool:
    """Whether W&B has a key for this user, in WANDB_API_KEY or in netrc; asks nobody, no network."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def without_key(text: str) -> str:
    """The same text, without W&B's key."""
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "(WANDB_API_KEY)") if key else text


def reason(error: Exception) -> str:
    """An error's first line, without W&B's key: taken out before the line is shortened, as half of it is not found."""
    return first_line(RuntimeError(without_key(str(error) or type(error).__name__)))
