"""Scripts that do several things, each of which may be asked for alone."""

import argparse
from collections.abc import Iterable


def ask_for_parts(parser: argparse.ArgumentParser, parts: Iterable[str], name: str = "parts") -> None:
    """Adds the words that choose parts: none where all are meant. An unknown one is refused before any begins."""
    known = list(parts)

    def part(word: str) -> str:
        if word not in known:
            raise argparse.ArgumentTypeError(f"{word}: there is none of that name; allowed: {', '.join(known)}")
        return word

    parser.add_argument(name, nargs="*", type=part, help=f"of {', '.join(known)}; all by default")
