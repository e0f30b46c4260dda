"""Searches step size and inner steps on strokes, killed once, into docs/sweeps.md: about 20 minutes on two cores.

`python scripts/measure_search.py` leaves the search in runs/search, from which the same command goes on.
"""

import datetime
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pages.marks import write_between
from pages.tables import table
from soak import METARUN

from metarun import sweep
from metarun.run.figures import commit_in_words, show
from metarun.run.provenance import commit
from metarun.sweep import Sweep
from metarun.sweep.objective import Objective, best_validation, steps_made
from metarun.sweep.record import Job

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sweeps.md"
PLACE = Path("runs", "search")
# A small model and a small budget: a trial is half a minute of which most is its start.
BUDGET = ["task=strokes", "learner=maml", "model=mlp", "model.hidden=[64]", "train.steps=200", "train.meta_batch=4",
          "train.log_every=10", "train.eval_every=20", "eval.val_episodes=100", "eval.episodes=600",
          "eval.inner_steps=[]", "eval.inductive=none", "hardware.task_chunk=4", "hardware.devices=1",
          "logger=none"]  # fmt: skip
SEARCHED = ["learner.inner_lr=tag(log,interval(0.01,3))", "learner.inner_steps=range(1,6)"]
TRIALS, KILLED_AFTER = 20, 7


def main() -> None:
    words = [*METARUN, "-m", *BUDGET, *SEARCHED, f"sweep.trials={TRIALS}", f"run.dir={PLACE}"]
    note = PLACE.with_suffix(".json")
    if not note.exists():
        killed = killed_in_the_middle(words)
        note.write_text(json.dumps({"killed": killed, "commit": commit_in_words(commit()), "seconds": 0.0}))
    said: dict[str, Any] = json.loads(note.read_text())
    began = time.monotonic()
    subprocess.run([*METARUN, "-m", f"run.dir={PLACE}"], check=True)
    default = PLACE.with_name("search-default")
    if not (default / "results.json").exists():
        subprocess.run([*METARUN, *BUDGET, f"run.dir={default}"], check=True)
    print(f"{time.monotonic() - began:.0f} s")
    text = told(sweep.read(PLACE), default, said["killed"])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    where = f"{os.cpu_count()} cores, which others used as well, {platform.platform()}"
    measured = f"`python scripts/measure_search.py`, {where}, {said['commit']}, {date}."
    write_between(PAGE, "search", f"{text}\n\n{measured}")


def killed_in_the_middle(words: list[str]) -> int:
    """Begins the search and ends its process by kill -9, in the middle of a trial, which it gives."""
    process = subprocess.Popen(words)
    while True:
        time.sleep(0.2)
        if process.poll() is not None:
            sys.exit("the search ended before it was killed")
        jobs = sweep.read(PLACE).jobs if (PLACE / "sweep.json").exists() else ()
        if len(jobs) > KILLED_AFTER and (jobs[-1].directory / "metrics.jsonl").exists():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return jobs[-1].number


def told(found: Sweep, default: Path, killed: int) -> str:
    """What the search came to, beside the default."""
    objective = Objective(found.search["objective"], found.search["direction"])
    stands = [job.stand for job in found.jobs]
    assert [job.number for job in found.jobs] == list(range(TRIALS)), "not as many trials as were asked for"
    assert set(stands) <= {"finished", "pruned"}, stands
    logs = [(job.directory / "metarun.log").read_text() for job in found.jobs]
    again = [number for number, log in enumerate(logs) if log.count(" parameters, ") > 1]
    went_on = [log.partition("going on from meta-step ")[2].split()[0] for log in logs if "going on from" in log]
    assert again == [killed] or not again, "a trial was made twice"
    assert len(went_on) == len(again), "a trial was made anew"
    best = min(
        (job for job in found.jobs if job.stand == "finished"),
        key=lambda job: objective.order(best_validation(job, objective)),
    )
    steps = [steps_made(job.directory) for job in found.jobs if job.stand == "pruned"]
    made, of_all = sum(one for one, _ in steps), sum(one for _, one in steps)
    seconds = {how: [job.end["seconds"] for job in found.jobs if job.stand == how] for how in ("finished", "pruned")}
    each = {how: f"{sum(own) / len(own):.0f} s" for how, own in seconds.items() if own}
    command = shlex.join(["metarun", "-m", *BUDGET, *SEARCHED, f"sweep.trials={TRIALS}"])
    rows = [row("as it is by default", Job(0, (), default), objective), row(found.own(best), best, objective)]
    return "\n".join(
        [
            "```",
            command,
            "```",
            "",
            *table(("strokes, 5-way 1-shot, 200 meta-steps of 4 tasks", "best validation", "test"), *rows),
            "",
            f"- `kill -9` of the search's process in the middle of trial {killed}, then `metarun -m run.dir=DIR`: "
            f"{len(found.jobs)} trials in the end, each a job of the same number; trial {killed} alone went on, from "
            f"its meta-step {(*went_on, '0')[0]}, and the others were made at once: "
            f"{stands.count('finished')} finished, {stands.count('pruned')} pruned",
            f"- pruning: {len(steps)} trials ended after {made:,} of their {of_all:,} meta-steps; saved were "
            f"{of_all - made:,} of {TRIALS * of_all // max(1, len(steps)):,} meta-steps "
            f"({100 * (of_all - made) / (TRIALS * 200):.0f} %) and {len(steps)} tests. "
            f"A trial took {', '.join(f'{time} if {how}' for how, time in each.items())}, its start included",
        ]
    )


def row(name: str, job: Job, objective: Objective) -> tuple[str, str, str]:
    results = json.loads((job.directory / "results.json").read_text())
    test = show(objective.metric, results["test"][objective.metric])
    return f"`{name}`" if "=" in name else name, show(objective.metric, {"mean": best_validation(job, objective)}), test


if __name__ == "__main__":
    main()
