"""What orbax, and what it writes by, says of each array of a save that fails: metarun tells of the save, once."""

import logging
import sys
from collections.abc import Callable
from typing import Any


def is_of_others(record: logging.LogRecord) -> bool:
    """Whether a line of asyncio's is about somebody else's tasks than orbax's."""
    return not any(name in record.getMessage() for name in ("orbax", "tensorstore"))


def without_closed_loops(tell: Callable[[Any], object]) -> Callable[[Any], object]:
    """`tell`, for exceptions that nobody can catch, but for what comes back to a loop that orbax has closed.

    Once one array cannot be written, it waits for no other.
    """

    def told(unraisable: Any) -> object:
        return None if str(unraisable.exc_value) == "Event loop is closed" else tell(unraisable)

    return told


for _noisy in ("absl", "orbax"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)
logging.getLogger("asyncio").addFilter(is_of_others)
sys.unraisablehook = without_closed_loops(sys.unraisablehook)
