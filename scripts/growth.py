"""How metarun's time and memory grow with tasks, inner steps, images and devices: a part of docs/benchmarks.md."""

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from rivals.settings import MAML, metarun, run_of

from metarun import engine
from metarun.core import Array, Episode, Key, Metrics, PyTree
from metarun.losses import cross_entropy
from metarun.tasks.episode import by_class

Series = dict[str, list[tuple[float, float, float]]]


@dataclass(frozen=True)
class Noise:
    """Episodes of random images of any size: for timing, nothing can be learned from them."""

    side: int
    queries: int = 1
    ways: int = 5
    shots: int = 1
    metric = "accuracy"

    @property
    def n_out(self) -> int:
        return self.ways

    def check(self, split: str) -> None: ...

    def n_classes(self, split: str) -> None: ...

    def load(self, split: str) -> PyTree:
        return ()

    def digest(self, split: str) -> str:
        return "noise"

    def sample(self, data: PyTree, key: Key) -> Episode:
        x = jax.random.uniform(key, (self.ways, self.shots + self.queries, self.side, self.side, 1))
        return by_class(x, self.shots, jnp.arange(self.ways))

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return cross_entropy(outputs, y)


def measured() -> tuple[dict[str, Any], Series]:
    """What docs/benchmarks.json keeps of it, and what is drawn."""
    found = series()
    kept = {
        "ms_a_task": {str(int(tasks)): ms / tasks for tasks, ms, _ in found["tasks"]},
        "memory_mb": memory_at_five_steps(),
        "soak": soak(),
    }
    return kept, found


def series() -> Series:
    """What is varied -> (its value, milliseconds a meta-step, MB of temporary buffers)."""

    def at(value: float, tasks: Any, *overrides: str, devices: int | None = None) -> tuple[float, float, float]:
        row = metarun(run_of(*MAML, *overrides, tasks=tasks), 1, devices)
        print(f"  {value}", file=sys.stderr, flush=True)
        return value, 1000 * statistics.median(row.seconds() for _ in range(5)), row.temporary_mb

    noise = Noise(28)
    steps = ("train.meta_batch=8", "inner.unroll=1")
    return {
        "tasks": [at(n, noise, f"train.meta_batch={n}") for n in (8, 16, 32, 64, 128)],
        "inner steps, mixed": [at(n, noise, *steps, f"learner.inner_steps={n}") for n in (1, 2, 5, 10, 20)],
        "inner steps, reverse": [
            at(n, noise, *steps, "inner.mode=reverse", f"learner.inner_steps={n}") for n in (1, 2, 5, 10, 20)
        ],
        "image side": [at(n, Noise(n), "train.meta_batch=8") for n in (14, 28, 56, 84)],
        "devices": [at(n, noise, "train.meta_batch=32", devices=n) for n in range(1, jax.device_count() + 1)],
    }


def memory_at_five_steps() -> dict[str, float]:
    """MB of temporary buffers at 5 inner steps and 16 tasks, and the same reverse over reverse without chunks."""
    settings = (*MAML, "train.meta_batch=16", "learner.inner_steps=5")
    ours = metarun(run_of(*settings), 1)
    other = run_of(*settings, "inner.mode=reverse", "inner.unroll=1")
    theirs = metarun(other, 16 // ours.mesh.size)
    return {
        "default": ours.temporary_mb,
        "reverse": theirs.temporary_mb,
        "times": theirs.temporary_mb / ours.temporary_mb,
    }


def soak() -> dict[str, float]:
    """100,000 meta-steps on sine waves: meta-steps/s over its tenths, and by how much the peak memory grew."""
    tasks = run_of("task=sinusoid", "train.meta_batch=4").tasks
    run = run_of("train.meta_batch=4", "model=mlp", tasks=tasks)
    mesh = run.hardware.set_up(4)
    start, meta_steps, *_ = engine.programs(run.shape, mesh, 2)
    fixed = ((), run.numbers, engine.stream(0, engine.TRAIN))
    state, _ = meta_steps(start((), run.numbers, engine.stream(0, engine.INIT)), *fixed, jnp.int32(1))
    rates, peaks = [], []
    for _ in range(10):
        begin = time.perf_counter()
        for _ in range(10):
            state, report = meta_steps(state, *fixed, jnp.int32(1000))
            jax.device_get(report.sums)
        rates.append(10_000 / (time.perf_counter() - begin))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    ends = {"slowest": min(rates), "fastest": max(rates), "first": rates[0], "last": rates[-1]}
    return ends | {"grew_mb": peaks[-1] - peaks[0]}


def draw(found: Series, file: Path) -> None:
    """The picture of the series."""
    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "metarun"}
    )
    panels = [
        ("tasks a meta-step", {"": "tasks"}),
        ("inner steps", {"mixed": "inner steps, mixed", "reverse": "inner steps, reverse"}),
        ("image side", {"": "image side"}),
        ("devices", {"": "devices"}),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), layout="constrained")
    for column, (label, lines) in enumerate(panels):
        for of, unit in enumerate(("ms a meta-step", "MB of temporary buffers")):
            for name, each in lines.items():
                values = np.array(found[each])
                axes[of, column].plot(values[:, 0], values[:, 1 + of], marker="o", markersize=3.5, label=name)
            axes[of, column].set(ylim=(0, None), ylabel=unit if column == 0 else "", xlabel=label if of else "")
            axes[of, column].set_xticks(values[:, 0])
            if len(lines) > 1:
                axes[of, column].legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})
