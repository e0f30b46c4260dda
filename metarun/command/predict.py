"""`metarun predict DIR --query PATH`: queries to a learner that `metarun adapt --save DIR` kept."""

from pathlib import Path
from typing import Any

from metarun.command import own
from metarun.command.exits import MISTAKE, fail, in_one_line

HELP = """
metarun predict DIR --query PATH [--json FILE] [--csv FILE] [--queries alone|together]

Asks a learner that metarun adapt --save DIR kept. Neither the run nor the examples that it
was adapted to need be there any more. The options are those of metarun adapt.

  metarun predict my_symbols.learner --query new --csv answers.csv
"""

KNOWN = {"--query": "PATH", **own.FILES, own.QUERIES: "alone|together"}


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    kept, options = own.read("predict", "kept learner", arguments, KNOWN)
    if "--query" not in options:
        fail("predict: what to ask is missing: --query PATH", MISTAKE)
    with in_one_line():
        predict(kept, options)


def predict(kept: Path, options: dict[str, Any]) -> None:
    """All that is asked for. Raises ConfigError and DataError."""
    from metarun.command.answers import tell
    from metarun.learned import load_adapted
    from metarun.learned.answered import answered
    from metarun.learned.own_task import query_of, shots_in_words

    console, queries = own.console(options), options.get(own.QUERIES, "alone")
    adapted = load_adapted(kept)
    query = query_of(adapted, options["--query"])
    answers = answered(adapted, query, queries)
    for line in query.told:
        console.print(line)
    console.print(f"{own.learner_in_words(adapted, kept)}: {shots_in_words(adapted)}")
    written = own.write("predict", options, answers)
    console.print(own.asked_in_words(options["--query"], query, queries))
    tell(console, query, answers, {})
    if written:
        console.print(f"files  {', '.join(written)}")
