"""What learners reach on the data sets that metarun knows, and on others than they were trained on: docs/sets.md.

`python scripts/measure_sets.py [--dir DIR] [WORD...]` runs each row whose name has one of the words, one after another;
what is finished is skipped, what was stopped goes on. The table is of the runs' results.json. An hour on 2 cores.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pages.marks import write_between

from metarun.run.figures import commit_in_words, show

PAGE = Path(__file__).parents[1] / "docs" / "sets.md"
METARUN = [sys.executable, "-P", "-m", "metarun"]
CIFAR = (
    "task=cifar_fs train.task.queries=5 train.steps=600 eval.shots=[5] eval.inductive=none "
    "eval.tasks={mednist:{task:folder,path:'${data_dir}/mednist/mednist_3000.zip'}}"
)
CLINC = "task=clinc150 task.split=fold1 eval.shots=[5]"


class Row(NamedTuple):
    """One run."""

    name: str
    settings: str
    paper: str = ""  # what a paper has beside it
    of: int | None = None  # the meta-steps of the paper


ROWS = [
    *(
        Row(f"clinc150-{name}{encoder and '-wordllama'}", f"{settings} {CLINC}{encoder}")
        for encoder in ("", " task.encoder=wordllama")
        for name, settings in {
            "nearest": "learner=nearest_neighbour model=pixels",
            "protonet": "learner=protonet train.task.ways=20 train.steps=600",
            "maml": "learner=maml train.steps=600",
        }.items()
    ),
    Row("strokes-protonet", "learner=protonet task=strokes train.steps=600 eval.shots=[5] eval.tasks={omniglot:{}}"),
    Row(
        "mixture-maml",
        "learner=maml task=mixture learner.inner_steps=5 train.meta_batch=25 train.steps=70000",
        "2.292 ± 0.163",
        70_000,
    ),
    Row(
        "cifar_fs-protonet",
        f"learner=protonet {CIFAR} model.filters=64 train.task.ways=20 train.meta_batch=1",
        "55.5 ± 0.7 %; 5 shots 72.0 ± 0.6 %",
        40_000,
    ),
    Row(
        "cifar_fs-r2d2",
        f"learner=r2d2 {CIFAR} model=conv4_wide model.filters=[64,64,64,64] train.task.ways=10 train.task.shots=5 "
        "train.meta_batch=1",
        "65.3 ± 0.2 %; 5 shots 79.4 ± 0.1 % (512 filters)",
        40_000,
    ),
    Row(
        "cifar_fs-maml",
        f"learner=maml {CIFAR} model.filters=32 learner.inner_lr=0.01 learner.inner_steps=5 train.meta_batch=4",
        "58.9 ± 1.9 %; 5 shots 71.5 ± 1.0 %",
        60_000,
    ),
]


def figures(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(what it was tested on, its figure) of the run's own tasks, with other shots, and of other domains."""
    metric = found["protocol"]["metric"]
    every = [("", found["test"], found.get("test_by_shots", {}))]
    every += [(name, one["figures"], one["by_shots"]) for name, one in found.get("tests", {}).items()]
    told = []
    for name, own, by_shots in every:
        told.append((name, show(metric, own[metric])))
        told += [(f"{name} {n} shots".strip(), show(metric, one["figures"][metric])) for n, one in by_shots.items()]
    return told


def lines(row: Row, found: dict[str, Any]) -> str:
    training, machine = found["training"], found["machine"]
    own, *others = figures(found)
    reached = "; ".join([own[1], *(f"{name} {figure}" for name, figure in others)])
    steps = f"{training['steps']:,}" + (f" of {row.of:,} ({training['steps'] / row.of:.1%})" if row.of else "")
    if training["parameters"] == 0 or "nearest" in row.name:
        steps = "none"
    made = f"{machine['devices']} {machine['platform']}, {commit_in_words(found['commit'])}, {found['date'][:10]}"
    command = shlex.join(["metarun", *row.settings.split()])
    return f"| `{command}` | {reached} | {row.paper} | {steps} | {found['speed']['minutes']:.1f} | {made} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/sets"))
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    for row in ROWS:
        folder = asked.dir / row.name
        wanted = not asked.words or any(word in row.name for word in asked.words)
        if wanted and not (folder / "results.json").exists():
            settings = [] if (folder / "config.yaml").exists() else [*row.settings.split(), "logger=none"]
            print("metarun", *settings, flush=True)
            subprocess.run([*METARUN, *settings, f"run.dir={folder}"], check=True, stdout=subprocess.DEVNULL)
    there = [(row, asked.dir / row.name / "results.json") for row in ROWS]
    table = [lines(row, json.loads(path.read_text())) for row, path in there if path.exists()]
    head = "| command | test | paper | meta-steps | minutes | on |\n| --- | --- | --- | --- | ---: | --- |"
    write_between(PAGE, "sets", "\n".join([head, *table]))


if __name__ == "__main__":
    main()
