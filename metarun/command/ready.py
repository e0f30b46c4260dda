"""`metarun ready`: the learners that come with metarun, and what each is good for."""

from metarun.command.exits import MISTAKE, fail

HELP = """
metarun ready

The learners that come with metarun, small ones, trained already: what each takes, how well it did on
classes (or functions) that were not in its training, and the command that trains it again.
A name stands for a run in metarun adapt, export and serve, and in metarun.load:

  metarun adapt strokes-protonet --support my_symbols/ --query new/
  metarun export strokes-protonet --out learner.zip
  metarun serve strokes-maml
"""


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    if arguments:
        fail(f"ready {arguments[0]}: takes nothing; it lists the learners that come with metarun", MISTAKE)
    from rich.console import Console
    from rich.table import Table

    from metarun.learned import ready
    from metarun.run.figures import show

    table = Table(box=None, pad_edge=False)
    for column in ("name", "takes", "on new tasks", "size", "trained by"):
        table.add_column(column, overflow="fold")
    for one in ready.every():
        figures = [show(one.metric, one.test), *(f"{n} shots {show(one.metric, f)}" for n, f in one.by_shots.items())]
        table.add_row(one.name, one.note, "; ".join(figures), f"{one.bytes / 1024:,.0f} KB", one.command)
    Console().print(table)
