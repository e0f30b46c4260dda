"""What to try after a run: the user's own command, with one thing changed."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarun.config import choices, flat, settings_of, words_of
from metarun.text import no_option

OF_A_PLACE = ("run.dir=", "hydra.run.dir=", "hydra.sweep.", "hydra.job.num=")
STROKES, SINUSOID = ".Strokes", ".Sinusoid"  # made-up tasks after which a real one comes


def next_command(found: dict[str, Any], directory: Path) -> str:
    """After a made-up task a real one; after that several seeds; after a sweep over seeds its page.

    `found` is the content of results.json, of whatever version.
    """
    words = words_of(found["training"]["command"])[1:]
    words = [word for word in words if not word.lstrip("+").startswith(OF_A_PLACE)]
    task = found["protocol"]["task"]["_target_"]
    if task.endswith((STROKES, SINUSOID)):
        kept = [word for word in words if goes_with_omniglot(word, like=task.endswith(STROKES))]
        return shlex.join(["metarun", *of_learner(found, kept), *kept, "task=omniglot"])
    if not words:
        words = [*of_learner(found, words), *chosen("task", found["protocol"]["task"])]
    sweep = bool({"-m", "--multirun"} & set(words))
    if sweep and any(word.startswith("train.seed=") for word in words):
        return f"metarun report {shlex.quote(no_option(directory.parent))}"
    words = [word for word in words if not word.startswith("train.seed=")]
    return shlex.join(["metarun", *([] if sweep else ["-m"]), *words, "train.seed=0,1,2"])


def goes_with_omniglot(word: str, like: bool) -> bool:
    """Whether a word of a made-up task's command makes sense with Omniglot; `like`: the task has such images, too."""
    word = word.lstrip("+~")
    if setting := re.match(r"(?:train\.|eval\.)?task\.(\w+)", word):
        return like and setting[1] in ("ways", "shots", "queries")
    return not word.startswith("task=") and (like or not word.startswith(("model", "experiment=", "suggested.")))


def of_learner(found: dict[str, Any], words: list[str]) -> list[str]:
    """The word that chooses the run's learner, where `words` do not."""
    if any(word.lstrip("+").startswith(("learner=", "experiment=")) for word in words):
        return []
    return chosen("learner", found["protocol"].get("learner", {}))


def chosen(group: str, values: Mapping[str, Any]) -> list[str]:
    """The word that chooses a component of these settings, if there is such a choice: [`learner=fomaml`].

    Of those that share a class the one from whose settings the fewest differ, or the one that bears its module's name.
    """
    known, differing = flat(values), {}
    module = str(values.get("_target_")).rpartition(".")[0].rpartition(".")[2]
    for choice in choices(group):
        of_choice = flat(settings_of(group, choice))
        if of_choice.get("_target_") == values.get("_target_"):
            own = {key: value for key, value in of_choice.items() if "${" not in str(value)}  # not of other groups
            count = sum(known.get(key, value) != value for key, value in own.items())
            differing[choice] = (count, choice != module)
    return [f"{group}={min(differing, key=lambda choice: differing[choice])}"] if differing else []
