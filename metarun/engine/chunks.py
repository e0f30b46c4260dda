"""How many tasks a device computes at once: measured once, remembered, and less where memory does not suffice."""

import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metarun import machine
from metarun.core import Key, PyTree, State
from metarun.engine import hosts
from metarun.engine.compiled import Program
from metarun.engine.hardware import Hardware
from metarun.engine.keys import INIT, of_first_state, stream
from metarun.engine.memory import free_host_bytes
from metarun.engine.meta_step import Numbers
from metarun.engine.net import episode_size
from metarun.engine.program import Programs, Shape, programs
from metarun.engine.send import copied, placed, send
from metarun.engine.source import for_episodes
from metarun.files import cache_dir, write_atomically

log = logging.getLogger("metarun")

# A run that takes less than this does not win back what measuring costs: some compilations of a few seconds.
WORTH_MEASURING_S = 120.0
CLEARLY_FASTER = 0.97
CALLS, SECONDS_A_CALL = 3, 0.2  # of each of two sizes that are compared


class OutOfMemory(Exception):
    """A program needs more memory than there is."""


def until_it_fits(
    shape: Shape, mesh: Mesh, task_chunk: int, allowed: Sequence[int], attempt: Callable[[Programs], PyTree]
) -> tuple[PyTree, int]:
    """`attempt` with chunks of `task_chunk`, or of half as many until the memory suffices; and the chunk it took.

    Smaller ones are of the `allowed` sizes.
    """
    while True:
        try:
            with out_of_memory():
                return jax.block_until_ready(attempt(programs(shape, mesh, task_chunk))), task_chunk
        except OutOfMemory:
            smaller = [n for n in allowed if n <= task_chunk // 2]
            if not smaller:
                raise
            log.info(f"{task_chunk} tasks at once on a device need more memory than there is; with {max(smaller)} then")
            task_chunk = max(smaller)


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Raises OutOfMemory for jax's error that says so."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise OutOfMemory(str(error)) from error
        raise


def must_fit(meta_steps: Program, mesh: Mesh, *arguments: PyTree) -> None:
    """Compiles `meta_steps` and raises OutOfMemory if it needs more than is free.

    A GPU says so itself when it runs out. A CPU does not: it takes until the machine swaps or the program is killed.
    """
    with out_of_memory():
        needed = meta_steps.executable(*arguments).temporary_bytes
    free = free_of_cpu(mesh)
    if free is None or needed is None:  # XLA does not tell everywhere
        return
    most = 2 * needed * len(mesh.local_devices)  # while a call runs, the next one is sent
    if most > free:
        raise OutOfMemory(f"{most / 2**30:.1f} GiB where {free / 2**30:.1f} are free")


def free_of_cpu(mesh: Mesh) -> int | None:
    """What a CPU's devices may still take together; None of others, and where unknown."""
    return hosts.agreed(free_host_bytes()) if mesh.devices.flat[0].platform == "cpu" else None


def first_state(shape: Shape, mesh: Mesh, data: PyTree, numbers: Numbers, seed: int) -> State:
    """The state before the first meta-step, on every device of the mesh.

    Raises OutOfMemory, before anything is compiled or drawn, for one that is larger than what is free.
    """
    start, k_init = programs(shape, mesh, 1).start, stream(seed, INIT)
    arguments = (for_episodes(shape.tasks, data, of_first_state, k_init, np.zeros(1)), numbers, k_init)
    size = start.output_bytes(*arguments)
    free, here = free_of_cpu(mesh), len(mesh.local_devices)
    if free is not None and size * here > free:
        each = f"{size / 2**30:,.1f} GiB of parameters and optimizer's state on each of {here} devices"
        raise OutOfMemory(f"{each}, where {free / 2**30:.1f} are free")
    with out_of_memory():
        return placed(send(start, *arguments), mesh)


def shapes_of_first_state(shape: Shape, mesh: Mesh, data: PyTree, numbers: Numbers) -> State:
    """The shapes of the state before the first meta-step; `data` are as they were loaded. No device is touched."""
    return jax.eval_shape(programs(shape, mesh, 1).start.jitted, data, numbers, stream(0, INIT))


def sizes(meta_batch: int, mesh: Mesh) -> list[int]:
    """The chunks that share out a device's tasks evenly, in order."""
    local = meta_batch // mesh.shape["tasks"]
    return [n for n in range(1, local + 1) if local % n == 0]


class Training(NamedTuple):
    """What a call of the meta-steps is given, but for their number."""

    state: State
    data: PyTree  # as the source has them for the first meta-step
    numbers: Numbers
    k_train: Key


def choose_chunk(
    shape: Shape, mesh: Mesh, hardware: Hardware, training: Training, steps_left: int, settings: Mapping[str, Any]
) -> int:
    """The chunk for a run on this machine: the setting, else the fastest one known, else the fastest one measured.

    Measuring begins with a guess and goes down from it while that is clearly faster, or else up. A run that is short
    takes the guess. What was found is kept in the cache directory, for device, versions, shapes and `settings`, which
    are those that shape the programs; but not if others took cores meanwhile, for then times are theirs as well.
    """
    size = episode_size(shape.tasks, training.data)
    guess = hardware.chunk(shape.meta_batch // mesh.size, size, mesh.devices.flat[0].platform)
    if hardware.task_chunk != "auto":
        return guess
    key = circumstances(mesh, hardware.precision, training.data, settings)
    path = cache_dir() / "task_chunk" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    allowed = sizes(shape.meta_batch, mesh)
    if (known := hosts.agreed(remembered(path))) in allowed:
        return known
    if len(allowed) == 1 or steps_left == 0:
        return guess

    seconds = stopwatch(shape, mesh, training)
    first = seconds(guess, 1)
    if first < WORTH_MEASURING_S / steps_left:
        return guess
    log.info(f"measuring how many tasks at once are fastest here, once; hardware.task_chunk={guess} would fix it")
    best, before, least = allowed.index(guess), machine.cores(), {guess: first}
    # Half of the tasks may be no faster, and a quarter twice as fast: what a task computes then fits into the caches.
    for direction, patience in ((-1, 1), (1, 0)):
        at, missed = best, 0
        while missed <= patience and 0 <= at + direction < len(allowed):
            at += direction
            least |= in_turn(seconds, allowed[best], allowed[at])
            if least[allowed[at]] <= CLEARLY_FASTER * least[allowed[best]]:
                best, missed = at, 0
            else:
                missed += 1
        if allowed[best] < guess:
            break
    others = machine.taken_by_others(before, machine.cores())
    if machine.is_busy(others):
        log.info(f"task_chunk={allowed[best]} was fastest, which is not remembered: {machine.in_words(others)}")
        return allowed[best]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {"task_chunk": allowed[best], "seconds_per_meta_step": least, "measured_for": key}
        write_atomically(path, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        log.info(f"the fastest chunk is not remembered: {error.filename} cannot be written ({error.strerror})")
    return allowed[best]


def remembered(path: Path) -> int | None:
    """The chunk that was once found to be fastest; None if there is no such file that can be read."""
    try:
        return int(json.loads(path.read_text())["task_chunk"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stopwatch(shape: Shape, mesh: Mesh, training: Training) -> Callable[[int, int], float]:
    """(a chunk, n) -> seconds a meta-step, of a call of n on a copy of the state.

    Infinity where memory does not suffice. What is compiled for a chunk's first call does not count.
    """
    held, *fixed = training._replace(state=copied(training.state))
    compiled: dict[int, Program] = {}

    def seconds(task_chunk: int, n: int) -> float:
        nonlocal held
        try:
            if task_chunk not in compiled:
                meta_steps = programs(shape, mesh, task_chunk).meta_steps
                must_fit(meta_steps, mesh, held, *fixed, np.int32(n))
                compiled[task_chunk] = meta_steps
            with out_of_memory():
                start = time.perf_counter()
                held = jax.block_until_ready(send(compiled[task_chunk], held, *fixed, np.int32(n))[0])
                return hosts.agreed((time.perf_counter() - start) / n)
        except OutOfMemory:
            held = copied(training.state)  # the other may have gone into the call
            return float("inf")

    return seconds


def in_turn(seconds: Callable[[int, int], float], *chunks: int) -> dict[int, float]:
    """The least seconds a meta-step of a few calls of each chunk, in turn.

    So a machine that is slow for seconds at a time is slow for all of them, and what others take is no chunk's.
    """
    n = {chunk: max(1, int(SECONDS_A_CALL / once)) for chunk in chunks if (once := seconds(chunk, 1)) < float("inf")}
    calls = [{chunk: seconds(chunk, n[chunk]) for chunk in n} for _ in range(CALLS)]
    return {chunk: min(call.get(chunk, float("inf")) for call in calls) for chunk in chunks}


def circumstances(mesh: Mesh, precision: str, data: PyTree, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the fastest chunk depends on: the device, the versions, the shapes; no learning rate, and no seed."""
    device = mesh.devices.flat[0]
    return {
        "device": f"{device.platform} {device.device_kind}",
        "devices": mesh.size,
        "cores": os.cpu_count(),
        "precision": precision,
        "versions": {name: importlib.metadata.version(name) for name in ("metarun", "jax", "jaxlib")},
        "settings": dict(sorted(settings.items())),
        "data": [list(leaf.shape) for leaf in jax.tree.leaves(data)],
    }
