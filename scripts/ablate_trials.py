"""What learns within a trial, one setting at a time, into docs/reinforcement.md: `python scripts/ablate_trials.py`.

Each row is a run of a minute or two at the lowest priority; what is finished in `--dir` is skipped, what was stopped
there goes on. A row departs in what it names from `as it is`, which has the learner's yaml as it stands.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pages.marks import write_between
from pages.runs import make, write_as_they_end
from pages.tables import table

from metarun.run.figures import commit_in_words

PAGE = Path(__file__).parents[1] / "docs" / "reinforcement.md"
AS_IT_IS = "as it is"


class Part(NamedTuple):
    """A table between two marks of the page: each departure is from what is common."""

    common: tuple[str, ...]
    departures: tuple[str, ...]


PARTS = {
    "trials": Part(
        ("task=bandits", "task.pulls=100", "task.arms=5", "learner=rl2", "train.steps=60", "eval.state=last"),
        (
            "",
            "optimizer.epochs=8",
            "optimizer.learning_rate.init_value=0.02",
            "optimizer.learning_rate.init_value=0.001",
            "learner.gae_lambda=0.3",
            "learner.gae_lambda=1.0",
            "optimizer.clip_norm=1000.0",
            "optimizer.minibatches=1",
            "optimizer=trpo optimizer.divergence=0.02 optimizer.damping=0.01",
            "optimizer=adam optimizer.learning_rate=0.005",
            "learner=rl2_attention",
        ),
    ),
    "states": Part(
        (
            "task=tabular_mdp", "task.states=4", "task.actions=3", "learner=rl2", "learner.gae_lambda=0.3",
            "optimizer.value_weight=2.0", "train.steps=300", "eval.episodes=1000", "++eval.task.queries=1",
            "eval.state=last",
        ),
        (
            "",
            "optimizer.value_weight=8.0",
            "optimizer.value_weight=0.5",
            "optimizer.value_weight=0.5 optimizer.entropy_weight=0.01",
            "optimizer.value_weight=0.5 learner.gae_lambda=0.0",
            "optimizer.value_weight=0.5 learner.memory.times=uniform",
            "optimizer.value_weight=0.5 learner.memory.times=uniform learner.gae_lambda=0.95",
            "optimizer.learning_rate.init_value=0.002",
            "model.hidden=[64]",
        ),
    ),
}  # fmt: skip


def folder_of(directory: Path, part: str, departure: str) -> Path:
    name = (departure or AS_IT_IS).translate(str.maketrans("= []", "_-__"))  # as Hydra reads run.dir
    return directory / part / name


def run(part: str, departure: str, directory: Path) -> int:
    """Makes one run, unless it is finished. Its exit code."""
    common = [word for word in PARTS[part].common if not (word.startswith("learner=") and "learner=" in departure)]
    return make(folder_of(directory, part, departure), [*common, *departure.split(), "logger=none"])


def page(directory: Path, part: str) -> str | None:
    """A row for each run that is finished; None if there is none."""
    common, departures = PARTS[part]
    found: list[tuple[str, dict[str, Any]]] = []
    for departure in departures:
        file = folder_of(directory, part, departure) / "results.json"
        if file.exists():
            found.append((departure, json.loads(file.read_text())))
    if not found:
        return None
    rows = [
        (
            f"`{departure}`" if departure else AS_IT_IS,
            "{mean:.1f} ± {ci95:.1f}".format(**results["test"]["return"]),
            f"{results['speed']['minutes']:.1f}",
        )
        for departure, results in found
    ]
    made = sorted({commit_in_words(results["commit"]) for _, results in found})
    devices = sorted({f"{one['machine']['devices']} {one['machine']['device']} devices" for _, one in found})
    dates = sorted({results["date"][:10] for _, results in found})
    lines = table(("departure", "return", "minutes"), *rows)
    how = f"`metarun {' '.join(common)}`, one seed; {', '.join((*made, *devices, *dates))}"
    return "\n".join([*lines, "", how])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs/trials"))
    parser.add_argument("--table-only", action="store_true")
    given = parser.parse_args()
    every = [partial(run, name, one, given.dir) for name, part in PARTS.items() for one in part.departures]
    return write_as_they_end([] if given.table_only else every, lambda: write(given.dir))


def write(directory: Path) -> None:
    """The tables that have a run; the others stay as they were written."""
    for part in PARTS:
        if (found := page(directory, part)) is not None:
            write_between(PAGE, part, found)


if __name__ == "__main__":
    sys.exit(main())
