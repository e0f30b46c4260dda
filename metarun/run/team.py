"""A run at which several processes work: process 0 is the run's, and what the others keep is thrown away."""

import copy
import dataclasses
import importlib.metadata
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from metarun import engine, exit_codes
from metarun.config import flat
from metarun.config.run import Run
from metarun.run.loop import Loop, OutOfTime
from metarun.run.nonfinite import NotFinite
from metarun.run.stop import Interrupted, Stop, leave
from metarun.run.terminal import console
from metarun.text import first_line

# What may differ between processes: where they are, what they keep, and where their data lie.
OWN = ("run.", "logger", "data_dir", "task.data_dir", "paper", "hardware.coordinator", "hardware.process",
       "hardware.join_seconds")  # fmt: skip
VERSIONS = ("metarun", "jax", "jaxlib")
SECONDS_TO_COME_TO_REST = 2.0  # that the main thread is given before its state is saved


@contextmanager
def joined(run: Run) -> Iterator[tuple[Run, "Others"]]:
    """The run as this process is to work at it, once all processes are there, who are looked after from then on.

    Raises ConfigError. All but process 0 have a directory of their own, which is gone afterwards, no logger, and
    nothing to say.
    """
    place = run.hardware.place()
    if place is None:
        yield run, Others()
        return
    engine.hosts.join(place, told(run), run.hardware.join_seconds)
    others = Others()
    engine.hosts.look_after(others.asked_to_stop, others.lost)
    try:
        if place.process == 0:
            yield run, others
        else:
            console.quiet = True
            with tempfile.TemporaryDirectory(prefix="metarun-", ignore_cleanup_errors=True) as folder:
                yield elsewhere(run, folder), others
    except (Interrupted, NotFinite, OutOfTime):  # all of them come to the same end
        engine.hosts.part()
        raise
    except BaseException as error:
        engine.hosts.part(first_line(error))
        raise
    engine.hosts.part()


def told(run: Run) -> dict[str, Any]:
    """What must be the same in all processes: what the run is, and the versions."""
    settings = {key: value for key, value in flat(run.config).items() if not key.startswith(OWN)}
    versions = {f"version of {name}": importlib.metadata.version(name) for name in VERSIONS}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in (settings | versions).items()}


def elsewhere(run: Run, folder: str) -> Run:
    """The run, its files in another folder, and none of its figures with a logger."""
    config = copy.deepcopy(run.config)
    config["run"]["dir"] = folder
    return dataclasses.replace(run, config=config, loggers={}, info=dataclasses.replace(run.info, dir=folder))


class Others:
    """The run's other processes, as they are looked after."""

    def __init__(self) -> None:
        self.loop: Loop | None = None  # once there is something to save
        self.stop: Stop | None = None

    def stop_with(self, stop: Stop) -> None:
        """From now on all of them stop together."""
        self.stop = stop
        if engine.hosts.are_several():
            stop.agree, stop.tell = engine.hosts.agreed, engine.hosts.ask_to_stop

    def asked_to_stop(self) -> None:
        if self.stop is not None:
            self.stop.received = True

    def lost(self, why: str, has_failed: bool) -> None:
        """Another has gone: saves what there is and ends this process, whose main thread waits for the other."""
        time.sleep(SECONDS_TO_COME_TO_REST)
        saved = ""
        if self.loop is not None and engine.hosts.is_first():
            with suppress(Exception):
                self.loop.rescue()
            newest = self.loop.checkpoints.on_disk()
            saved = "; nothing is saved" if newest is None else f"; saved is meta-step {newest}"
            saved += f" of {self.loop.run.train.steps}"
        leave(f"{why}{saved}; the same commands go on", exit_codes.FAILED if has_failed else exit_codes.STOPPED)

    def give_up(self) -> None:
        """After an error, in the main thread: if that is because another has gone, this process ends here.

        An error of its own comes back after a while, and goes its way.
        """
        if engine.hosts.are_several():
            time.sleep(engine.hosts.SILENT + 10 * engine.hosts.TICK)
