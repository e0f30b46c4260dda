"""`metarun data TASK [data_dir=DIR]`: finds or fetches a data set, checks and prepares it."""

import os

from metarun.command.exits import FAILED, MISTAKE, fail

HELP = """
metarun data TASK [data_dir=DIR]

Finds or fetches a data set, checks it against what was published, and keeps it decoded
in the cache directory, so that runs start at once. TASK is omniglot or miniimagenet.

  data_dir=DIR   look in DIR/omniglot or DIR/miniimagenet first; else in $METARUN_DATA_DIR

Omniglot that is in neither is fetched from its authors. mini-ImageNet's images may not be
passed on, so they must be there.

  metarun data omniglot
  metarun data miniimagenet data_dir=/data
"""


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    from metarun.core import ConfigError, DataError
    from metarun.tasks import miniimagenet, omniglot
    from metarun.tasks.miniimagenet import MiniImageNet

    directory, wanted = os.environ.get("METARUN_DATA_DIR"), "omniglot"
    for argument in arguments:
        if argument.startswith("data_dir="):
            directory = argument.removeprefix("data_dir=")
        elif (wanted := argument.removeprefix("task=")) not in ("omniglot", "miniimagenet"):
            fail(f"{argument}: no such data set; allowed: omniglot, miniimagenet", MISTAKE)
    try:
        if wanted == "omniglot":
            names, images = omniglot.load_drawings(directory)
            found = f"{len(names):,} characters, {images.shape[0] * images.shape[1]:,} drawings"
        else:
            pools = [classes.pool for classes in miniimagenet.found(directory, MiniImageNet.facts).splits.values()]
            found = f"{sum(len(p.size) for p in pools):,} classes, {sum(len(p.x) for p in pools):,} images"
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
    print(f"{wanted}: {found}, ready")
