"""Where a meta-step's time goes, on one core, into docs/speed.md: `taskset -c 0 python scripts/profile_meta_step.py`.

A profile of MAML's meta-step as `make bench` has it (32 tasks, one at once), summed over what XLA names alike: matrix
products by their size, and the loops between them. On one device and one core, so that what is there adds up.
"""

import datetime
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
from jax.profiler import ProfileData
from jax.sharding import Mesh
from pages.marks import write_between
from rivals.settings import MAML, run_of

from metarun import engine
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
META_STEPS = 5
LEAST = 0.02  # of the whole: what takes less is summed up


def kinds(hlo: str) -> tuple[dict[str, str], dict[str, float]]:
    """Name of an instruction -> its kind; and the GFLOP of ONE matrix product of each such kind."""
    found: dict[str, str] = {}
    gflop: dict[str, float] = {}
    shape_of = dict(re.findall(r"%([\w.-]+) = \w+\[([\d,]*)\]", hlo))
    bodies = dict(re.findall(r"^%(\S+) \([^\n]*\{\n(.*?)^\}", hlo, re.M | re.S))
    pattern = r"%([\w.-]+) = (\w+)\[([\d,]*)\]\S* (fusion|dot)\((.*?)\)(?:.*?calls=%(\S+?),)?.*?$"
    for name, _, shape, operation, operands, body in re.findall(pattern, hlo, re.M):
        inside = bodies.get(body, "") if operation == "fusion" else ""
        product = operation == "dot" or " dot(" in inside
        if not product:
            sums = "ynn_fusion" in name
            found[name] = "sums over an axis" if sums else re.sub(r"[.\d]+$", "", name).replace("_", " ")
            continue
        first = shape_of.get(re.findall(r"%([\w.-]+)", operands)[0], "")
        rows, columns = [1, 1, *map(int, shape.split(","))][-2:] if shape else (1, 1)
        inner = int(np.prod([int(n) for n in first.split(",") if n] or [1])) // max(1, rows)
        sizes = sorted((rows, columns, inner), reverse=True)
        found[name] = "product of " + " x ".join(map(str, sizes))
        gflop[found[name]] = 2 * rows * columns * inner / 1e9
    return found, gflop


def main() -> None:
    if len(os.sched_getaffinity(0)) > 1:
        sys.exit("profile_meta_step: is to be on one core, so that times add up; begin the command with: taskset -c 0")
    run = run_of(*MAML, "train.meta_batch=32")
    mesh = Mesh(run.hardware.set_up(32).devices[:1], ("tasks",))
    data = engine.placed(run.tasks.load("train"), mesh)
    state = engine.first_state(run.shape, mesh, data, run.numbers, 0)
    held, *fixed = engine.Training(state, data, run.numbers, engine.stream(0, engine.TRAIN))
    compiled = engine.programs(run.shape, mesh, 1).meta_steps.jitted.lower(held, *fixed, np.int32(1)).compile()
    held = jax.block_until_ready(compiled(held, *fixed, np.int32(META_STEPS))[0])
    began = time.perf_counter()
    held = jax.block_until_ready(compiled(held, *fixed, np.int32(META_STEPS))[0])
    whole = 1e3 * (time.perf_counter() - began) / META_STEPS
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(held, *fixed, np.int32(META_STEPS)))
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
    kind_of, gflop_of = kinds(compiled.as_text())
    spent: defaultdict[str, float] = defaultdict(float)  # ms a meta-step
    calls: defaultdict[str, float] = defaultdict(float)
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kind_of:
                    spent[kind_of[event.name]] += event.duration_ns / 1e6 / META_STEPS
                    calls[kind_of[event.name]] += 1 / META_STEPS
    total = sum(spent.values())
    lines = ["| | times | ms | share | GFLOP/s |", "| --- | --- | --- | --- | --- |"]
    rest = 0.0
    for kind, ms in sorted(spent.items(), key=lambda item: -item[1]):
        if ms < LEAST * total:
            rest += ms
            continue
        rate = f"{1e3 * calls[kind] * gflop_of[kind] / ms:.0f}" if kind in gflop_of else ""
        lines.append(f"| {kind} | {calls[kind]:.0f} | {ms:.1f} | {ms / total:.0%} | {rate} |")
    lines.append(f"| the rest | | {rest:.1f} | {rest / total:.0%} | |")
    products = sum(spent[kind] for kind in gflop_of)
    gflop = sum(calls[kind] * gflop_of[kind] for kind in gflop_of)
    lines += [
        f"| all products | | {products:.1f} | {products / total:.0%} | {1e3 * gflop / products:.0f} |",
        f"| all | | {total:.1f} | | |",
        "",
        f"{whole:.0f} ms a meta-step without the profiler, which adds to what is short. One of "
        f"{os.cpu_count()} cores, {commit_in_words(commit())}, {datetime.date.today()}: "
        "`taskset -c 0 python scripts/profile_meta_step.py`",
    ]
    write_between(PAGE, "profile", "\n".join(lines))
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
