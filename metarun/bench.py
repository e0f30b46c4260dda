"""`metarun bench`: how fast meta-steps are on this machine, and how near that is to what it can do."""

import contextlib
import datetime
import importlib.metadata
import json
import re
import resource
import statistics
import sys
import time
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table

import metarun
from metarun import engine, results
from metarun.chunks import choose_chunk
from metarun.config import Run
from metarun.program import programs

REPEATS, SECONDS_PER_REPEAT = 7, 0.5
FEWER_REPEATS, LONG = 3, 10.0  # of a meta-step that takes more than so many seconds


def bench(run: Run, trace: Path | None = None) -> dict[str, Any]:
    """Times the meta-steps of `run`, sampling included; with `trace` also writes a profile of one call there.

    Raises ConfigError or DataError. Times are medians of repeats after a warm-up, with the fastest and the slowest.
    """
    data = run.tasks.load("train")
    mesh = run.hardware.set_up(run.train.meta_batch)
    everywhere = NamedSharding(mesh, P())
    data = jax.device_put(data, everywhere)
    k_train = engine.stream(run.train.seed, engine.TRAIN)
    start = programs(run, mesh, 1).start(data, run.numbers, engine.stream(run.train.seed, engine.INIT))
    held = jax.device_put(start, everywhere)
    task_chunk = choose_chunk(run, mesh, held, data)
    meta_steps = programs(run, mesh, task_chunk).meta_steps

    began = time.perf_counter()
    compiled = meta_steps.lower(held, data, run.numbers, k_train, jnp.int32(1)).compile()
    compile_s = time.perf_counter() - began

    def seconds(n: int) -> float:
        nonlocal held
        begin = time.perf_counter()
        held = jax.block_until_ready(compiled(held, data, run.numbers, k_train, jnp.int32(n))[0])
        return (time.perf_counter() - begin) / n

    seconds(1)
    one = seconds(1)
    n, repeats = max(1, int(SECONDS_PER_REPEAT / one)), REPEATS if one < LONG else FEWER_REPEATS
    # Each beside a large matrix product, so that both see the same machine, which others may be using too.
    products, unsorted = [], []
    for _ in range(repeats):
        products.append(matrix_product(mesh, run.hardware.dtype))
        unsorted.append(seconds(n))
    times = sorted(unsorted)
    if trace is not None:
        with jax.profiler.trace(str(trace)):
            seconds(n)

    median = statistics.median(times)
    gflop = mesh.size * flops(compiled.as_text()) / 1e9
    device = mesh.devices.flat[0]
    temporary = compiled.memory_analysis()
    return {
        "run": run.info.name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(held.params)),
        "meta_batch": run.train.meta_batch,
        "meta_steps_per_s": 1 / median,
        "meta_steps_per_s_range": [1 / times[-1], 1 / times[0]],
        "tasks_per_s": run.train.meta_batch / median,
        "gflop_per_meta_step": gflop,
        "gflop_per_s": gflop / median,
        "matrix_product_gflop_per_s": statistics.median(products),
        "fraction_of_matrix_product": statistics.median(
            gflop / each / product for each, product in zip(unsorted, products, strict=True)
        ),
        "temporary_mb_per_device": temporary.temp_size_in_bytes / 2**20 if temporary else None,
        "device_peak_mb": (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20 or None,
        "host_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "compile_s": compile_s,
        "task_chunk": task_chunk,
        "devices": mesh.size,
        "device": f"{device.platform} {device.device_kind}",
        "precision": run.hardware.precision,
        "inner": run.config["inner"],
        "repeats": repeats,
        "meta_steps_per_repeat": n,
        "versions": {
            "metarun": metarun.__version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        },
        "commit": results.commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def tell(found: dict[str, Any]) -> None:
    """One JSON line on standard output; where that or standard error is a terminal, a table there."""
    if sys.stdout.isatty() or sys.stderr.isatty():
        slowest, fastest = found["meta_steps_per_s_range"]
        table = Table(show_header=False, box=None)
        rows = {
            "meta-steps/s": f"{found['meta_steps_per_s']:.2f} ({slowest:.2f} to {fastest:.2f})",
            "tasks/s": f"{found['tasks_per_s']:.0f}",
            "GFLOP a meta-step": f"{found['gflop_per_meta_step']:.3g}",
            "GFLOP/s": f"{found['gflop_per_s']:.3g}, {found['fraction_of_matrix_product']:.0%} of "
            f"the {found['matrix_product_gflop_per_s']:.0f} of a large matrix product",
            "memory": f"{found['temporary_mb_per_device'] or 0:.0f} MB of temporary buffers a device, "
            f"{found['host_peak_mb']:.0f} MB of the host at most",
            "compilation": f"{found['compile_s']:.1f} s",
            "on": f"{found['devices']} x {found['device']}, {found['task_chunk']} of {found['meta_batch']} tasks "
            f"at once on each, {found['precision']}",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        Console(stderr=not sys.stdout.isatty(), highlight=False).print(table)
    print(json.dumps(found), flush=True)


def matrix_product(mesh: Mesh, dtype: str | None) -> float:
    """GFLOP/s that large matrix products reach on all of the mesh's devices together: the median of a few."""
    side = 2048 if mesh.devices.flat[0].platform == "cpu" else 8192
    shape = (mesh.size, side, side)
    one = jnp.ones(shape, dtype or jnp.float32, device=NamedSharding(mesh, P("tasks")))
    product = _product(mesh)
    jax.block_until_ready(product(one))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(product(one))
        times.append(time.perf_counter() - begin)
    return 2 * side**3 * mesh.size / statistics.median(times) / 1e9


@lru_cache(maxsize=1)
def _product(mesh: Mesh) -> Any:
    return jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=P("tasks"), out_specs=P("tasks")))


def flops(text: str) -> float:
    """Floating point operations of the matrix products in a compiled program, run once on one device.

    XLA's own cost analysis counts a loop's body once, however often it runs; this one reads the program's text and
    multiplies by the number of iterations where the program states it. A loop whose number is an argument counts once.
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
        for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
            called += [n.strip().lstrip("%") for n in group.split(",")]
        times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        total = (int(times[1]) if times else 1) * sum(of(n) for n in called)
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
