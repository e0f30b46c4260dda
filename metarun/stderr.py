"""Standard error, on which nothing depends: where nobody takes what is said there, a full disk say, all goes on."""

import os
import sys
from contextlib import suppress


def say(text: str) -> None:
    """Says it, and what was held back; once that cannot be written nothing more is, nor by the interpreter's own end.

    Which would end with another code over it.
    """
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: closed
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
