"""`metarun bench train.seeds=8 [overrides]`: what many runs in one program cost beside one alone."""

import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from metarun import engine, machine, stderr
from metarun.config.run import Run
from metarun.run.bench import busy_line
from metarun.run.population import chunk
from metarun.run.provenance import commit

ROUNDS, SECONDS = 7, 0.3  # in turn; about so long of each, in each round


class Taken(NamedTuple):
    """Seconds a meta-step."""

    clock: float
    processor: float


class Way(NamedTuple):
    """Some runs' meta-steps, compiled."""

    make: Callable[[int], None]  # n further meta-steps of each
    task_chunk: int
    devices: int

    def timed(self, n: int) -> Taken:
        began = time.perf_counter(), time.process_time()
        self.make(n)
        return Taken((time.perf_counter() - began[0]) / n, (time.process_time() - began[1]) / n)


def way(run: Run, members: int | None) -> Way:
    """So many runs that differ in their seeds in one program; None: the run alone, in its own."""
    mesh, count = run.hardware.set_up(run.train.meta_batch), members or 1
    loaded = run.tasks.load("train")
    data = engine.held("device", {"train": (run.tasks, loaded)}, mesh)["train"]
    seeds = range(run.train.seed, run.train.seed + count)
    keys = [engine.stream(seed, engine.TRAIN) for seed in seeds]
    states = [engine.first_state(run.shape, mesh, data, run.numbers, seed) for seed in seeds]
    together = engine.of_members(mesh, count)
    task_chunk = chunk(run, mesh if members is None else together, loaded, count)
    programs = engine.programs(run.shape, mesh, task_chunk)
    program = programs.meta_steps if members is None else programs.together(count)
    given: list[Any] = [states, [run.numbers] * count, keys]
    state, *fixed = (each[0] if members is None else engine.stacked(each, together) for each in given)
    held = [state]

    def make(n: int) -> None:
        number = np.int32(n) if members is None else np.full(count, n, np.int32)
        held[0] = jax.block_until_ready(engine.send(program, held[0], data, *fixed, number)[0])

    make(1)
    return Way(make, task_chunk, mesh.size)


def bench(run: Run, members: int) -> dict[str, Any]:
    """Times `members` runs in one program in turn with one alone. Raises ConfigError and DataError.

    Ratios are medians over the rounds; the gain is how many times as much is done in the same time.
    """
    alone, together = way(run, None), way(run, members)
    before = machine.cores()
    one = min(alone.timed(1).clock for _ in range(3))
    rounds = [
        (alone.timed(max(1, int(SECONDS / one))), together.timed(max(1, int(SECONDS / one / members))))
        for _ in range(ROUNDS)
    ]
    times = statistics.median(all_of.clock / single.clock for single, all_of in rounds)
    processor = statistics.median(all_of.processor / single.processor for single, all_of in rounds)
    others, device = machine.taken_by_others(before, machine.cores()), jax.devices()[0]
    return {
        "run": run.info.name,
        "runs": members,
        "meta_batch": run.train.meta_batch,
        "seconds_alone": statistics.median(single.clock for single, _ in rounds),
        "seconds_together": statistics.median(all_of.clock for _, all_of in rounds),
        "times_one_alone": times,
        "gain": members / times,
        "gain_in_processor_time": members / processor,
        "task_chunk": [alone.task_chunk, together.task_chunk],
        "devices": together.devices,
        "device": f"{device.platform} {device.device_kind}",
        "cores_taken_by_others": others,
        "busy": machine.is_busy(others),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def tell(found: dict[str, Any]) -> None:
    """A line for who reads it, on a terminal, and one of JSON on standard output."""
    if sys.stdout.isatty() or sys.stderr.isatty():
        print(
            f"{found['runs']} runs in one program: {1000 * found['seconds_together']:.3g} ms a meta-step of all, "
            f"{found['times_one_alone']:.2f} times one alone ({1000 * found['seconds_alone']:.3g} ms); "
            f"{found['gain']:.2f} times as much in the same time",
            file=sys.stdout if sys.stdout.isatty() else sys.stderr,
        )
    if found["busy"]:
        stderr.say(f"{busy_line(found['cores_taken_by_others'])}\n")
    print(json.dumps(found), flush=True)
