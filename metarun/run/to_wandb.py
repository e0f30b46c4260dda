"""Weights & Biases: a run there for each run, online or offline."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from metarun.core import Tracked, Tracker, rises
from metarun.files import write_atomically
from metarun.run import display
from metarun.run.log import finite
from metarun.run.loggers import reason

log = logging.getLogger("metarun")

STEP = "meta_step"  # the axis of what is logged


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases: online with a login or a key, else offline, without ever asking."""

    project: str
    entity: str | None
    group: str | None  # None: a sweep's, if the run is of one
    mode: Literal["auto", "online", "offline"]
    job_type: str | None = "train"  # as the runs of earlier versions, which have none of these keys
    notes: str | None = None
    checkpoint: bool = True  # whether the best one becomes an artifact

    def open(self, run: Tracked) -> Tracker:
        """A W&B run, the same one each time for the same directory."""
        return WandbRun(self, run)


# How long the end of a run waits for W&B, how long W&B may take to begin, and how long nobody asks again after one that
# waited in vain, in seconds.
PATIENCE, TIME_TO_BEGIN, SILENCE = 60.0, 20.0, 600.0

# The ids of runs that could not begin: W&B's service keeps them until it ends, and all runs of this process with it,
# the user's too; at the interpreter's end it would wait for them. And until when nobody asks again.
held: set[str] = set()
silent: list[float] = []


def begin(start: Callable[[str, str], Any], mode: str, id: str) -> tuple[Any, str]:
    """A W&B run, and its mode: offline where W&B cannot be reached, under another id where this one is held."""
    if mode == "online" and any(time.monotonic() < until for until in silent):
        log.warning("W&B: could not be reached a moment ago; logging offline")
        mode = "offline"
    if mode == "online":
        began = time.monotonic()
        try:
            return start(mode, id), mode
        except Exception as error:
            log.warning(f"W&B: cannot be reached ({reason(error)}); logging offline")
        held.add(id)
        if time.monotonic() >= began + TIME_TO_BEGIN:
            silent.append(time.monotonic() + SILENCE)
        mode = "offline"
    return start(mode, secrets.token_hex(4) if id in held else id), mode


class WandbRun:
    """One W&B run, fed from a thread of its own: training waits for it at the end alone, and not for ever.

    At its first failure it says so once, and keeps quiet from then on.
    """

    def __init__(self, settings: Wandb, of: Tracked) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.settings, self.of, self.folder = settings, of, of.directory / "wandb"
        self.folder.mkdir(parents=True, exist_ok=True)
        id_file = self.folder / "run_id"
        own = id_file.read_text().strip() if id_file.exists() else ""
        shown = display.kept(self.folder / "display.json", of, begun=bool(own))
        if new := not own:
            own = secrets.token_hex(4)
            write_atomically(id_file, own)

        def start(mode: str, id: str) -> Any:
            return wandb.init(
                project=settings.project,
                entity=settings.entity,
                group=settings.group or shown.group,
                job_type=settings.job_type,
                notes=settings.notes,
                name=shown.name,
                tags=list(of.tags),
                config={**of.config, "command": of.command},
                dir=of.directory,
                id=id,
                resume="allow",
                mode=mode,  # type: ignore[arg-type]
                reinit="create_new",  # several runs may be at work in one process
                settings=wandb.Settings(console="off", silent=True, init_timeout=TIME_TO_BEGIN),
            )

        # W&B's own variable, which may also say `disabled`, stands unless the configuration names a mode.
        mode = os.environ.get("WANDB_MODE", "auto") if settings.mode == "auto" else settings.mode
        if mode == "auto":
            mode = "online" if _has_login() else "offline"
        if mode == "online" and not _has_login():
            log.warning("W&B: no login and no WANDB_API_KEY here; logging offline")
            mode = "offline"
        self.run, mode = begin(start, mode, own)
        if new:
            own = self.run.id
            write_atomically(id_file, own)
        if mode == "offline":
            to_own = "" if self.run.id == own else f"--id {own} "
            log.info(f"W&B: offline; upload later with: wandb sync {to_own}{Path(self.run.dir).parent}")
        elif mode == "online":
            log.info(f"W&B: {self.run.url}")
        self.disabled = mode == "disabled"
        self.acts: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.acts.put(self._define)
        # What it logs is the run's, of several at work in one program: see run.log.speaking.
        self.thread = threading.Thread(target=copy_context().run, args=(self._work,), name="wandb", daemon=True)
        self.thread.start()

    def row(self, step: int, row: dict[str, float]) -> None:
        self.acts.put(lambda: self.run.log({**row, STEP: step}, step=step))

    def close(self, summary: dict[str, float]) -> None:
        patience = PATIENCE
        if not self.disabled:
            self.acts.put(lambda: self._optional("pictures and tables", self._show))
        self.acts.put(lambda: self.run.summary.update(summary))
        if self.settings.checkpoint and not self.disabled:
            from metarun.run.restored import files_of_best

            files = files_of_best(self.of.directory)
            patience += sum(file.stat().st_size for file in files) / 1e6  # a second for each MB
            self.acts.put(lambda: self._optional("checkpoint", lambda: self._keep(files, summary)))
        self.acts.put(self.run.finish)
        self.acts.put(None)
        self.thread.join(patience)
        if self.thread.is_alive():
            abandoned.append(self.thread)
            log.warning(
                f"W&B: no answer in {patience:.0f} seconds; what is not there yet is in {self.folder}: wandb sync"
            )

    def _define(self) -> None:
        """The meta-step is the axis of all rows; of the metric that selects the run, the best counts."""
        best = "max" if rises(self.of.metric) else "min"
        self.run.define_metric(STEP, hidden=True)
        for names in ("train/*", "val/*"):
            self.run.define_metric(names, step_metric=STEP)
        self.run.define_metric(f"val/{self.of.metric}", step_metric=STEP, summary=f"{best},last")

    def _show(self) -> None:
        """The adaptation curve, the classes and a few episodes of a tested run."""
        import wandb

        from metarun.run.shown import shown

        if (found := shown(self.of.directory)) is None:
            return
        place, metric = found.place, found.metric
        media: dict[str, Any] = {}
        with uploads_in(self.folder):
            if found.adaptation:
                table = wandb.Table(["inner_steps", metric, "ci95"], [list(point) for point in found.adaptation])
                media[f"{place}/adaptation"] = wandb.plot.line(
                    table, "inner_steps", metric, title=f"{place} {metric} by inner steps"
                )
            if found.classes:
                rows = [[name, right / asked, right, asked] for name, right, asked in found.classes]
                media[f"{place}/classes"] = wandb.Table(["class", "accuracy", "right", "queries"], rows)
                taken = [list(confusion) for confusion in found.confusions]
                media[f"{place}/confusions"] = wandb.Table(["class", "taken for", "times"], taken)
            for episode in found.episodes:
                image = wandb.Image(episode.image(), caption=episode.caption)
                media[f"{place}/{episode.name}"] = image
            # A run that goes on there is past this step already, if it is tested again.
            self.run.log({**media, STEP: found.steps}, step=max(found.steps, self.run.step))

    def _keep(self, files: list[Path], summary: dict[str, float]) -> None:
        """The best checkpoint, with what it takes to load it, as an artifact with the run's figures."""
        import wandb

        if not files:
            return
        facts = {"metric": self.of.metric, "command": self.of.command, "seed": self.of.config["train"]["seed"]}
        with uploads_in(self.folder):
            artifact = wandb.Artifact(f"model-{self.run.id}", type="model", metadata=finite({**summary, **facts}))
            for file in files:
                artifact.add_file(str(file), name=str(file.relative_to(self.of.directory)))
            self.run.log_artifact(artifact, aliases=["best"])

    def _optional(self, what: str, act: Callable[[], None]) -> None:
        """Does what the rest can do without."""
        try:
            act()
        except Exception as error:
            log.warning(f"W&B: has no {what} of this run ({reason(error)})")

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


@contextmanager
def uploads_in(folder: Path) -> Iterator[None]:
    """Within it W&B puts what it has yet to upload there, unless the user says where: an offline run is whole then."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


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
