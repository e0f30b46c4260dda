"""Trains the learners that come with metarun, one command each, and puts them into metarun/ready/: `make ready`.

`python scripts/make_ready.py [--dir DIR] [NAME...]`. What is finished in DIR is not trained again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pages.parts import ask_for_parts

from metarun.files import write_atomically
from metarun.learned import keep, load, ready
from metarun.learned.kept import TOLD
from metarun.run.figures import commit_in_words

METARUN = [sys.executable, "-P", "-m", "metarun"]
MOST_BYTES = 2**20


class Plan(NamedTuple):
    settings: str
    note: str  # what it takes


PLANS = {
    "strokes-protonet": Plan(
        "learner=protonet task=strokes model.filters=32 train.steps=800 eval.shots=[5]",
        "drawings and symbols, any number of classes",
    ),
    "strokes-maml": Plan("experiment=demo eval.shots=[5]", "drawings and symbols, up to 5 classes"),
    "strokes-mann": Plan(
        "learner=mann task=strokes model.filters=32 learner.units=100 learner.memory=[64,20] train.steps=4000 "
        "eval.shots=[5]",
        "drawings and symbols, up to 5 classes, read one by one",
    ),
    "intents-protonet": Plan(
        "learner=protonet task=clinc150 task.split=fold0 train.task.ways=20 train.steps=600 eval.shots=[5]",
        "short English texts, any number of classes",
    ),
    "waves-maml": Plan("learner=maml task=sinusoid train.steps=20000 eval.shots=[5]", "one number in, one out: waves"),
}


def make(name: str, plan: Plan, folder: Path) -> None:
    """Trains it, if it is not, and keeps it with what is to be told of it."""
    run = folder / name
    if not (run / "results.json").exists():
        settings = [] if (run / "config.yaml").exists() else [*shlex.split(plan.settings), "logger=none"]
        subprocess.run([*METARUN, *settings, f"run.dir={run}"], check=True)
    found = json.loads((run / "results.json").read_text())
    metric = found["protocol"]["metric"]
    place = ready.FOLDER / name
    keep(load(run), place)
    told = json.loads((place / TOLD).read_text())
    told["config"]["hardware"] |= {"devices": "auto"}
    told["config"]["data_dir"] = None  # wherever it is used
    told["config"]["task"] |= {"data_dir": None} if "data_dir" in told["config"]["task"] else {}
    told["ready"] = {
        "command": shlex.join(["metarun", *shlex.split(plan.settings)]),
        "metric": metric,
        "test": found["test"][metric],
        "by_shots": {shots: one["figures"][metric] for shots, one in found["test_by_shots"].items()},
        "note": plan.note,
        "commit": commit_in_words(found["commit"]),
        "date": found["date"][:10],
    }
    write_atomically(place / TOLD, json.dumps(told, indent=1) + "\n")
    size = sum(path.stat().st_size for path in place.iterdir())
    assert size < MOST_BYTES, f"{name} has {size:,} bytes"
    print(f"{name}: {size / 1024:,.0f} KB, {found['test'][metric]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/ready"))
    ask_for_parts(parser, PLANS, "names")
    given = parser.parse_args()
    for name in given.names or PLANS:
        make(name, PLANS[name], given.dir)


if __name__ == "__main__":
    main()
