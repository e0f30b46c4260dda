"""Several processes, on one machine or many, at work on one run: how they come together, agree, and part.

Every process makes the same calls to the devices in the same order, or all of them wait for ever. What a call is like
may depend on the time, on free memory or on files: such a thing is decided by process 0, and the others hear of it
(`agreed`). Each tells the others that it lives, and whether it was asked to stop; one that has gone ends all.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax._src import clusters, distributed, xla_bridge  # jax has no other door to the store of its processes
from jax.experimental import multihost_utils
from jaxlib import _jax

from metarun.core import ConfigError, PyTree
from metarun.engine import roll_call

T = TypeVar("T")

TICK = 1.0  # seconds between two signs of life
SILENT = 20.0  # seconds without one, after which a process counts as gone
JAX_PATIENCE = 600  # seconds, of jax's own: it would end the processes in its way, without a word of ours
KEPT = 256  # of what was agreed: no process is so far behind another
A_DAY_MS = 24 * 3600 * 1000  # as long as one waits for what is agreed; that process 0 lives is looked after elsewhere
AT_WORK, STOP, FAILED, GONE, DONE = "at work", "asked to stop", "failed", "another has gone", "done"


class Place(NamedTuple):
    """Which of how many processes this one is, and where process 0 is to be found."""

    address: str
    processes: int
    process: int


@dataclass
class Team:
    """The processes, as one of them sees them."""

    place: Place
    client: Any  # of jax's coordination service
    agreed: int = 0  # how often
    beats: int = 0
    state: str = AT_WORK  # told with every sign of life
    why: str = ""  # it has failed
    over: threading.Event = field(default_factory=threading.Event)
    telling: threading.Lock = field(default_factory=threading.Lock)


_team: Team | None = None


def place_of(coordinator: str, processes: int | str, process: int | str, seconds: float) -> Place:
    """From the settings; what is `auto` as Slurm, Open MPI, Kubernetes or a TPU tell it. Raises ConfigError."""
    given: list[Any] = [None if setting == "auto" else setting for setting in (coordinator, processes, process)]
    if None in given:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            given[0], given[1], given[2], None, None, int(seconds)
        )
        given = list(found[:3])
    for name, value in zip(("coordinator", "processes", "process"), given, strict=True):
        if value is None:
            raise ConfigError(
                f"hardware.{name}",
                "auto",
                "neither Slurm, Open MPI, Kubernetes nor a TPU tells it here; set hardware.coordinator=HOST:PORT "
                "(of process 0), hardware.processes= and hardware.process=",
            )
    place = Place(*given)
    roll_call.parts_of(place.address)
    if not place.process < place.processes:
        allowed = f"0 to {place.processes - 1}, as hardware.processes={place.processes}"
        raise ConfigError("hardware.process", place.process, allowed)
    return place


def join(place: Place, told: roll_call.Told, seconds: float) -> None:
    """Returns once all processes are there, and jax knows of all. Before anything touches a device.

    `told` must be the same in all of them. Raises ConfigError.
    """
    global _team
    if xla_bridge.backends_are_initialized():
        allowed = "is for a program's first run, before it has touched a device; start the program anew"
        raise ConfigError("hardware.coordinator", place.address, allowed)
    if place.process > 0:
        roll_call.present(place.address, place.processes, place.process, told, seconds)
        initialize(place, seconds)
    else:
        with (
            roll_call.gathered(place.address, place.processes, told, seconds) as let_go,
            service_outside(place.address),
        ):
            # The service begins within `initialize`, and would wait there for those who are not let go.
            let_go()
            initialize(place, seconds)
    _team = Team(place, distributed.global_state.client)


def initialize(place: Place, seconds: float) -> None:
    jax.distributed.initialize(
        place.address,
        place.processes,
        place.process,
        initialization_timeout=int(seconds),
        heartbeat_timeout_seconds=JAX_PATIENCE,
    )


class Service:
    """jax's coordination service, in the process of metarun.engine.coordinator.

    `given` is the address as the user gave it, and `address` what jax makes of it.
    """

    def __init__(self, given: str, address: str, processes: int, **_: Any) -> None:
        command = [sys.executable, "-P", "-m", "metarun.engine.coordinator"]  # -P: no module of the user's directory
        command += [address, str(processes), str(JAX_PATIENCE)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **pipes, start_new_session=True)  # type: ignore[call-overload]
        if self.process.stdout.readline() != b"ready\n":
            raise ConfigError("hardware.coordinator", given, "jax's coordination service cannot serve there")

    def shutdown(self) -> None:
        self.process.stdin.close()


@contextmanager
def service_outside(given: str) -> Iterator[None]:
    """As long as it lasts, jax begins its coordination service in a process of its own, at the address `given`."""
    before = _jax.get_distributed_runtime_service
    _jax.get_distributed_runtime_service = partial(Service, given)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = before


def are_several() -> bool:
    """Whether more processes than this one are at the run."""
    return _team is not None


def is_first() -> bool:
    """Whether this is the process that keeps files, and decides: process 0, or the only one."""
    return _team is None or _team.place.process == 0


def count() -> int:
    """How many processes there are."""
    return 1 if _team is None else _team.place.processes


def agreed(value: T) -> T:
    """What process 0 has for it, which must be JSON. All of them ask, in the same order."""
    if _team is None:
        return value
    key, _team.agreed = f"metarun/agreed/{_team.agreed}", _team.agreed + 1
    if _team.place.process > 0:
        return json.loads(_team.client.blocking_key_value_get(key, A_DAY_MS))
    text = json.dumps(value)
    _team.client.key_value_set(key, text)
    if _team.agreed > KEPT:
        _team.client.key_value_delete(f"metarun/agreed/{_team.agreed - KEPT - 1}")
    return json.loads(text)


def of_process_0(tree: PyTree) -> PyTree:
    """Process 0's arrays, on the host of each, bit for bit; the others have such of the same shapes."""
    if _team is None:
        return tree
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    arrays = [np.asarray(leaf) for leaf in leaves]
    whole = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(whole))
    ends = np.cumsum([array.nbytes for array in arrays])[:-1]
    parts = zip(np.split(sent, ends), arrays, strict=True)
    return jax.tree.unflatten(
        structure, [np.frombuffer(part.tobytes(), array.dtype).reshape(array.shape) for part, array in parts]
    )


def look_after(hear_stop: Callable[[], object], lost: Callable[[str, bool], object]) -> None:
    """Tells the others, every second and in a thread, that this process lives, and looks whether they do.

    `hear_stop` is called in process 0 when another was asked to stop. `lost` is called, once, when one has gone or has
    failed, with a line that says so and whether it has failed.
    """
    team = _team
    if team is None:
        return
    seen = {i: (-1, time.monotonic()) for i in ([0] if team.place.process else range(1, team.place.processes))}

    def found(i: int) -> tuple[int, str, str]:
        try:
            beats, state, why = json.loads(team.client.key_value_try_get(f"metarun/lives/{i}"))
            return beats, state, why
        except Exception:  # not there yet, or the service does not answer
            return -1, AT_WORK, ""

    def look() -> None:
        while not team.over.wait(TICK):
            beat(team)
            for i in list(seen):
                beats, state, why = found(i)
                if beats != seen[i][0]:
                    seen[i] = beats, time.monotonic()
                if state == STOP:
                    hear_stop()
                gone = time.monotonic() - seen[i][1] > SILENT
                if state == DONE:
                    del seen[i]
                elif state in (FAILED, GONE) or gone:
                    # As the others are to end, too: a run from which one has gone may go on, one that failed may not.
                    team.state = FAILED if state == FAILED else GONE
                    team.why = why or f"process {i} of {team.place.processes} has gone"
                    beat(team)
                    team.over.set()
                    lost(team.why, team.state == FAILED)

    threading.Thread(target=look, name="other processes", daemon=True).start()


def beat(team: Team) -> None:
    """One sign of life; where nobody hears it, that is the others' to tell.

    One after another: of two threads' the later one stays, and would hide that the process has failed.
    """
    with team.telling:
        team.beats += 1
        text = json.dumps([team.beats, team.state, team.why])
        with suppress(Exception):
            team.client.key_value_set(f"metarun/lives/{team.place.process}", text, allow_overwrite=True)


def ask_to_stop() -> None:
    """This process was asked to stop, and so all are."""
    if _team is not None and _team.state == AT_WORK:
        _team.state = STOP
        beat(_team)


def part(why: str = "") -> None:
    """This process is done, or has failed, and says so; it makes no further call to the devices."""
    if _team is not None and not _team.over.is_set():
        _team.over.set()
        number, many = _team.place.process, _team.place.processes
        _team.state, _team.why = (FAILED, f"process {number} of {many}: {why}") if why else (DONE, "")
        beat(_team)
