"""What privacy costs: accuracy on strokes against epsilon, for docs/privacy.md and docs/privacy.svg.

`python scripts/measure_privacy.py [--dir DIR]` makes a run for each amount of noise; what is finished is skipped, what
was stopped goes on. The table and the picture are of the runs' results.json. A quarter of an hour on one idle core.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
from pages.marks import write_between

from metarun.run.figures import commit_in_words, show

matplotlib.use("svg")
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS = (
    "learner=fomaml task=strokes task.queries=2 model=mlp model.hidden=[64] "
    "train.private.clip=1 train.private.delta=1e-6 "
    "train.private.users=100000 train.meta_batch=512 train.steps=100 optimizer.learning_rate=0.005 logger=none "
    "hardware.platform=cpu hardware.devices=1 hardware.task_chunk=16 eval.val_episodes=20 eval.task.queries=10 "
    "eval.inner_steps=[1] eval.state=last"
)
NOISES = ("0", "0.5", "0.7", "1", "3")


def row(noise: str, found: dict[str, Any]) -> str:
    machine, epsilon = found["machine"], found["privacy"]["epsilon"]
    told = "none holds" if epsilon is None else f"{epsilon:.2f}"
    made = f"{machine['devices']} {machine['platform']}, {commit_in_words(found['commit'])}, {found['date'][:10]}"
    accuracy, minutes = show("accuracy", found["test"]["accuracy"]), found["speed"]["minutes"]
    return f"| {noise} | {told} | {accuracy} | {minutes:.1f} | {made} |"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against epsilon, and a line at what is reached without noise."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    points = sorted((run["privacy"]["epsilon"], run["test"]["accuracy"]) for run in runs if run["privacy"]["epsilon"])
    means, half = ([100 * accuracy[part] for _, accuracy in points] for part in ("mean", "ci95"))
    axes.errorbar([epsilon for epsilon, _ in points], means, half, marker="o", capsize=3, color="#0072B2")
    for run in runs:
        if run["privacy"]["epsilon"] is None:
            axes.axhline(100 * run["test"]["accuracy"]["mean"], color="#777777", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="epsilon, at delta 1e-6", ylabel="test accuracy, %")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/privacy"))
    asked = parser.parse_args()
    for noise in NOISES:
        folder = asked.dir / noise
        if not (folder / "results.json").exists():
            begun = (folder / "config.yaml").exists()
            settings = [] if begun else [*SETTINGS.split(), f"train.private.noise={noise}"]
            command = [sys.executable, "-P", "-m", "metarun", *settings, f"run.dir={folder}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = {noise: json.loads((asked.dir / noise / "results.json").read_text()) for noise in NOISES}
    head = "| noise | epsilon | test accuracy | minutes | on |\n| ---: | ---: | --- | ---: | --- |"
    write_between(DOCS / "privacy.md", "privacy", "\n".join([head, *(row(*one) for one in runs.items())]))
    draw(list(runs.values()), DOCS / "privacy.svg")


if __name__ == "__main__":
    main()
