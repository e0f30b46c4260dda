"""Runs that scripts make by the command line, and how several are worked through."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pages.known import beside

from metarun.exit_codes import FAILED

METARUN = [sys.executable, "-P", "-m", "metarun"]


def make(folder: Path, given: list[str]) -> int:
    """Makes the run in `folder` or goes on with it, unless it is finished; its lines go to a file beside it.

    Gives the exit code. Not for the main thread: there Ctrl-C would kill the run before it has saved its state.
    """
    if (folder / "results.json").exists():
        return 0
    command = [*METARUN, *([] if (folder / "config.yaml").exists() else given), f"run.dir={folder}"]
    print("metarun", *command[len(METARUN) :], flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lines = beside(folder, ".log")
    with lines.open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        print(f"{folder.name}: exit code {code}; {lines} has its lines", flush=True)
    return code


def lowest_priority() -> None:
    """For this process and all that it starts.

    Linux shares the cores among sessions first, and only within one by their niceness: a session of its own, without a
    terminal (`setsid make queue`), is made nice as a whole. One with a terminal is the user's, who works in it.
    """
    os.nice(19)
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY))
        return
    with suppress(OSError):  # no Linux, or one that does not share so
        Path("/proc/self/autogroup").write_text("19")


def work_through(jobs: Iterable[Callable[[], int]], after_each: Callable[[], None]) -> list[int]:
    """The exit codes of jobs made one by one at the lowest priority, up to the first that was stopped.

    A job that failed stops no others. Ctrl-C waits until the one at work has saved its state.
    """
    lowest_priority()
    codes: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        for job in jobs:
            codes.append(abs(pool.submit(job).result()))
            after_each()
            if codes[-1] not in (0, FAILED):  # stopped: the next command goes on with this one
                break
    return codes


def write_as_they_end(jobs: Iterable[Callable[[], int]], write: Callable[[], None]) -> int:
    """The worst exit code of jobs that are worked through; `write` is called after each, and once whatever comes."""
    codes = [0]
    try:
        codes += work_through(jobs, write)
    except KeyboardInterrupt:
        codes.append(130)
    finally:
        write()
    return max(codes)
