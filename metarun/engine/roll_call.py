"""The processes of one run find each other, before jax hears of it: jax ends the process where one of them is missing.

Process 0 listens at the coordinator's address; the others come, each with what it has been told (its configuration,
its versions), and process 0 lets all of them go on once all are there and say the same.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from metarun.core import ConfigError

APART = 0.5  # seconds between two attempts to reach process 0
MOST_BYTES = 2**20  # of what one tells

Told = dict[str, Any]  # by keys, in JSON; the same in all processes


class Refused(Exception):
    """What one says is not what process 0 says."""

    def __init__(self, key: str, given: object, allowed: str) -> None:
        super().__init__(key)
        self.error = ConfigError(key, given, allowed)
        self.line = {"refused": [key, given, allowed]}


def parts_of(address: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and len(port) < 6 and 0 < int(port) < 2**16):
        raise ConfigError("hardware.coordinator", address, "the host of process 0 and a free port there: HOST:PORT")
    return host.strip("[]"), int(port)


@contextmanager
def gathered(address: str, processes: int, told: Told, seconds: float) -> Iterator[Callable[[], None]]:
    """Process 0's part: waits for all others; what is yielded lets them go on.

    Raises ConfigError if one does not come within so many seconds, or has been told something else.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        came: dict[int, socket.socket] = {}
        with listening_at(address, processes, deadline) as listening:
            while len(came) < processes - 1:
                listening.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    connection = stack.enter_context(listening.accept()[0])
                except TimeoutError:
                    missing = [str(i) for i in range(1, processes) if i not in came]
                    raise ConfigError(
                        "hardware.processes", processes, f"of these {', '.join(missing)} did not come to {address} "
                        f"within {seconds:g} s; start every process, with hardware.process=0 to {processes - 1}",
                    ) from None  # fmt: skip
                theirs = read_line(connection, deadline)
                if theirs is None:
                    continue  # someone else, at this port by chance
                try:
                    came[one_of(theirs, processes, came, told)] = connection
                except Refused as refused:
                    for other in (connection, *came.values()):
                        write_line(other, refused.line)
                    raise refused.error from None

        def let_go() -> None:
            for connection in came.values():
                write_line(connection, {"go": True})

        yield let_go  # what listened is closed: jax's service may have the port, and who came is still connected


def listening_at(address: str, processes: int, deadline: float) -> socket.socket:
    """At the port, which the service of a run that has just ended may still have for a while. Raises ConfigError."""
    _, port = parts_of(address)
    while True:
        try:
            return socket.create_server(("", port), backlog=processes)
        except OSError as error:
            if time.monotonic() + APART > deadline:
                why = (error.strerror or str(error)).partition(" (")[0]
                allowed = f"process 0 cannot listen there ({why}); name a free port"
                raise ConfigError("hardware.coordinator", address, allowed) from error
            time.sleep(APART)


def one_of(theirs: Told, processes: int, came: dict[int, socket.socket], told: Told) -> int:
    """The number of a process that came. Raises Refused."""
    number, many = theirs.get("process"), theirs.get("processes")
    if many != processes:
        raise Refused("hardware.processes", many, f"process 0 has {processes}; give all the same")
    if not isinstance(number, int) or not 1 <= number < processes or number in came:
        raise Refused("hardware.process", number, f"each of 0 to {processes - 1} once; give every process its own")
    have = theirs.get("told", {})
    for key in (*told, *have):
        if key not in have or key not in told or have[key] != told[key]:
            raise Refused(
                key, have.get(key), f"process {number} has this and process 0 {told.get(key)}; give all the same"
            )
    return number


def present(address: str, processes: int, process: int, told: Told, seconds: float) -> None:
    """The others' part: goes to process 0, and returns once all are there. Raises ConfigError."""
    deadline, answer = time.monotonic() + seconds, None
    while answer is None:  # what answered was an earlier run's, or process 0 ended and may come again
        with reached(address, seconds, deadline) as connection:
            write_line(connection, {"process": process, "processes": processes, "told": told})
            answer = read_line(connection, deadline)
        if answer is None and time.monotonic() + APART > deadline:
            allowed = f"what answers there let nobody in within {seconds:g} s; see what process 0 says"
            raise ConfigError("hardware.coordinator", address, allowed)
        time.sleep(0.0 if answer else APART)
    if "refused" in answer:
        raise ConfigError(*answer["refused"])


def reached(address: str, seconds: float, deadline: float) -> socket.socket:
    """A connection to process 0. Raises ConfigError if there is none in time."""
    host, port = parts_of(address)
    while True:
        try:
            return socket.create_connection((host, port), timeout=max(0.01, deadline - time.monotonic()))
        except (socket.gaierror, UnicodeError) as error:  # that is of an empty part, `a..b`, or one that is too long
            why = error.strerror if isinstance(error, OSError) else "is no name"
            raise ConfigError("hardware.coordinator", address, f"no such host ({why})") from error
        except OSError as error:
            if time.monotonic() + APART > deadline:
                raise ConfigError(
                    "hardware.coordinator", address, f"cannot be reached within {seconds:g} s "
                    f"({error.strerror or error}); is process 0 at work there, and the port open?",
                ) from error  # fmt: skip
            time.sleep(APART)


def write_line(connection: socket.socket, values: dict[str, Any]) -> None:
    """Sends one line; one who has gone does not hear it."""
    with suppress(OSError):
        connection.sendall(json.dumps(values).encode() + b"\n")


def read_line(connection: socket.socket, deadline: float) -> dict[str, Any] | None:
    """One line of JSON; None if nothing of the kind comes in time."""
    read = b""
    try:
        while not read.endswith(b"\n"):
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            more = connection.recv(2**16)
            if not more or len(read) > MOST_BYTES:
                return None
            read += more
        found = json.loads(read)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
