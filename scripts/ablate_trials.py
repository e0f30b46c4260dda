"""What learns within a trial, one setting at a time, into docs/reinforcement.md: `python scripts/ablate_trials.py`.

Each row is a run of a minute or two at the lowest priority; what is finished in `--dir` is skipped, what was stopped
there goes on. A row departs in what it names from `as it is`, which has the learner's yaml as it stands.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pages.marks import write_between
from pages.runs import make, write_as_they_end
from pages.tables import table

from metarun.run.figures import commit_in_words

PAGE = Path(__file__).parents[1] / "docs" / "reinforcement.md"
AS_IT_IS = "as it is"
COMMON = ("task=bandits", "task.pulls=100", "task.arms=5", "learner=rl2", "train.steps=60", "eval.state=last")
DEPARTURES = (
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
)


def folder_of(directory: Path, departure: str) -> Path:
    return directory / (departure or AS_IT_IS).replace("=", "_").replace(" ", "-")  # Hydra reads run.dir


def run(departure: str, directory: Path) -> int:
    """Makes one run, unless it is finished. Its exit code."""
    common = [word for word in COMMON if not (word.startswith("learner=") and "learner=" in departure)]
    return make(folder_of(directory, departure), [*common, *departure.split(), "logger=none"])


def page(directory: Path) -> str:
    """A row for each run that is finished."""
    found: list[tuple[str, dict[str, Any]]] = []
    for departure in DEPARTURES:
        file = folder_of(directory, departure) / "results.json"
        if file.exists():
            found.append((departure, json.loads(file.read_text())))
    if not found:
        return "No row has run yet."
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
    how = f"`metarun {' '.join(COMMON)}`, one seed; {', '.join((*made, *devices, *dates))}"
    return "\n".join([*lines, "", how])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs/trials"))
    parser.add_argument("--table-only", action="store_true")
    given = parser.parse_args()
    jobs = [] if given.table_only else [partial(run, one, given.dir) for one in DEPARTURES]
    return write_as_they_end(jobs, lambda: write_between(PAGE, "trials", page(given.dir)))


if __name__ == "__main__":
    sys.exit(main())
