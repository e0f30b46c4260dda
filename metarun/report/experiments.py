"""Runs of one experiment, which differ in their seeds, together; and what experiments are called."""

import re
from collections.abc import Container, Iterable, Sequence

from metarun.config import words_of
from metarun.report.runs import SavedRun

# Settings in which two runs of the same experiment may differ: what they suggest or quote changes nothing by itself.
NOT_THE_EXPERIMENT = (
    "train.seed",
    "run.",
    "logger.",
    "hardware.devices",
    "hardware.task_chunk",
    "suggested",
    "paper",
)
# What an experiment's name says, in this order, until no two are alike: choices of groups come before their settings.
SAID_FIRST = ("learner", "task", "model", "optimizer", "train.task", "eval.task", "hardware", "inner", "train", "eval")
MOST_SHOWN = 24  # letters of a value
LEARNER, FIRST_ORDER = "learner._target_", "learner.first_order"  # are said as one
ALWAYS = (LEARNER, "task._target_")

Groups = dict[str, list[SavedRun]]
Settings = tuple[tuple[str, str], ...]


def groups(runs: Iterable[SavedRun]) -> Groups:
    """The experiments by their names, those of their runs that are damaged left out.

    A run that stands alone and that somebody named is called as it is; others are called by the settings that set them
    apart, never by one of their members.
    """
    by_settings: dict[Settings, list[SavedRun]] = {}
    for run in runs:
        if run.status != "damaged":
            by_settings.setdefault(settings(run), []).append(run)
    experiments = list(by_settings.values())
    named: Groups = {}
    for members, name in zip(experiments, called([members[0] for members in experiments]), strict=True):
        name = members[0].name if len(members) == 1 and has_name(members[0]) else name
        if name in named:
            name = next(other for n in range(2, len(experiments) + 2) if (other := f"{name} ({n})") not in named)
        named[name] = members
    return named


def settings(run: SavedRun) -> Settings:
    """What runs of the same experiment have in common: all but the seed and where it was run.

    What is null is left out: an older run may not have it.
    """
    if not run.config:
        return (("path", str(run.path)),)
    known = sorted((key, value) for key, value in run.config.items() if value is not None)
    return tuple((key, in_text(value)) for key, value in known if of_the_experiment(key))


def of_the_experiment(key: str) -> bool:
    """Whether runs that differ in a setting are of two experiments: not by where one machine has its data."""
    return not key.startswith(NOT_THE_EXPERIMENT) and not key.endswith("data_dir")


def in_text(value: object) -> str:
    """A setting's value: 10 and 10.0 are the same."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def has_name(run: SavedRun) -> bool:
    """Whether somebody named the run's directory: a sweep's are numbers, others have the time they began."""
    return re.fullmatch(r"[\d\-_.:T]+", run.path.name) is None


def called(firsts: Sequence[SavedRun]) -> list[str]:
    """A name for each experiment, of which one run is given: the fewest settings that tell it from the others.

    The learner and the task are said wherever they vary; another setting only of experiments that what was said before
    does not tell apart.
    """
    keys = {LEARNER if key == FIRST_ORDER else key for key in differences(firsts) if of_the_experiment(key)}
    said: list[tuple[str, ...]] = [()] * len(firsts)
    asked = asked_for(firsts)
    for key in sorted(keys, key=lambda key: place(key, asked)):
        values: dict[tuple[str, ...], set[str]] = {}
        for run, before in zip(firsts, said, strict=True):
            values.setdefault(before, set()).add(said_of(run, key))
        said = [
            (*before, word) if (word := said_of(run, key)) and (key in ALWAYS or len(values[before]) > 1) else before
            for run, before in zip(firsts, said, strict=True)
        ]
    return [", ".join(every) or learner(run) for every, run in zip(said, firsts, strict=True)]


def place(key: str, asked: Container[str]) -> tuple[bool, bool, int, str]:
    """Where a setting stands among those of which names are made: what was `asked` for before what follows from it."""
    group = next((i for i, group in enumerate(SAID_FIRST) if key.startswith(f"{group}.")), len(SAID_FIRST))
    return not is_choice(key), key not in asked, group, key


def asked_for(runs: Iterable[SavedRun]) -> set[str]:
    """The settings that the runs' own commands name."""
    words = [word for run in runs for word in words_of(run.part("training").get("command") or "")]
    return {key.lstrip("+") for key, equals, _ in (word.partition("=") for word in words) if equals}


def said_of(run: SavedRun, key: str) -> str:
    """A setting in an experiment's name: `maml`, `inner_lr=0.4`; nothing where the run has none."""
    if key not in run.config or run.config[key] is None:
        return ""
    if key == LEARNER:
        return learner(run)
    if is_target(key):
        return short(run.config[key])
    value, half = in_text(run.config[key]), MOST_SHOWN // 2
    return f"{key.split('.')[-1]}={value if len(value) <= MOST_SHOWN else f'{value[:half]}…{value[-half:]}'}"


def learner(run: SavedRun) -> str:
    """`maml`, or `maml, first order`."""
    return short(run.config.get(LEARNER)) + (", first order" if run.config.get(FIRST_ORDER) is True else "")


def is_target(key: str) -> bool:
    return key.endswith("._target_")


def is_choice(key: str) -> bool:
    """Whether it is the choice of a whole group: `learner._target_`."""
    return is_target(key) and key.count(".") == 1


def short(target: object) -> str:
    """`metarun.learners.maml.MAML` -> `maml`, `optax.adam` -> `adam`."""
    parts = str(target or "?").split(".")
    return parts[-1] if len(parts) == 1 or parts[-1].islower() else parts[-2]


def differences(runs: Sequence[SavedRun]) -> list[str]:
    """The settings in which the runs are not all alike."""
    keys = sorted({key for run in runs for key in run.config})
    return [
        key
        for key in keys
        if key not in ("run.dir", "run.name") and len({in_text(run.config.get(key)) for run in runs}) > 1
    ]
