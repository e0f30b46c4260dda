"""How the program ends when it does not end well: one line, and a code."""

import sys
from typing import NoReturn

from metarun.text import one_line

# 0 done; 1 the run failed; 2 a mistake in the command; 75 stopped and saved: give the same command again.
FAILED, MISTAKE, STOPPED = 1, 2, 75


def fail(message: object, code: int) -> NoReturn:
    """Ends the program with one line on standard error."""
    print(f"metarun: {one_line(message)}", file=sys.stderr)
    sys.exit(code)
