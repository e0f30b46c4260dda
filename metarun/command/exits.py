"""How the program ends when it does not end well: one line, and a code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from metarun import stderr
from metarun.exit_codes import FAILED, MISTAKE, STOPPED
from metarun.files import FULL
from metarun.text import one_line

__all__ = ["FAILED", "MISTAKE", "STOPPED", "fail", "in_one_line", "is_of_standard_output"]


def fail(message: object, code: int) -> NoReturn:
    """Ends the program with one line on standard error."""
    stderr.say(f"metarun: {one_line(message)}\n")
    sys.exit(code)


def is_of_standard_output(error: OSError) -> bool:
    """Whether it could not be written: of any other file that a disk did not take, the error has the name."""
    return isinstance(error, BrokenPipeError) or (error.filename is None and error.errno in FULL)


@contextmanager
def in_one_line(verb: str = "") -> Iterator[None]:
    """What is wrong with a setting or with data ends the program in one line."""
    from metarun.core import ConfigError, DataError

    of = f"{verb}: " if verb else ""
    try:
        yield
    except ConfigError as error:
        fail(f"{of}{error}", MISTAKE)
    except DataError as error:
        fail(f"{of}{error}", FAILED)
