"""A meta-step of navigation beside PyTorch's, into docs/reinforcement.md: `python scripts/bench_navigation.py`.

Both collect, adapt, collect again and take the trust region's step, by the protocol of `maml_navigation_trpo`. Before
they are timed the two are given the same trajectories, and must have the same meta-gradient and the same products with
the curvature. Needs PyTorch (the extra `bench`) and an idle machine for some minutes; `--quick` is a look.
"""

import argparse
import datetime
import importlib.metadata
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hydra import compose, initialize_config_dir
from pages.marks import write_between
from pages.tables import table
from rivals.same import SAME, double, keys_for, shifted
from rivals.settings import drawn, metarun

from metarun import engine, machine, recorded, trust_region
from metarun.config import conf_dir
from metarun.config.run import Run, build_run, resolve
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

PAGE = Path(__file__).parents[1] / "docs" / "reinforcement.md"
OURS = "metarun"


def run_of(*overrides: str) -> Run:
    """A checked run of the published protocol."""
    fixed = ["run.dir=RUN", "run.name=NAME", "experiment=maml_navigation_trpo", "hardware=cpu"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build_run(resolve(compose("config", overrides=[*fixed, *overrides])))


def rival_of(run: Run, at_once: int) -> Any:
    from rivals.torch_navigation import MetaStep

    tasks: Any = run.tasks
    learner: Any = run.learner
    outer = run.optimizer(run.numbers["optimizer"])
    assert isinstance(outer, trust_region.TrustRegion)
    return MetaStep(tasks.shots, tasks.horizon, tasks.discount, learner.inner_lr, outer.divergence, outer.iterations,
                    outer.damping, outer.backtracks, outer.shrink, at_once)  # fmt: skip


def must_be_the_same(run: Run, tasks: int = 3) -> None:
    """Raises AssertionError unless PyTorch has metarun's meta-gradient and curvature, on trajectories of metarun's."""
    import torch
    from rivals.torch_navigation import Steps, flat, leaves, weights_of

    net, _ = engine.nets(run.shape)
    environment: Any = run.tasks
    params, episodes, keys = drawn(run, tasks)
    with jax.enable_x64(True):
        params, episodes = double(params), double(episodes)
        params = jax.tree.map(shifted, params, keys_for(params))
        record = jax.jit(jax.vmap(lambda e, k: recorded.record(run.learner, net, params, e, k)))
        every = record(episodes, keys)
        problem = trust_region.problem_of(run.learner, net, params, lambda f: f(every))
        v = jax.tree.map(lambda leaf, key: jax.random.normal(key, leaf.shape, leaf.dtype), params, keys_for(params))
        elsewhere = jax.tree.map(lambda leaf, v: leaf + 0.01 * v, params, v)  # where the likelihood ratios are not 1
        loss, grads = jax.jit(jax.value_and_grad(lambda params: problem.judge(params)[0]))(elsewhere)
        curved = jax.jit(problem.curvature)(v)

    def theirs(batch: Any) -> Steps:
        def leaf(value: Any) -> Any:
            return torch.tensor(np.asarray(value)).unflatten(1, (-1, environment.horizon))

        mean, log_std = np.split(np.asarray(batch.y.outputs), 2, -1)
        return Steps(*map(leaf, (batch.x, batch.y.action, mean, log_std, batch.y.advantage, batch.y.valid)))

    supports, queries = [theirs(every.supports[0])], [theirs(every.query)]
    own = rival_of(run, tasks)
    own_loss, own_grads = own.gradient(leaves(weights_of(elsewhere)), supports, queries)
    direction = flat(list(weights_of(v).values()))
    product = own.curvature(leaves(weights_of(params)), supports, queries)
    own_curved = product(direction) - own.damping * direction
    for name, found, expected in (
        ("loss", own_loss, torch.tensor(np.asarray(loss))),
        ("meta-gradient", own_grads, flat(list(weights_of(grads).values()))),
        ("curvature", own_curved, flat(list(weights_of(curved).values()))),
    ):
        apart = float((found - expected).norm() / expected.norm())
        if not apart <= SAME:
            raise AssertionError(f"PyTorch's {name} is {apart:.1e} from metarun's")


def timer(run: Run, at_once: int) -> Any:
    """A function that times a meta-step of PyTorch's (seconds)."""
    import torch
    from rivals.torch_navigation import weights_of

    params, _, _ = drawn(run, 1)
    weights, own = weights_of(params), rival_of(run, at_once)

    def seconds() -> float:
        goals = torch.rand(run.train.meta_batch, 2) - 0.5
        begin = time.perf_counter()
        own(weights, goals)
        return time.perf_counter() - begin

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="2 rounds, and nothing is written")
    asked = parser.parse_args()
    import torch

    run = run_of()
    run.hardware.set_up(run.train.meta_batch)
    torch.set_num_threads(jax.device_count())
    torch.manual_seed(0)
    must_be_the_same(run)
    own = metarun(run)
    timers = {
        OURS: own.seconds,
        "PyTorch, one task after another": timer(run, 1),
        "PyTorch, all tasks as a batch": timer(run, run.train.meta_batch),
    }
    before = machine.cores()
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(2 if asked.quick else asked.rounds):
        for name, seconds in timers.items():
            rounds[name].append(seconds())
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    rows = [
        (name, f"{1000 * median:.0f}", f"{1000 * min(rounds[name]):.0f} to {1000 * max(rounds[name]):.0f}",
         f"{median / medians[OURS]:.1f}")
        for name, median in medians.items()
    ]  # fmt: skip
    lines = table(("a meta-step of 20 tasks", "ms", "all rounds", "times metarun's"), *rows)
    others = machine.taken_by_others(before, machine.cores())
    said = (
        f"`python scripts/bench_navigation.py`, {len(rounds[OURS])} rounds in turn, {jax.device_count()} cores, of "
        f"which others took {others:.0%}; jax {jax.__version__}, torch {importlib.metadata.version('torch')}; "
        f"{commit_in_words(commit())}, {datetime.datetime.now(datetime.UTC).date().isoformat()}."
    )
    text = "\n".join([*lines, "", said])
    print(text)
    if not asked.quick:
        write_between(PAGE, "rival", text)


if __name__ == "__main__":
    main()
