"""What a figure was measured on: figures of different tasks, or of other ways or shots, do not go into one plot."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from metarun.report.experiments import Groups, short
from metarun.report.runs import SavedRun

Stage = Literal["train", "val", "test"]
NO_MATTER = ("data_dir", "queries")  # of a task: they leave it as hard as it is


class Setup(NamedTuple):
    """A task distribution's settings, as text; those that are null are left out, as an older run may not have them."""

    settings: tuple[tuple[str, str], ...]
    split: str = ""  # of a test: whose tasks they are

    @property
    def task(self) -> str:
        return short(dict(self.settings).get("_target_"))

    def number(self, name: str) -> int | None:
        """A setting that is a number, such as ways or shots."""
        value = dict(self.settings).get(name, "")
        return int(value) if value.isdecimal() else None

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing; None for what is no classification."""
        ways = self.number("ways")
        return 1 / ways if ways else None

    @property
    def words(self) -> str:
        """`omniglot, 5-way 1-shot`, `sinusoid, 10 shots`, `sinusoid, 10 shots (val)`."""
        ways, shots = self.number("ways"), self.number("shots")
        if ways is None:
            of = "" if shots is None else f", {shots} shots"
        else:
            of = f", {ways}-way" + ("" if shots is None else f" {shots}-shot")
        return self.task + of + but_test(self.split)


def but_test(split: str) -> str:
    """What stands behind a test's figures, if they are of another split: ` (val)`."""
    return "" if split in ("", "test") else f" ({split})"


def setup(run: SavedRun, stage: Stage, without: tuple[str, ...] = ()) -> Setup:
    """What the run was trained, validated or tested on; `without` some of its settings."""
    protocol = run.part("protocol")
    tested = protocol.get("task")
    if stage == "test" and isinstance(tested, dict):
        found: dict[str, Any] = tested
    else:
        found = under(run, "task.") | under(run, "train.task." if stage == "train" else "eval.task.")
    if stage != "train":
        found = {k: v for k, v in found.items() if k.partition(".")[0] != "augment"}  # only training's images
    split = protocol.get("split") or run.config.get("eval.split") or "test"
    return setup_of(found, (*without, *no_ways(run)))._replace(split=str(split) if stage == "test" else "")


def no_ways(run: SavedRun) -> tuple[str, ...]:
    """Ways, where they say nothing: a table's tasks, say, have a key for them even where they are regressions."""
    return () if run.metric in ("", "accuracy") else ("ways",)


def setup_of(task: dict[str, Any], without: tuple[str, ...] = ()) -> Setup:
    """Of a task's settings; `without` some of them."""
    left = {k: v for k, v in task.items() if v is not None and k not in (*NO_MATTER, *without)}
    return Setup(tuple(sorted((k, str(v)) for k, v in left.items())))


def under(run: SavedRun, prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in run.config.items() if key.startswith(prefix)}


def by_setup(groups: Groups, stage: Stage, without: tuple[str, ...] = ()) -> dict[Setup, Groups]:
    """The experiments of each setup; in all of them the others are there, too, without runs: they keep their places."""
    found: dict[Setup, Groups] = {}
    for name, members in groups.items():
        for run in members:
            own = found.setdefault(setup(run, stage, without), {name: [] for name in groups})
            own[name].append(run)
    return found


def titles(setups: Iterable[Setup]) -> dict[Setup, str]:
    """Each setup in words; those that would read alike also with the settings in which they differ."""
    setups = list(setups)
    found = {}
    for one in setups:
        alike = [other for other in setups if other.words == one.words]
        own = [pair for pair in one.settings if any(pair not in other.settings for other in alike)]
        found[one] = ", ".join([one.words, *(f"{key}={value}" for key, value in own)])
    return found
