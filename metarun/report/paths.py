"""Which runs a report is about, and how they are called: by where their paths differ."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from metarun import stderr
from metarun.core import DataError
from metarun.text import one_line

SHORT = 20  # letters: names that are no longer stay as they are
BETWEEN = re.compile(r"[/_\-, ]")  # what words in a name have between them


def find(paths: Sequence[Path]) -> list[Path]:
    """The runs at `paths` and anywhere below them. A path with none is named; raises DataError if there is no other."""
    found: list[Path] = []
    wrong: list[DataError] = []
    for path in paths:
        try:
            found += [run for run in below(path) if run not in found]
        except DataError as error:
            wrong.append(error)
        except PermissionError as error:
            wrong.append(DataError(f"{path}: cannot be read ({error.strerror})"))
    if wrong and not found:
        raise wrong[0]
    for said in wrong:
        stderr.say(f"metarun: {one_line(said)}; left out\n")
    return found


def below(path: Path) -> list[Path]:
    if not path.is_dir():
        what = "is no directory" if path.exists() else "no such directory"
        raise DataError(f"{path}: {what}; name a run's, or one that holds runs")
    here = [path] if is_run(path) else sorted(file.parent for file in path.rglob("config.yaml") if is_run(file.parent))
    if not here:
        raise DataError(f"{path}: holds no run (no config.yaml)")
    return [run.resolve() for run in here]


def is_run(path: Path) -> bool:
    """Whether it has a run's config.yaml: Hydra and W&B have files of that name, too."""
    of_wandb = path.name == "files" and path.parent.parent.name == "wandb"
    others = path.name == ".hydra" or (path / "hydra.yaml").exists() or of_wandb
    return (path / "config.yaml").is_file() and not others


def names(paths: Sequence[Path]) -> list[str]:
    """A short name for each run, different from the others': its path, without what all of them have in common.

    Whole directories first, then, of names longer than SHORT, whole words at the beginning and at the end. What is
    named without its whole path, as the learners that come with metarun, is called so.
    """
    common = os.path.commonpath([str(path.parent) for path in paths if path.is_absolute()] or [""])
    found = [as_text(path.relative_to(common) if path.is_absolute() else path) for path in paths]
    if len(found) == 1 or max(map(len, found)) <= SHORT:
        return found
    first = words_alike(found)
    found = [name[first:] for name in found]
    last = words_alike([name[::-1] for name in found])
    return [name[: len(name) - last] for name in found]


def words_alike(texts: Sequence[str]) -> int:
    """With how many letters all of them begin that are whole words, and what comes after these."""
    alike = 0
    for letters in zip(*texts, strict=False):
        if len(set(letters)) > 1:
            break
        alike += 1
    return max((between.end() for between in BETWEEN.finditer(texts[0][:alike])), default=0)


def as_text(path: Path | str) -> str:
    """A path, or what holds one, as text: it may have bytes that are none, which Python keeps as lone surrogates."""
    return re.sub("[\ud800-\udfff]", "\ufffd", str(path))
