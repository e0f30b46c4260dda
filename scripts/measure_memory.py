"""How much memory a run takes on data that are larger than it may: a made-up set on the disk, deleted afterwards.

    python scripts/measure_memory.py [--gb 4] [--steps 200] [--dir FOLDER] [--data host]

Prints a JSON line: what the process had resident before the data were opened, and how much more it took at most, until
the first meta-step (the data are checked), then while programs are compiled, and after a quarter of the meta-steps.
"""

import argparse
import dataclasses
import json
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rivals.settings import run_of

from metarun.core import Count, Ways
from metarun.data import Classes, Found, Pool
from metarun.run import train
from metarun.tasks import classes

SIDE, PER_CLASS = 84, 600
CLASS_BYTES = PER_CLASS * SIDE * SIDE * 3


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """Images of noise, mapped from one file; of every six classes four are to train on."""

    ways: Ways
    shots: Count
    queries: Count
    path: str
    metric = "accuracy"

    @lru_cache  # noqa: B019
    def found(self) -> Found:
        x = np.load(self.path, mmap_mode="r")
        ends = np.array([0, 4, 5, 6]) * (len(x) // PER_CLASS) // 6
        return Found({s: self.part(x, s, *ends[i : i + 2]) for i, s in enumerate(("train", "val", "test"))}, ())

    def part(self, x: np.ndarray, split: str, start: int, end: int) -> Classes:
        first = np.arange(end - start, dtype=np.int32) * PER_CLASS
        pool = Pool(x[start * PER_CLASS : end * PER_CLASS], first, np.full(end - start, PER_CLASS, np.int32))
        return Classes(tuple(f"{split} {i}" for i in range(end - start)), pool)

    n_out = property(classes.n_out)
    check, n_classes, load, examples = classes.check, classes.n_classes, classes.load, classes.examples
    digest, sample, loss = classes.digest, classes.sample, classes.loss


def write(path: Path, n: int) -> None:
    """Noise (n * PER_CLASS, SIDE, SIDE, 3) uint8, a class at a time."""
    with path.open("wb") as file:
        head = {"descr": "|u1", "fortran_order": False, "shape": (n * PER_CLASS, SIDE, SIDE, 3)}
        np.lib.format.write_array_header_1_0(file, head)
        for i in range(n):
            file.write(np.random.default_rng(i).bytes(CLASS_BYTES))


class Resident:
    """What the process has in memory, in MB, and the most since that was last asked."""

    def __init__(self) -> None:
        self.most = 0.0
        threading.Thread(target=self.look, daemon=True).start()

    def now(self) -> float:
        return psutil.Process().memory_info().rss / 2**20

    def look(self) -> None:
        while True:
            self.most = max(self.most, self.now())
            time.sleep(0.05)

    def told(self) -> float:
        most, self.most = max(self.most, self.now()), 0.0
        return most


def measured(path: Path, steps: int, where: str) -> dict[str, Any]:
    resident = Resident()
    before = resident.told()
    run = run_of(
        "task=strokes", "model=mlp", "model.hidden=[32]", "learner=protonet", "train.meta_batch=4", "logger=none",
        f"train.steps={steps}", "eval.episodes=200", "eval.val_episodes=40", f"hardware.data={where}",
    )  # fmt: skip
    tasks = MadeUp(5, 1, 15, str(path))
    info = dataclasses.replace(run.info, dir=str(path.parent / "run"))
    run = dataclasses.replace(run, tasks=tasks, eval_tasks=tasks, info=info)
    peaks: list[float] = []
    advance = train.Loop.advance

    def watched(loop: Any, *given: Any) -> Any:
        if loop.step >= (0, steps // 4, steps)[len(peaks)]:
            peaks.append(resident.told())
        return advance(loop, *given)

    train.Loop.advance = watched  # type: ignore[assignment, method-assign]
    found = train.train(run)
    peaks.append(resident.told())
    start, compiling, running = (round(peak - before) for peak in peaks)
    return {
        "data_mb": path.stat().st_size // 2**20,
        "meta_steps": steps,
        "data": where,
        "resident_before_mb": round(before),
        "more_until_the_first_meta_step_mb": start,
        "more_until_a_quarter_is_done_mb": compiling,
        "more_from_then_on_mb": running,
        "accuracy": found["test"]["accuracy"]["mean"],  # of noise
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--data", choices=("auto", "device", "host"), default="host")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        path = Path(folder) / "x.npy"
        write(path, max(60, int(given.gb * 2**30 / CLASS_BYTES)))
        print(json.dumps(measured(path, given.steps, given.data)))


if __name__ == "__main__":
    main()
