"""What a meta-step of each learner costs beside FOMAML's, into docs/learners.md: `python scripts/measure_costs.py`.

Omniglot 5-way 1-shot, Conv4, on one device, 4 tasks at once, with each learner's own training episodes. Time is the
median of repeats taken in turn with FOMAML's; memory is the compiled program's temporary buffers. Keep the machine
otherwise idle.
"""

import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from jax.sharding import Mesh
from pages.marks import write_between

from metarun import engine
from metarun.config import conf_dir
from metarun.config.run import build_run, build_tasks, resolve
from metarun.config.serving import learners_for
from metarun.engine import programs
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

PAGE = Path(__file__).parents[1] / "docs" / "learners.md"
WITHOUT_TRAINING = ("nearest_neighbour", "scratch")
REPEATS, STEPS, TASKS = 5, 4, 4


def configuration(*overrides: str) -> dict[str, Any]:
    fixed = ["task=omniglot", "run.dir=RUN", "run.name=NAME", f"train.meta_batch={TASKS}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return resolve(compose("config", overrides=[*fixed, *overrides]))


def prepared(learner: str) -> tuple[Callable[[], float], int]:
    """A function that times some meta-steps (seconds a task), and the bytes of the program's temporary buffers."""
    run = build_run(configuration(f"learner={learner}"))
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    data = jax.device_put(run.tasks.load("train"))
    start, meta_steps, *_ = programs(run.shape, mesh, TASKS)
    fixed = (data, run.numbers, engine.stream(0, engine.TRAIN))
    state = start(data, run.numbers, engine.stream(0, engine.INIT))
    compiled = meta_steps.jitted.lower(state, *fixed, jnp.int32(STEPS)).compile()
    held = [compiled(state, *fixed, jnp.int32(1))[0]]

    def timed() -> float:
        jax.block_until_ready(held[0])
        start = time.perf_counter()
        held[0] = jax.block_until_ready(compiled(held[0], *fixed, jnp.int32(STEPS))[0])
        return (time.perf_counter() - start) / STEPS / TASKS

    return timed, compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    reference, reference_bytes = prepared("fomaml")
    rows = []
    config = configuration()
    served = learners_for(build_tasks(config), config)
    for learner in [name for name in served if name not in WITHOUT_TRAINING]:
        timed, size = prepared(learner)
        ratios = [timed() / reference() for _ in range(REPEATS)]
        rows.append((statistics.median(ratios), size / reference_bytes, learner))
        print(f"{learner:<20}{rows[-1][0]:8.2f}{rows[-1][1]:8.2f}", file=sys.stderr, flush=True)
    lines = ["| learner | time of a task | memory of a task |", "| --- | --- | --- |"]
    lines += [f"| `{learner}` | {ratio:.2f} | {memory:.2f} |" for ratio, memory, learner in sorted(rows)]
    lines += [
        "",
        f"Relative to FOMAML, which took {1000 * reference():.1f} ms and {reference_bytes / TASKS / 2**20:.1f} MiB "
        f"a task; one {jax.devices()[0].device_kind} device, commit {commit_in_words(commit())}, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}. `python scripts/measure_costs.py`",
    ]
    write_between(PAGE, "costs", "\n".join(lines))


if __name__ == "__main__":
    main()
