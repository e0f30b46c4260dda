"""`metarun replay DIR`: the meta-step that was not finite once more, task by task."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    from metarun.core import ConfigError, DataError
    from metarun.run import nonfinite

    if len(arguments) != 1:
        fail("replay: takes one directory, of a run that stopped at a meta-step that was not finite", MISTAKE)
    try:
        print(nonfinite.tell(nonfinite.replay(Path(arguments[0]))))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
