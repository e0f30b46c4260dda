"""The terminal: whoever reads there may have had enough, or a full disk stand in its place, and the run goes on."""

import os
from typing import Any

from rich.console import Console

from metarun.text import WIDE, printable


class Terminal(Console):
    """Where lines go, as long as they need where that is no terminal.

    When nobody takes them any more (`metarun ... | head`, a full disk), nowhere: the run goes on.
    """

    lost: OSError | None = None  # why standard output could not be written: `metarun` ends by telling it

    def print(self, *objects: Any, **how: Any) -> None:
        if not self.is_terminal:
            self.width = WIDE
        try:
            super().print(*objects, **how)
        except OSError as error:
            self.quiet, self.lost = True, None if self.stderr else error

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console = Terminal(highlight=False)


def say(line: str) -> None:
    """A line as it is: what comes from files is not markup."""
    console.print(printable(line), markup=False, soft_wrap=True)
