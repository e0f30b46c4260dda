"""metarun beside what one would run instead, in PyTorch, into docs/benchmarks.md: `make bench`.

One process measures all in turn, on the CPU: PyTorch as a Python loop over tasks with torch.autograd.grad, with
`higher`, and with torch.func.vmap over tasks, each with the same network, weights and episodes, checked to give the
same loss and meta-gradient. metarun's times include sampling the episodes and the outer update; PyTorch's do not.
Then: how metarun's time and memory grow. Needs the extra `bench`, Omniglot, and a machine that is otherwise idle for
about 10 minutes.
"""

import datetime
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from pages.speed import compare
from rivals.torch_maml import Episodes, Setting, to_torch, torch_rows

from metarun import engine
from metarun.config import conf_dir
from metarun.config.run import Run, build_run, resolve
from metarun.core import Array, Episode, Key, Metrics, PyTree
from metarun.engine import programs
from metarun.engine.net import make_net
from metarun.engine.speed import flops, matrix_product
from metarun.losses import cross_entropy
from metarun.run import results
from metarun.run.figures import commit_in_words
from metarun.tasks.episode import by_class

DOCS = Path(__file__).parents[1] / "docs"
ROUNDS = 7


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


SETTINGS = (
    Setting("MAML, 1 inner step, 32 tasks", 32, 1, True),
    Setting("first-order MAML, 1 inner step, 32 tasks", 32, 1, False),
    Setting("MAML, 5 inner steps, 16 tasks", 16, 5, True),
)


def run_of(*overrides: str, tasks: Any = None) -> Run:
    fixed = ["run.dir=RUN", "run.name=NAME", "task=omniglot", "task.queries=1", "hardware=cpu"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = build_run(resolve(compose("config", overrides=[*fixed, *overrides])))
    return run if tasks is None else run.__class__(**{**vars(run), "tasks": tasks, "eval_tasks": tasks})


def overrides_of(setting: Setting) -> list[str]:
    first_order = str(not setting.second_order).lower()
    return [
        f"train.meta_batch={setting.tasks}", f"learner.inner_steps={setting.inner_steps}",
        f"learner.first_order={first_order}", "learner.inner_lr=0.04",
    ]  # fmt: skip


class Metarun(NamedTuple):
    seconds: Callable[[], float]  # of a meta-step
    gflop: float
    temporary_mb: float  # of all devices
    devices: int


def metarun(run: Run, task_chunk: int, devices: int | None = None) -> Metarun:
    mesh = run.hardware.set_up(run.train.meta_batch)
    if devices is not None:
        mesh = jax.sharding.Mesh(mesh.devices[:devices], ("tasks",))
    data = run.tasks.load("train")
    start, meta_steps, *_ = programs(run.shape, mesh, task_chunk)
    fixed = (data, run.numbers, engine.stream(0, engine.TRAIN))
    held = [start(data, run.numbers, engine.stream(0, engine.INIT))]
    compiled = meta_steps.jitted.lower(held[0], *fixed, jnp.int32(1)).compile()
    n = 1

    def seconds() -> float:
        begin = time.perf_counter()
        held[0] = jax.block_until_ready(compiled(held[0], *fixed, jnp.int32(n))[0])
        return (time.perf_counter() - begin) / n

    seconds()
    n = max(1, int(0.3 / seconds()))
    memory = compiled.memory_analysis().temp_size_in_bytes * mesh.size / 2**20
    return Metarun(seconds, mesh.size * flops(compiled.as_text()) / 1e9, memory, mesh.size)


def compared(setting: Setting) -> list[tuple[str, float, float, str]]:
    """Rows (name, median milliseconds, times metarun's median, note) of one setting."""
    run = run_of(*overrides_of(setting))
    data = run.tasks.load("train")
    net = make_net(run.model, run.tasks, run.tasks.n_out)
    params = jax.jit(lambda k: run.learner.init(net, k, jnp.ones((5, 28, 28, 1))))(jax.random.key(0))
    episodes = jax.jit(jax.vmap(run.tasks.sample, (None, 0)))(data, jax.random.split(jax.random.key(1), setting.tasks))
    keys = jax.random.split(jax.random.key(2), setting.tasks)
    meta_grad = jax.jit(lambda params: run.learner.meta_grad(net, params, episodes, keys, jnp.int32(0)))
    expected, metrics = meta_grad(params)

    x = [torch.tensor(np.array(b.x)).permute(0, 1, 4, 2, 3).contiguous() for b in (episodes.support, episodes.query)]
    labels = torch.tensor(np.array(episodes.support.y[0])).long()
    step_size = run.learner.inner_lr * (5 if run.learner.inner_loss == "sum_over_shots" else 1)  # type: ignore[attr-defined]
    rows = torch_rows(setting, to_torch(params), Episodes(x[0], x[1], labels), step_size)
    for name, row in rows.items():
        value, grads = row()
        np.testing.assert_allclose(float(value), float(metrics["loss"]), rtol=1e-4, err_msg=name)
        pairs = [(grads[path], leaf) for path, leaf in to_torch(expected).items()]
        apart = sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(b.square().sum()) for _, b in pairs)
        if apart > 0.01**2:
            raise AssertionError(f"{name}: its meta-gradient is {apart**0.5:.1%} from metarun's")

    def seconds(row: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        row()
        return time.perf_counter() - begin

    ours = metarun(run, 1)
    mesh = run.hardware.set_up(run.train.meta_batch)
    timers = {"metarun": ours.seconds} | {name: (lambda row=row: seconds(row)) for name, row in rows.items()}
    found: dict[str, list[float]] = {name: [] for name in timers}
    peaks = []
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            found[name].append(timer())
        peaks.append(matrix_product(mesh, None))
    times = compare(found, "metarun")
    peak = statistics.median(peaks)
    share = ours.gflop / (times["metarun"].ms / 1000) / peak
    note = f"{ours.gflop:.1f} GFLOP; {share:.0%} of the {peak:.0f} GFLOP/s of a large matrix product"
    return [(name, *of_row, note if name == "metarun" else "") for name, of_row in times.items()]


def growth() -> dict[str, list[tuple[float, float, float]]]:
    """What is varied -> (its value, milliseconds a meta-step, MB of temporary buffers)."""

    def at(value: float, tasks: Any, *overrides: str, devices: int | None = None) -> tuple[float, float, float]:
        row = metarun(run_of(*overrides, tasks=tasks), 1, devices)
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


def memory_at_five_steps() -> str:
    ours = metarun(run_of("train.meta_batch=16", "learner.inner_steps=5"), 1)
    other = run_of("train.meta_batch=16", "learner.inner_steps=5", "inner.mode=reverse", "inner.unroll=1")
    theirs = metarun(other, 16 // ours.devices)
    return (
        f"Temporary buffers at 5 inner steps and 16 tasks: {ours.temporary_mb:.0f} MB as by default, "
        f"{theirs.temporary_mb:.0f} MB reverse over reverse without chunks, "
        f"{theirs.temporary_mb / ours.temporary_mb:.1f} times as much."
    )


def soak() -> str:
    """100,000 meta-steps on sine waves: the rate and the memory of each tenth."""
    run = run_of("task=sinusoid", "train.meta_batch=4")
    run = run_of("train.meta_batch=4", "model=mlp", tasks=run.tasks)
    mesh = run.hardware.set_up(4)
    start, meta_steps, *_ = programs(run.shape, mesh, 2)
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
    return (
        f"100,000 meta-steps on sine waves: {min(rates):.0f} to {max(rates):.0f} meta-steps/s over its tenths, first "
        f"{rates[0]:.0f}, last {rates[-1]:.0f}; the process's peak memory grew by {peaks[-1] - peaks[0]:.1f} MB."
    )


def draw(found: dict[str, list[tuple[float, float, float]]]) -> None:
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
            for name, series in lines.items():
                values = np.array(found[series])
                axes[of, column].plot(values[:, 0], values[:, 1 + of], marker="o", markersize=3.5, label=name)
            axes[of, column].set(ylim=(0, None), ylabel=unit if column == 0 else "", xlabel=label if of else "")
            axes[of, column].set_xticks(values[:, 0])
            if len(lines) > 1:
                axes[of, column].legend(frameon=False)
    figure.savefig(DOCS / "benchmarks.svg", metadata={"Date": None})


def main() -> None:
    made = commit_in_words(results.commit())  # before this writes anything
    torch.manual_seed(0)
    jax.config.update("jax_default_matmul_precision", "highest")
    run_of().hardware.set_up(32)
    torch.set_num_threads(jax.device_count())
    lines = []
    for setting in SETTINGS:
        print(setting.name, file=sys.stderr, flush=True)
        lines += ["", f"## {setting.name}", "", "| | ms | times metarun's | |", "| --- | --- | --- | --- |"]
        lines += [f"| {name} | {ms:.1f} | {ratio:.1f} | {note} |" for name, ms, ratio, note in compared(setting)]
    print("growth", file=sys.stderr, flush=True)
    found = growth()
    draw(found)
    tasks = np.array(found["tasks"])
    a_task = tasks[:, 1] / tasks[:, 0]
    lines += [
        "", "## How it grows", "",
        "![time and memory by tasks, inner steps, image side and devices](benchmarks.svg)", "",
        f"Milliseconds a task, with {', '.join(str(int(n)) for n in tasks[:, 0])} tasks a meta-step: "
        f"{', '.join(f'{ms:.2f}' for ms in a_task)}. Inner steps are in a loop here (`inner.unroll=1`), 8 tasks; "
        "images 8 tasks; devices 32 tasks; one task at once on each device throughout.",
        "", memory_at_five_steps(), "", soak(),
    ]  # fmt: skip
    versions = f"jax {jax.__version__}, torch {torch.__version__}, higher 0.2.1, Python {platform.python_version()}"
    cpu = next(
        (ln.split(":")[1].strip() for ln in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in ln), "?"
    )
    head = f"""# Speed beside PyTorch

`make bench` wrote this page on {datetime.date.today()}, from commit {made}, on {jax.device_count()} cores of
{cpu}, float32, {versions}.

The network is `conv4` with 64 filters, images are 28 x 28, tasks 5-way 1-shot with one query a class. Every row has the
same weights and episodes and was checked to give the same loss and meta-gradient. metarun's time includes drawing the
episodes and the outer update, PyTorch's has neither. Medians of {
        ROUNDS
    } rounds, rows in turn; "times metarun's" is the ratio of two medians."""
    (DOCS / "benchmarks.md").write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
