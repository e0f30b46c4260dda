"""What a start costs, by stage, with nothing compiled before and with all: `make start`, into docs/start.md.

Runs of 10 meta-steps, each in a process of its own. `--tree DIR` measures another commit's checkout beside this one, in
turn. Keep the machine otherwise idle.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages.marks import write_between

from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "start.md"
RUNS = [(task, learner) for task in ("strokes", "omniglot") for learner in ("maml", "protonet", "mann")]

# Run in the tree that is measured: a run with a clock at what it says it is at, and at what jax says it does.
CHILD = """
import json, logging, re, sys, time
out, began = sys.argv.pop(1), float(sys.argv.pop(1))
places, jax_did = [], {"tracing": 0.0, "lowering": 0.0, "LLVM": 0.0, "loading executables": 0.0}
class Heard(logging.Handler):
    def emit(self, record):
        found = re.match(r"Finished (tracing|jaxpr to MLIR|XLA compilation).* in ([0-9.e-]+) sec", record.getMessage())
        if found:
            name = {"tracing": "tracing", "jaxpr to MLIR": "lowering", "XLA compilation": "LLVM"}[found[1]]
            jax_did[name] += float(found[2])
import jax
jax.config.update("jax_log_compiles", True)
for name in ("dispatch", "interpreters.pxla", "compiler"):
    logger = logging.getLogger(f"jax._src.{name}")
    logger.handlers, logger.propagate = [Heard()], False
from metarun.run.status import Status
at = Status.at
def told(self, what, total=None, done=0, *rest, **named):
    places.append((time.time() - began, what, done))
    return at(self, what, total, done, *rest, **named)
Status.at = told
try:
    from metarun.engine import compiled
    load = compiled.load
    def loaded(path):
        before = time.perf_counter()
        found = load(path)
        jax_did["loading executables"] += time.perf_counter() - before
        return found
    compiled.load = loaded
except ImportError:
    pass
from metarun.__main__ import main
try:
    main()
finally:
    json.dump({"places": places, "jax": jax_did, "end": time.time() - began}, open(out, "w"))
"""

STAGES = {
    "loading the data": "data, checks",
    "preparing the first state": "first state",
    "compiling and timing meta-steps": "meta-step's program",
    "opening the logger": "meta-step's program",
    "compiling the meta-steps": "meta-step's program",
    "meta-steps": "meta-steps",
    "validation episodes": "validation",
    "compiling the validation": "validation",
    "test episodes": "test",
    "compiling the test": "test",
    "saving": "saving, end",
}


def measured(tree: Path, words: list[str], cache: Path) -> dict[str, float]:
    """Seconds by stage of one run, and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        out, run = Path(folder) / "out.json", Path(folder) / "run"
        settings = [*words, "logger=none", "train.steps=10", f"run.dir={run}"]
        command = [sys.executable, "-P", "-c", CHILD, str(out), str(time.time()), *settings]
        environment = {**os.environ, "PYTHONPATH": str(tree), "METARUN_CACHE_DIR": str(cache)}
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        told = json.loads(out.read_text())
        peak = json.loads((run / "results.json").read_text())["memory"]["host_peak_mb"]
    stages = dict.fromkeys(["imports, Hydra", *dict.fromkeys(STAGES.values())], 0.0)
    last, before = "imports, Hydra", 0.0
    for when, what, _ in [*told["places"], (told["end"], "saving", 0)]:
        stages[last] += when - before
        # Of earlier commits: one evaluation compiled for all.
        last, before = STAGES.get(what, last), when
    first = next(when for when, what, done in told["places"] if what == "meta-steps" and done)
    return {"whole": told["end"], "first meta-step": first, **stages, **told["jax"], "peak MB": peak}


def row(name: str, found: list[dict[str, float]]) -> str:
    """The medians of some runs' figures."""
    medians = {column: statistics.median(one[column] for one in found) for column in found[0]}
    cells = [f"{value:,.0f}" if "MB" in column else f"{value:.1f}" for column, value in medians.items()]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, help="a checkout of another commit, to be measured in turn")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("words", nargs="*", help="TASK/LEARNER, ...; all by default")
    asked = parser.parse_args()
    runs = [tuple(word.split("/")) for word in asked.words] or RUNS
    trees = {"here": ROOT} | ({"before": asked.tree.absolute()} if asked.tree else {})
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"  # what only data take: it is made once, by `metarun data`
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "METARUN_CACHE_DIR": str(prepared)}
        subprocess.run(
            [sys.executable, "-P", "-m", "metarun", "data", "omniglot"], check=True, cwd=folder, env=environment
        )
        for turn in range(asked.rounds):
            for task, learner in runs:
                for name, tree in trees.items():
                    cache = Path(folder) / f"{task}-{learner}-{name}-{turn}"
                    shutil.copytree(prepared, cache)
                    for state in ("cold", "warm"):
                        one = measured(tree, [f"task={task}", f"learner={learner}"], cache)
                        found.setdefault((f"{task}, {learner}", name, state), []).append(one)
                        print(task, learner, name, state, {k: round(v, 2) for k, v in one.items()}, flush=True)
                    shutil.rmtree(cache)
    columns = next(iter(found.values()))[0]
    lines = [f"| | {' | '.join(columns)} |", f"|{' --- |' * (1 + len(columns))}"]
    for (what, name, state), figures in found.items():
        of = f" at {of_tree(trees[name])}" if len(trees) > 1 else ""
        lines.append(row(f"{what}, {state}{of}", figures))
    lines += ["", made(asked.rounds)]
    write_between(PAGE, "start", "\n".join(lines))


def of_tree(tree: Path) -> str:
    words = ["git", "-C", str(tree), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def made(rounds: int) -> str:
    times = "once each" if rounds == 1 else f"medians of {rounds}"
    return (
        f"{times}, {os.cpu_count()} cores of {platform.machine()}, commit {commit_in_words(commit())}, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}: `python scripts/measure_start.py`"
    )


if __name__ == "__main__":
    main()
