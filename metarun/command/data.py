"""`metarun data task=TASK [SETTING...]`: what a task distribution finds in its data, and two of its episodes."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metarun.command.composed import composed
from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.command.words import each_word
from metarun.config import choices
from metarun.text import first_line

if TYPE_CHECKING:
    from metarun.run.data import Shown

HELP = """
metarun data TASK [SETTING...] [--out FILE]
metarun data task=TASK [SETTING...] [--out FILE]

Finds, or fetches, the data of a task, checks them, and keeps them decoded in the cache
directory, so that runs start at once. Tells the classes and examples of each split, what
is left out and why, whether 5-way 1-shot and 5-shot episodes can be drawn, and what the
splits share; and draws two episodes: a picture of images, text of all else. Settings are
those of a run: ways, shots and queries, say, which decide what is too small.

  --out FILE     where the episodes go; TASK-episodes.png (or .txt) here, if left out
  data_dir=DIR   published sets are looked for in DIR/omniglot and so on; else in
                 $METARUN_DATA_DIR

  metarun data omniglot
  metarun data task=folder task.path=photos task.image.side=64 task.queries=10
  metarun data miniimagenet data_dir=/data
"""


class Asked(NamedTuple):
    """A command line, read."""

    task: str
    settings: list[str]
    out: Path | None


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    asked = read(arguments)
    cfg = composed(asked.settings, "data")

    from metarun.config.run import build_tasks, resolve
    from metarun.core import ConfigError, DataError
    from metarun.run import data

    try:
        tasks = build_tasks(resolve(cfg))
        seen = data.look(tasks)
        data.tell(asked.task, tasks, seen)
        data.tell_separation(tasks, seen)
        shown = data.show(tasks, seen)
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
    if shown is None:
        print("no split can give an episode to show; take fewer ways, shots or queries")
        return
    print(f"two episodes of {shown.split}: {written(asked, shown)}")


def read(arguments: list[str]) -> Asked:
    """The command line in its parts. Ends the program over what is no option, or names no task."""
    settings: list[str] = []
    out = None
    for argument, name, value_of in each_word(arguments):
        if name == "--out":
            value = value_of()
            if not value or value.startswith("-"):
                fail("data --out: names no file; give one: metarun data omniglot --out episodes.png", MISTAKE)
            out = Path(value)
        elif argument.startswith("-"):
            fail(f"data {name}: no such option; allowed: --out FILE; a setting has no dashes: task=omniglot", MISTAKE)
        else:
            settings.append(argument if "=" in argument else f"task={argument}")
    tasks = [setting.removeprefix("task=") for setting in settings if setting.startswith("task=")]
    if len(tasks) != 1:
        said = "names no task" if not tasks else f"names {len(tasks)} tasks, {', '.join(tasks)}"
        fail(f"data: {said}; name one: metarun data omniglot; there are {', '.join(choices('task'))}", MISTAKE)
    if out is not None and out.exists():
        fail(f"data --out {out}: is there already; name another file, or move it away", MISTAKE)
    if out is not None and not out.absolute().parent.is_dir():
        fail(f"data --out {out}: cannot be written (make the directory first)", MISTAKE)
    return Asked(tasks[0], settings, out)


def written(asked: Asked, shown: "Shown") -> Path:
    """Where two episodes now are, as a picture or as text. Ends the program if they cannot be written."""
    from metarun import report
    from metarun.files import write_atomically, write_bytes_atomically

    tasks, ways = shown.tasks, getattr(shown.tasks, "ways", None) if shown.names[0] else None
    size = f"{tasks.shots} shots" if ways is None else f"{ways}-way {tasks.shots}-shot"
    drawn = [
        report.Drawn(f"episode {i} of {shown.split}: {size}", episode.support, episode.query, names, shown.originals)
        for i, (episode, names) in enumerate(zip(shown.episodes, shown.names, strict=True), 1)
    ]
    images = report.is_images(drawn[0])
    path = asked.out or free(Path(f"{asked.task}-episodes.{'png' if images else 'txt'}"))
    try:
        if images:
            form = path.suffix.removeprefix(".") or "png"
            write_bytes_atomically(path, lambda file: report.draw_episodes(drawn, file, form))
        else:
            write_atomically(path, report.episodes_as_text(drawn))
    except OSError as error:
        fail(f"data: {path} cannot be written ({error.strerror})", FAILED)
    except ValueError as error:  # a format that matplotlib does not know
        fail(f"data --out {path}: {first_line(error)}", MISTAKE)
    return path


def free(path: Path) -> Path:
    """`path`, or the first of its kind with a number at its end that is not there."""
    others = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(2))
    return path if not path.exists() else next(other for other in others if not other.exists())
