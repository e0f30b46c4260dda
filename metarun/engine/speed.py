"""How fast meta-steps are on this machine, and how near that is to a large matrix product."""

import contextlib
import re
import statistics
import time
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metarun import machine
from metarun.engine.chunks import Training
from metarun.engine.compiled import Program
from metarun.engine.send import send
from metarun.engine.source import Source

REPEATS, SECONDS_PER_REPEAT = 7, 0.5
FEWER_REPEATS, LONG = 3, 10.0  # of a meta-step that takes more than so many seconds


class Speed(NamedTuple):
    """What was measured of one program of meta-steps, in repeats of several meta-steps each."""

    seconds: list[float]  # a meta-step, in the order of the repeats
    products: list[float]  # GFLOP/s of a large matrix product beside each, on all devices together
    meta_steps: int  # in a repeat
    gflop: float  # a meta-step, on all devices together
    compile_s: float
    temporary_bytes: int | None  # of buffers a device; None where XLA does not tell
    others: float | None  # the share of the machine's cores that others took meanwhile; None where unknown


def measure(
    meta_steps: Program, mesh: Mesh, training: Training, parts: Source, dtype: str | None, trace: Path | None
) -> Speed:
    """Compiles and times `meta_steps`, sampling included, after a warm-up; takes the state's memory.

    From the first meta-step on, on data from `parts`.

    With `trace` a profile of one more repeat is written there.
    """
    held, data, *fixed = training
    began = time.perf_counter()
    compiled = meta_steps.jitted.lower(held, data, *fixed, np.int32(1)).compile()
    compile_s = time.perf_counter() - began

    step = 0

    def seconds(n: int) -> float:
        nonlocal held, step
        begin, end = time.perf_counter(), step + n
        while step < end:
            data, most = parts.at(step)
            held, _ = send(compiled, held, data, *fixed, np.int32(min(end - step, most)))
            step += min(end - step, most)
        jax.block_until_ready(held)
        return (time.perf_counter() - begin) / n

    seconds(1)
    one = seconds(1)
    n, repeats = max(1, int(SECONDS_PER_REPEAT / one)), REPEATS if one < LONG else FEWER_REPEATS
    # Each beside a large matrix product, so that both see the same machine, which others may be using too.
    products, times = [], []
    before = machine.cores()
    for _ in range(repeats):
        products.append(matrix_product(mesh, dtype))
        times.append(seconds(n))
    others = machine.taken_by_others(before, machine.cores())
    if trace is not None:
        with jax.profiler.trace(str(trace)):
            seconds(n)
    memory = compiled.memory_analysis()
    gflop = mesh.size * flops(compiled.as_text()) / 1e9
    return Speed(times, products, n, gflop, compile_s, memory.temp_size_in_bytes if memory else None, others)


def gflop(program: Program, mesh: Mesh, *arguments: Any) -> float | None:
    """GFLOP of the matrix products of meta-steps, each on all devices together, as `flops` has them.

    Of a program that is compiled for such arguments; None if XLA keeps no text of it.
    """
    try:
        return mesh.size * flops(program.executable(*arguments).call.as_text()) / 1e9
    except (RuntimeError, TypeError, NotImplementedError):  # jax's, of executables without it
        return None


def matrix_product(mesh: Mesh, dtype: str | None) -> float:
    """GFLOP/s that large matrix products reach on all of the mesh's devices together: the median of a few."""
    side = 2048 if mesh.devices.flat[0].platform == "cpu" else 8192
    shape = (mesh.size, side, side)
    one = jnp.ones(shape, dtype or jnp.float32, device=NamedSharding(mesh, P("tasks")))
    product = _product(mesh)
    jax.block_until_ready(send(product, one))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(send(product, one))
        times.append(time.perf_counter() - begin)
    return 2 * side**3 * mesh.size / statistics.median(times) / 1e9


@lru_cache(maxsize=1)
def _product(mesh: Mesh) -> Any:
    return jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=P("tasks"), out_specs=P("tasks")))


def flops(text: str) -> float:
    """Floating point operations of the matrix products in a compiled program, run once on one device.

    XLA's own cost analysis counts a loop's body once, however often it runs; this one reads the program's text and
    multiplies by the number of iterations where the program states it. A loop whose number is an argument, or
    follows from what it computes, counts once, and of several branches the one that takes most.
    """
    bodies = re.split(r"\n(?=%|ENTRY )", text)
    named = {match[1]: body for body in bodies if (match := re.match(r"(?:ENTRY )?%?([\w.\-]+)", body))}
    known: dict[str, float] = {}

    def of(name: str) -> float:
        if name not in known:
            known[name] = 0.0
            known[name] = sum(of_line(line, named[name]) for line in named[name].splitlines()[1:])
        return known[name]

    def of_line(line: str, body: str) -> float:
        called = [n for n in re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", line) if n in named]
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        total = (int(times[1]) if times else 1) * sum(of(n) for n in called)
        total += max(of(n.strip().lstrip("%")) for n in branches[1].split(",")) if branches else 0
        contracted = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)', line)
        operands = re.search(r"(?:\bdot|custom-call)\((?:\S*?\[[\d,]*\]\S* )?%?([\w.\-]+)", line)
        out = re.search(r"= \(?\w+\[([\d,]*)\]", line)
        if contracted and operands and out:
            lhs = re.search(rf"%?{re.escape(operands[1])} = \w+\[([\d,]*)\]", body)
            if lhs is None:  # a parameter, named in the computation's first line
                lhs = re.search(rf"\b{re.escape(operands[1])}: \w+\[([\d,]*)\]", body)
            with contextlib.suppress(IndexError):
                sides = numbers(lhs[1]) if lhs else []
                total += 2 * prod(numbers(out[1])) * prod(sides[i] for i in numbers(contracted[1].replace('"', "")))
        return total

    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    return of(entry[1]) if entry else 0.0


def numbers(text: str) -> list[int]:
    """`245,576` -> [245, 576]"""
    return [int(part) for part in text.split(",") if part]
