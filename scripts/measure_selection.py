"""What screening costs, and what it does to the mean and to the worst: writes into docs/selection.md.

`python scripts/measure_selection.py cost` takes meta-steps without and with a selection in turn, some minutes;
`python scripts/measure_selection.py runs DIR` reads runs of the four presets `*_sinusoid_tail*`, below DIR, and
`--print` prints what would be written.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pages.marks import write_between

from metarun import engine, machine
from metarun.command.from_python import run_of
from metarun.config.run import Run
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit
from metarun.run.rounds import FEWEST, enough, middle_half, ratios

PAGE = Path(__file__).parents[1] / "docs" / "selection.md"
MOST_ROUNDS, SECONDS = 24, 0.5
PRESETS = {
    "maml_sinusoid_tail": ("MAML", "uniform", "about 1 / 4 / -"),
    "maml_sinusoid_tail_hard": ("MAML", "hard", "0.89 / 2.91 / 1.76"),
    "cnp_sinusoid_tail": ("CNP", "uniform", "0.09 / 2.71 / 0.24"),
    "cnp_sinusoid_tail_hard": ("CNP", "hard", "0.09 / 1.62 / 0.20"),
}
WAVES = "task=sinusoid task.shots=5 task.queries=5 learner.inner_lr=0.001 train.meta_batch=15"
STROKES = "task=strokes model.filters=32 train.meta_batch=16"
COSTS = {  # a name -> what is trained; the tail that `hard` leaves out
    "MAML, waves, the worst 15 of 50": (f"learner=maml {WAVES}", 0.7),
    "MAML, 5-way 1-shot strokes, Conv4 of 32, 16 of 32": (f"learner=maml {STROKES}", 0.5),
    "ProtoNet, the same": (f"learner=protonet {STROKES}", 0.5),
}


def stepping(run: Run) -> Callable[[int], float]:
    """(n) -> the seconds that one of n meta-steps takes, after the program was compiled."""
    mesh = run.hardware.set_up(run.train.meta_batch)
    data = engine.held(run.hardware.data, {"train": (run.tasks, run.tasks.load("train"))}, mesh)["train"]
    state = engine.first_state(run.shape, mesh, data, run.numbers, run.train.seed)
    fixed = (data, run.numbers, engine.stream(run.train.seed, engine.TRAIN))
    chunk = run.hardware.chunk(run.train.meta_batch // mesh.size, engine.episode_size(run.tasks, data), "cpu")
    program = engine.programs(run.shape, mesh, chunk).meta_steps

    def seconds(n: int) -> float:
        nonlocal state
        begin = time.perf_counter()
        state = jax.block_until_ready(engine.send(program, state, *fixed, np.int32(n))[0])
        return (time.perf_counter() - begin) / n

    seconds(1)
    return seconds


def cost() -> str:
    """The table: a meta-step of `hard` beside one that trains on the tasks that are drawn, in rounds."""
    lines = ["| | a meta-step, uniform | hard | times uniform's | middle half | rounds |", "| --- " * 6 + "|"]
    before = machine.cores()
    for name, (settings, tail) in COSTS.items():
        both = {
            selection: stepping(run_of([*settings.split(), f"train.selection={selection}", f"train.tail={tail}"]))
            for selection in ("uniform", "hard")
        }
        n = max(1, int(SECONDS / both["uniform"](1)))
        rounds: dict[str, list[float]] = {selection: [] for selection in both}
        while min(map(len, rounds.values())) < FEWEST or not enough(rounds, "uniform", MOST_ROUNDS):
            for selection, seconds in both.items():
                rounds[selection].append(seconds(n))
        each = ratios(rounds, "uniform")["hard"]
        low, high = middle_half(each)
        uniform, hard = (f"{1000 * statistics.median(rounds[s]):.3g} ms" for s in ("uniform", "hard"))
        lines.append(f"| {name} | {uniform} | {hard} | {statistics.median(each):.2f} | {low:.2f} to {high:.2f} | "
                     f"{len(each)} |")  # fmt: skip
    others = machine.in_words(machine.taken_by_others(before, machine.cores()))
    made = f"commit {commit_in_words(commit())}, {datetime.date.today()}"
    return "\n".join([*lines, "", f"On {os.cpu_count()} CPU cores, float32, {made}; {others} meanwhile."])


def figures(found: dict[str, Any]) -> list[float]:
    groups, tail = found["test_groups"], found["test_tail"]
    return [groups["mean"], groups["worst"], groups["cvar"], tail["worst"], found["speed"]["minutes"]]


def runs(folder: Path) -> str:
    """The table: a row for each preset, the mean over its seeds give or take their standard deviation."""
    columns = ["", "`train.selection`", "seeds", "mean", "worst interval", "worst 30 % of intervals", "worst task",
               "published: mean / worst / CVaR", "made"]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for preset, (learner, selection, published) in PRESETS.items():
        files = [
            file for file in sorted((folder / preset).rglob("results.json")) if '"test_groups"' in file.read_text()
        ]
        found = [json.loads(file.read_text()) for file in files]
        if not found:
            continue
        every = np.array([figures(one) for one in found])
        means, spread = every.mean(0), every.std(0, ddof=1) if len(found) > 1 else None
        cells = [f"{mean:.3f}" + ("" if spread is None else f" ± {spread[i]:.3f}") for i, mean in enumerate(means[:4])]
        last, steps = found[-1], found[-1]["training"]["steps"]
        made = f"{steps:,} meta-steps, {last['machine']['devices']} {last['machine']['device']}, "
        made += f"{commit_in_words(last['commit'])}, {last['date'][:10]}"
        row = [f"`{preset}`: {learner}", selection, str(len(found)), *cells, published, made]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "runs"])
    parser.add_argument("folder", nargs="?", type=Path, help="of the runs")
    parser.add_argument("--print", action="store_true", help="write nothing")
    asked = parser.parse_args()
    if asked.what == "runs" and asked.folder is None:
        parser.error("runs needs the folder that they are in")
    text = cost() if asked.what == "cost" else runs(asked.folder)
    if asked.print:
        print(text)
    else:
        write_between(PAGE, asked.what, text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
