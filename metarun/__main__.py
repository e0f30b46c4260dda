"""The program, as `metarun` and as `python -m metarun`: a signal ends it in one line while it is still being loaded."""

import gc
import os
import signal
from contextlib import suppress

from metarun.exit_codes import STOPPED


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stopped)
    # To trace a program makes millions of objects, few of them in cycles: to look for these as often as Python does by
    # default is a twentieth of a start.
    gc.set_threshold(10_000, 10, 10)
    from metarun.command.main import main as command_line

    command_line()


def stopped(*_: object) -> None:
    """At once: what an exception would become in the middle of an import nobody knows."""
    with suppress(OSError):
        os.write(2, b"metarun: stopped\n")
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
