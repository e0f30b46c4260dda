"""Text from elsewhere (errors, files, names that people gave), made fit for a terminal; and tables for people."""

import re
from typing import Any

WIDE = 1000  # what is no terminal, a file or another program, has lines as long as they need


def console(**how: Any) -> Any:
    """Where tables go, a rich.console.Console; `how` as of that. A reader who has enough is told of as of `print`."""
    from rich.console import Console

    def again() -> None:
        raise

    found = Console(highlight=False, **how)
    if not found.is_terminal:
        found.width = WIDE
    found.on_broken_pipe = again  # type: ignore[method-assign]
    return found


def printable(text: str) -> str:
    """What is no character, such as an escape sequence that would colour or clear the terminal, as it is spelt."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def whole_characters(text: str) -> str:
    """`text` with U+FFFD for each half of a character, which JSON can spell and no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(message: object) -> str:
    """All of `message` in one line."""
    return printable(" ".join(re.split(r"\s+", str(message).strip())))


def no_option(path: object) -> str:
    """A path as no command takes it for an option: `./-x`."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def first_line(error: BaseException, most: int = 200) -> str:
    """An error's first line, no longer than `most`, or its name if it says nothing."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return printable(line if len(line) <= most else f"{line[:most]}...")


def some(names: list[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return one_line(", ".join(names[:most]) + more)
