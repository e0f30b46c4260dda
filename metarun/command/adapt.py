"""`metarun adapt RUN --support PATH [--query PATH]`: a run's learner on a task of one's own."""

from pathlib import Path
from typing import Any

from metarun.command import own
from metarun.command.exits import FAILED, MISTAKE, fail, in_one_line
from metarun.text import no_option, one_line

HELP = """
metarun adapt RUN --support PATH [--query PATH] [--json FILE] [--csv FILE] [--save DIR] ...

Adapts what a run has learned to a task of your own, by a few labelled examples of it, and
answers its queries. RUN is a run's directory, or one that a learner was kept in, or the name
of one that comes with metarun (metarun ready). The run's data are not needed.

  --support PATH   the labelled examples, as the run's own were:
                     images       a folder, zip or tar with a directory a class, or files
                                  named for it: cat_1.png, cat_2.png, dog_1.png
                     texts, rows  CSV, JSON lines or Parquet, with the run's columns;
                                  texts also a folder with a CLASS.txt each, a text a line
                     arrays       an .npz file with x and y
  --query PATH     what it is asked, in the same form; labels may be left out (images then
                   stand in one folder, or it is a single one; texts in one .txt). With them
                   it tells how many it got right, what was taken for what, and accuracy by
                   inner step
  --json FILE      {"classes", "predictions": [{"query", "predicted", "probabilities"}],
                   "accuracy"}; of a regression {"targets", "predictions", "mse"}, with "sd"
                   of each prediction from a learner that says how sure it is (cnp)
  --csv FILE       the same as a table. FILE - is standard output
  --save DIR       keeps the adapted learner for metarun predict DIR --query PATH
  --queries alone|together
                   whether the other queries may bear on a query's prediction, in models that
                   normalise by what they are given: alone, if left out
  --inner-steps N  in place of the learner's own number
  --seed N         of learners that adapt at random
  --state best|last
                   which of the run's states; the one that its test used, if left out

  metarun adapt runs/omniglot-protonet/DATE --support my_symbols --query new --json -
"""

KNOWN = {
    "--support": "PATH",
    "--query": "PATH",
    **own.FILES,
    "--save": "DIR",
    own.QUERIES: "alone|together",
    "--inner-steps": "N",
    "--seed": "N",
    "--state": "best|last",
}


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    run, options = own.read("adapt", "run", arguments, KNOWN)
    with in_one_line():
        must_make_sense(options)
        adapt(run, options)


def must_make_sense(options: dict[str, Any]) -> None:
    """Ends the program over what is missing, and over a directory that is somebody else's."""
    if "--support" not in options:
        fail("adapt: what to adapt to is missing: --support PATH, labelled examples of each class", MISTAKE)
    if "--query" not in options and "--save" not in options:
        fail("adapt: names nothing to do with it: --query PATH to ask it, --save DIR to keep it", MISTAKE)
    if "--query" not in options and (useless := [name for name in own.FILES if name in options]):
        fail(f"adapt {useless[0]}: there are no answers without --query PATH", MISTAKE)
    if save := options.get("--save"):
        from metarun.learned.kept import is_free

        place = Path(save).expanduser()
        if place.exists() and not place.is_dir():
            fail(f"adapt --save {save}: is a file; name a directory", MISTAKE)
        if not is_free(place):
            fail(f"adapt --save {save}: holds something else; name a new directory", MISTAKE)


def adapt(run: Path, options: dict[str, Any]) -> None:
    """All that is asked for; files are written when all is known. Raises ConfigError and DataError."""
    from metarun.command.answers import tell
    from metarun.learned import keep, load
    from metarun.learned.answered import answered, curve
    from metarun.learned.own_task import adapted_to, query_of, shots_in_words, support_of

    console, queries = own.console(options), options.get(own.QUERIES, "alone")
    learned = load(run, options.get("--state"))
    support = support_of(learned, options["--support"])
    adapted = adapted_to(learned, support, options.get("--inner-steps"), options.get("--seed", 0))
    query = query_of(adapted, options["--query"]) if "--query" in options else None
    answers = None if query is None else answered(adapted, query, queries)
    steps = curve(adapted, query, queries) if query is not None and answers is not None and answers.judged else {}
    written = []
    if save := options.get("--save"):
        try:
            keep(adapted, Path(save).expanduser())
        except OSError as error:
            fail(f"adapt --save {save}: cannot be written ({error.strerror})", FAILED)
        written.append(one_line(no_option(save)))
    for line in (*support.told, *(() if query is None else query.told)):
        console.print(line)
    place = one_line(options["--support"])
    console.print(f"{own.learner_in_words(adapted, run)}, adapted to {place}: {shots_in_words(adapted)}")
    if query is not None and answers is not None:
        written += own.write("adapt", options, answers)
        console.print(own.asked_in_words(options["--query"], query, queries))
        tell(console, query, answers, steps)
    if written:
        console.print(f"files  {', '.join(written)}")
