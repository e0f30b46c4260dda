"""`metarun ready`: the learners that come with metarun, and what each is good for."""

from metarun.command.exits import MISTAKE, fail

HELP = """
metarun ready

The learners that come with metarun, small ones, trained already: what each takes, how well it did on
classes (or functions) that were not in its training, and the command that trains it again.
A name stands for a run in metarun adapt, eval, export and serve, and in metarun.load:

  metarun adapt strokes-protonet --support my_symbols/ --query new/
  metarun eval strokes-protonet eval.task.ways=20
  metarun export strokes-protonet --out learner.zip
  metarun serve strokes-maml
"""


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    if arguments:
        fail(f"ready {arguments[0]}: takes nothing; it lists the learners that come with metarun", MISTAKE)
    from metarun.learned import ready
    from metarun.run.figures import show

    width = max(map(len, ready.names()), default=0) + 2
    for one in ready.every():
        shots = {one.shots: one.test, **one.by_shots}
        figures = "; ".join(f"{n} shot{'s' * (n != '1')} {show(one.metric, f)}" for n, f in shots.items())
        what = f"{one.ways} ways, " if one.ways else f"{one.metric}, "
        print(f"{one.name:<{width}}{one.note}; {one.bytes / 1024:,.0f} KB")
        print(f"{'':<{width}}on new tasks: {what}{figures}")
        print(f"{'':<{width}}{one.command}")
