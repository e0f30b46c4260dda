"""`metarun sweep DIR [--json FILE]`: how a sweep stands, now."""

import json
from pathlib import Path

from metarun.command.exits import MISTAKE, fail
from metarun.command.files import must_be_writable, write
from metarun.command.words import each_word

HELP = """
metarun sweep DIR [--json FILE]

How a sweep stands: its settings, best on validation first, seeds gathered; which of its jobs are
at work, were stopped or failed, and why; and the command that trains the best again. DIR is
the directory of a `metarun -m ...`, which may be at work.

  --json FILE   all of it, for another program; - is standard output

A sweep that was broken off goes on with the same command, or with metarun -m run.dir=DIR:
what is finished is skipped, what was stopped goes on where it was. sweep.retry=true makes
once more what failed. sweep.jobs=4 makes four jobs at once, each with its share of the cores
or GPUs. sweep.trials=20 searches for the best settings, with Optuna.

  metarun sweep runs/multirun/2026-01-31_12-00-00
"""

JSON = "--json"


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    directory, file = read(arguments)
    from metarun import sweep
    from metarun.core import ConfigError

    try:
        found = sweep.read(directory)
    except ConfigError as error:
        fail(f"sweep: {error.given}: {error.allowed}", MISTAKE)
    if file is None:
        sweep.tell(found)
        return
    write("sweep", file, json.dumps(sweep.as_json(found), indent=2) + "\n")


def read(arguments: list[str]) -> tuple[Path, Path | None]:
    """The sweep's directory, and the file for all of it. Ends the program over a mistake."""
    directories: list[Path] = []
    file: Path | None = None
    for argument, name, value_of in each_word(arguments):
        if name == JSON:
            if not (value := value_of()):
                fail(f"sweep {JSON}: wants a file", MISTAKE)
            file = must_be_writable("sweep", JSON, Path(value))
        elif argument.startswith("-"):
            fail(f"sweep {argument}: no such option; allowed: {JSON} FILE", MISTAKE)
        else:
            directories.append(Path(argument))
    if len(directories) != 1:
        fail("sweep: wants one directory, of a `metarun -m ...`: metarun sweep runs/multirun/DIR", MISTAKE)
    return directories[0], file
