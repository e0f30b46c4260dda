"""`metarun bench [--trace DIR] [overrides]`: how fast meta-steps are on this machine."""

import datetime
import importlib.metadata
import json
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import metarun
from metarun import engine, machine, stderr
from metarun.config.run import Run
from metarun.run.provenance import commit


def bench(run: Run, trace: Path | None = None) -> dict[str, Any]:
    """Times the meta-steps of `run`; with `trace` also writes a profile of some there.

    Raises ConfigError or DataError. Times are medians of repeats, with the fastest and the slowest.
    """
    data = run.tasks.load("train")
    mesh = run.hardware.set_up(run.train.meta_batch)
    data = engine.held(run.hardware.data, {"train": (run.tasks, data)}, mesh)["train"]
    engine.must_be_whole(run.shape.selection, data, run.hardware.data)
    state = engine.first_state(run.shape, mesh, data, run.numbers, run.train.seed)
    k_train = engine.stream(run.train.seed, engine.TRAIN)
    parts = engine.in_parts(run.tasks, data, engine.of_meta_step, k_train, run.train.meta_batch)
    training = engine.Training(state, parts.at(0)[0], run.numbers, k_train)
    task_chunk = engine.choose_chunk(run.shape, mesh, run.hardware, training, run.train.steps, run.shaping)
    meta_steps = engine.programs(run.shape, mesh, task_chunk).meta_steps
    parameters = engine.size_of(run.learner, state.params)
    speed = engine.measure(meta_steps, mesh, training, parts, run.hardware.dtype, trace)
    median, device = statistics.median(speed.seconds), mesh.devices.flat[0]
    return {
        "run": run.info.name,
        "parameters": parameters,
        "meta_batch": run.train.meta_batch,
        "meta_steps_per_s": 1 / median,
        "meta_steps_per_s_range": [1 / max(speed.seconds), 1 / min(speed.seconds)],
        "tasks_per_s": run.train.meta_batch / median,
        "gflop_per_meta_step": speed.gflop,
        "gflop_per_s": speed.gflop / median,
        "matrix_product_gflop_per_s": statistics.median(speed.products),
        "fraction_of_matrix_product": statistics.median(
            speed.gflop / each / product for each, product in zip(speed.seconds, speed.products, strict=True)
        ),
        "temporary_mb_per_device": None if speed.temporary_bytes is None else speed.temporary_bytes / 2**20,
        "device_peak_mb": (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20 or None,
        "host_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "compile_s": speed.compile_s,
        "task_chunk": task_chunk,
        "devices": mesh.size,
        "device": f"{device.platform} {device.device_kind}",
        "precision": run.hardware.precision,
        "inner": run.config["inner"],
        "cores_taken_by_others": speed.others,
        "busy": machine.is_busy(speed.others),
        "repeats": len(speed.seconds),
        "meta_steps_per_repeat": speed.meta_steps,
        "versions": {
            "metarun": metarun.__version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        },
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def tell(found: dict[str, Any]) -> None:
    """One JSON line on standard output; where that or standard error is a terminal, a table there.

    Of a machine that was busy it is said on standard error that it was.
    """
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
    if found["busy"]:
        stderr.say(f"{busy_line(found['cores_taken_by_others'])}\n")
    print(json.dumps(found), flush=True)


def busy_line(share: float | None) -> str:
    """What is said of figures that others had a share in."""
    return f"metarun: the machine is busy: {machine.in_words(share)} meanwhile; measure again when it is idle"
