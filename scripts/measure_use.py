"""How long it takes to adapt to a task and to predict, beside PyTorch: a table, as docs/use-speed.md has it.

    python scripts/measure_use.py [--rounds 200] [--rows protonet,maml]

A 5-way 1-shot task of 28 x 28 images, five queries, Conv4 of 64 filters; MAML with 5 inner steps. PyTorch does what
learn2learn does: it clones the parameters, takes the steps by autograd, and predicts all queries in one batch. The two
take turns, STRETCH tasks each, and must agree on most of them. `the first` is of a fresh process whose programs were
compiled before, from its start, with all imports. Seconds of the processor are told too, as others may use the cores.
torch is in the extra `bench`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarun import engine, machine
from metarun.command.from_python import run_of
from metarun.learned import Learned, keep, load
from metarun.run.purpose import Purpose

SHAPE = (28, 28, 1)
ROWS = {"protonet": ("learner=protonet",), "maml": ("learner=maml", "learner.inner_steps=5")}
LABELS = np.arange(5)
STRETCH = 20  # tasks in a row, as when one of the two is used by itself
PAUSE = 0.1  # seconds between: PyTorch's threads spin for some milliseconds after a call, on whoever is next's core
ALONE, TOGETHER = "metarun, queries alone", "metarun, queries together"

FIRST = """
import numpy, metarun
learner = metarun.load({directory!r})
x = numpy.random.default_rng(0).normal(size=(5, 28, 28, 1)).astype("float32")
learner.adapt(x, list("abcde")).predict_proba(x)
"""


def kept(name: str, directory: Path) -> Learned:
    """A learner with the parameters that training begins with, in a directory."""
    run = run_of(["task=strokes", "model=conv4", *ROWS[name]])
    net = engine.nets(run.shape)[0]
    params = jax.jit(lambda key: run.learner.init(net, key, jax.numpy.zeros((5, *SHAPE))))(jax.random.key(1))
    purpose = Purpose(SHAPE, "float32", "accuracy", 5, None)
    keep(Learned(run.config, purpose, jax.device_get(params), {}), directory)
    return load(directory)


def first(directory: Path) -> tuple[float, float]:
    """Seconds of a fresh process that adapts and predicts once: on the clock, and of the processor."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", FIRST.format(directory=str(directory))], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, own


def ours(learned: Learned, queries: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda support, query: learned.adapt(support, LABELS).outputs(query, queries)


def in_torch(name: str, learned: Learned) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """The same in PyTorch, or nothing if it is not here."""
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        return {}
    from rivals.torch_conv4 import features, forward, images, to_torch, under

    weights, y = to_torch(learned.params), torch.tensor(LABELS)
    learner: Any = learned.parts.learner

    def protonet(support: np.ndarray, query: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            own = under(weights, "embedding/")
            centers, z = features(own, images(support)), features(own, images(query))
            return (-torch.cdist(z, centers).square() / learner.temperature).numpy()

    # sum_over_shots, its inner loss, is ways times the mean over the support set
    step_size = learner.inner_lr * len(LABELS) if name == "maml" else None

    def maml(create_graph: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def one(support: np.ndarray, query: np.ndarray) -> np.ndarray:
            x = images(support)
            fast = {path: value.clone().requires_grad_() for path, value in weights.items()}
            for _ in range(learner.inner_steps):
                loss = F.cross_entropy(forward(fast, x), y)
                grads = torch.autograd.grad(loss, list(fast.values()), create_graph=create_graph)
                fast = {path: v - step_size * g for (path, v), g in zip(fast.items(), grads, strict=True)}
                if not create_graph:
                    fast = {path: value.detach().requires_grad_() for path, value in fast.items()}
            with torch.no_grad():
                return forward(fast, images(query)).numpy()

        return one

    if name == "protonet":
        return {"PyTorch": protonet}
    return {
        "PyTorch": maml(False),
        "PyTorch, as learn2learn by default, with a graph of second derivatives": maml(True),
    }


def scores(outputs: np.ndarray) -> np.ndarray:
    """Logits up to what a softmax does not tell."""
    return outputs - outputs.max(1, keepdims=True)


def measured(name: str, rounds: int, directory: Path) -> list[str]:
    """The rows of a learner."""
    learned = kept(name, directory)
    each: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        ALONE: ours(learned, "alone"),
        TOGETHER: ours(learned, "together"),
        **in_torch(name, learned),
    }
    draw = np.random.default_rng(0).normal
    for one in each.values():
        one(np.zeros((5, *SHAPE), np.float32), np.zeros((5, *SHAPE), np.float32))
    wall: dict[str, list[float]] = {row: [] for row in each}
    cpu: dict[str, list[float]] = {row: [] for row in each}
    apart: list[float] = []  # what lies between the two, each time
    for first_of_stretch in range(0, rounds, STRETCH):
        tasks = draw(size=(min(STRETCH, rounds - first_of_stretch), 2, 5, *SHAPE)).astype(np.float32)
        found: dict[str, list[np.ndarray]] = {row: [] for row in each}
        for row, one in each.items():
            time.sleep(PAUSE)
            for support, query in tasks:
                began, before = time.perf_counter(), time.process_time()
                found[row].append(one(support, query))
                wall[row].append(1e3 * (time.perf_counter() - began))
                cpu[row].append(1e3 * (time.process_time() - before))
        for row in found:
            if row.startswith("PyTorch"):
                pairs = zip(found[row], found[TOGETHER], strict=True)
                apart += [abs(scores(theirs) - scores(own)).max() for theirs, own in pairs]
    # Five steps may multiply a rounding by thousands: PyTorch is 0.04 from its own float64 on 1 of 200 such tasks.
    assert not apart or np.median(apart) < 1e-4, f"PyTorch computes something else: {np.median(apart)}"
    least, own = (min(seconds) for seconds in zip(*(first(directory) for _ in range(3)), strict=True))
    firsts = dict.fromkeys(each, "") | {ALONE: f"{least:.1f} s ({own:.1f} s of the processor)"}
    times = {row: (statistics.median(wall[row]), min(wall[row]), statistics.median(cpu[row])) for row in each}
    return [
        f"| {name}: {row} | {firsts[row]} | {median:#.3g} ms | {least:#.3g} ms | {own:#.3g} ms |"
        for row, (median, least, own) in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rows", default=",".join(ROWS))
    asked = parser.parse_args()
    engine.prepare()
    before = machine.cores()
    print("| | the first | then, median | least | of the processor, median |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.rows.split(","):
            print("\n".join(measured(name, asked.rounds, Path(folder, name))), flush=True)

    share = machine.taken_by_others(before, machine.cores())
    print(f"\n{asked.rounds} tasks, in turn; others took {share or 0:.0%} of the cores.")


if __name__ == "__main__":
    main()
