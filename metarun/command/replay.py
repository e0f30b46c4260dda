"""`metarun replay DIR`: the meta-step that was not finite once more, task by task."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail

HELP = """
metarun replay DIR

A run that stopped at a meta-step whose loss or gradient was not finite keeps that
meta-step in DIR/nonfinite, DIR being the run's directory. This computes it once more,
task by task, and says which tasks, and what of them, is not finite.

  metarun replay runs/omniglot-maml/2026-11-21_12-00-00
"""


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        fail("replay: takes one directory, of a run that stopped at a meta-step that was not finite", MISTAKE)
    directory = Path(arguments[0])
    if not directory.is_dir():
        fail(f"replay {directory}: no such directory; name a run's", MISTAKE)
    if not (directory / "nonfinite" / "report.json").exists():
        fail(f"replay {directory}: holds no meta-step that was not finite (nonfinite/report.json)", MISTAKE)
    from metarun.core import ConfigError, DataError
    from metarun.run import nonfinite

    try:
        print(nonfinite.tell(nonfinite.replay(directory)))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
