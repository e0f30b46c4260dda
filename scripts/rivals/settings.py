"""What is measured beside PyTorch: the settings, and both sides of each. Without PyTorch until it is measured."""

import dataclasses
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import jax
import numpy as np
from hydra import compose, initialize_config_dir
from jax.sharding import Mesh

from metarun import engine
from metarun.config import conf_dir
from metarun.config.run import Run, build_run, resolve
from metarun.core import Episode, Key, PyTree
from metarun.engine.speed import flops

SECONDS = 0.3  # at least, of a time that is taken


class Setting(NamedTuple):
    """One table of docs/benchmarks.md."""

    key: str
    title: str
    overrides: tuple[str, ...]  # of metarun's configuration
    module: str  # of the rival
    target_gflop: float | None = None  # what the project's target counts for a meta-step

    @property
    def rival(self) -> Any:
        """A rivals.rival.Rival."""
        return import_module(f"rivals.{self.module}")


MAML = ("learner=maml", "learner.inner_lr=0.04")
FIRST_ORDER, FIVE_STEPS = "learner.first_order=true", "learner.inner_steps=5"
SETTINGS = (
    # 10.9 GFLOP: support pass, query pass and Hessian-vector product, none of whose products serves two of them.
    Setting("maml", "MAML, 1 inner step, 32 tasks", (*MAML, "train.meta_batch=32"), "torch_maml", 10.9),
    Setting(
        "fomaml", "first-order MAML, 1 inner step, 32 tasks", (*MAML, FIRST_ORDER, "train.meta_batch=32"), "torch_maml"
    ),
    Setting("maml_5", "MAML, 5 inner steps, 16 tasks", (*MAML, FIVE_STEPS, "train.meta_batch=16"), "torch_maml"),
    Setting(
        "mamlpp", "MAML++, 5 inner steps, 16 tasks",
        ("learner=mamlpp", "learner.inner_lr=0.04", "train.meta_batch=16"), "torch_mamlpp",
    ),
    Setting(
        "imaml", "iMAML, 16 inner steps and 5 of conjugate gradients, 16 tasks",
        ("learner=imaml", "train.meta_batch=16"), "torch_imaml",
    ),
    Setting("reptile", "Reptile, 5 inner steps of 10 images, 5 tasks", ("learner=reptile",), "torch_reptile"),
    Setting("protonet", "ProtoNet, 20-way 1-shot, 5 queries a class, 4 tasks", ("learner=protonet",), "torch_protonet"),
    Setting(
        "protonet_pooled", "ProtoNet with max-pooling, as in its paper, 20-way 1-shot, 5 queries a class, 4 tasks",
        ("learner=protonet", "model=conv4_maxpool", "model.filters=64"), "torch_protonet_pooled",
    ),
    Setting("mann", "MANN, sequences of 50 images, 16 tasks", ("learner=mann",), "torch_recurrent"),
    Setting("lstm", "LSTM, sequences of 50 images, 16 tasks", ("learner=lstm",), "torch_recurrent"),
    Setting("attention", "attention, 32 tasks", ("learner=attention",), "torch_attention"),
)  # fmt: skip


def run_of(*overrides: str, tasks: Any = None, hardware: str = "cpu") -> Run:
    """A checked run on Omniglot, 5-way 1-shot with one query a class, or on `tasks`."""
    fixed = ["run.dir=RUN", "run.name=NAME", "task=omniglot", "task.queries=1", f"hardware={hardware}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = build_run(resolve(compose("config", overrides=[*fixed, *overrides])))
    return run if tasks is None else dataclasses.replace(run, tasks=tasks, eval_tasks=tasks)


class Metarun(NamedTuple):
    """metarun's meta-steps, compiled: sampling, adaptation, meta-gradient and update."""

    seconds: Callable[[], float]  # of a meta-step
    gflop: float
    temporary_mb: float  # of all devices
    mesh: Mesh
    task_chunk: int


def metarun(run: Run, task_chunk: int | None = None, devices: int | None = None) -> Metarun:
    """`task_chunk` None: as many tasks at once as a run would take on this machine."""
    mesh = run.hardware.set_up(run.train.meta_batch)
    if devices is not None:
        mesh = Mesh(mesh.devices[:devices], ("tasks",))
    data = engine.placed(run.tasks.load("train"), mesh)
    state = engine.first_state(run.shape, mesh, data, run.numbers, 0)
    training = engine.Training(state, data, run.numbers, engine.stream(0, engine.TRAIN))
    if task_chunk is None:
        task_chunk = engine.choose_chunk(run.shape, mesh, run.hardware, training, run.train.steps, run.shaping)
    held, *fixed = training
    compiled = engine.programs(run.shape, mesh, task_chunk).meta_steps.jitted.lower(held, *fixed, np.int32(1)).compile()
    n = 1

    def seconds() -> float:
        nonlocal held
        begin = time.perf_counter()
        held = jax.block_until_ready(compiled(held, *fixed, np.int32(n))[0])
        return (time.perf_counter() - begin) / n

    seconds()
    n = max(1, int(SECONDS / seconds()))
    memory = compiled.memory_analysis().temp_size_in_bytes * mesh.size / 2**20
    return Metarun(seconds, mesh.size * flops(compiled.as_text()) / 1e9, memory, mesh, task_chunk)


def drawn(run: Run, tasks: int) -> tuple[PyTree, Episode, Key]:
    """What is meta-learned, at the start; so many of the run's episodes; and a key for each."""
    net, _ = engine.nets(run.shape)
    sample = jax.jit(jax.vmap(run.tasks.sample, (None, 0)))
    episodes = sample(run.tasks.load("train"), jax.random.split(jax.random.key(1), tasks))
    init = jax.jit(lambda key, x: run.learner.init(net, key, x))
    return init(jax.random.key(0), episodes.support.x[0]), episodes, jax.random.split(jax.random.key(2), tasks)


def rows_of(rival: Any, run: Run, params: PyTree, episodes: Episode, keys: Key) -> tuple[dict[str, Any], Any]:
    """The rival's weights and its rows, where the run computes: a GPU's, or the CPU's."""
    import torch

    with torch.device("cuda" if run.hardware.platform == "gpu" else "cpu"):
        weights = rival.weights(params)
        return weights, rival.rows(run.learner, weights, episodes, keys)


def theirs(rival: Any, run: Run) -> dict[str, Callable[[], float]]:
    """Name -> a function that times one meta-step of each of the rival's rows (seconds), each on weights of its own."""
    import torch

    params, episodes, keys = drawn(run, run.train.meta_batch)
    done = torch.cuda.synchronize if run.hardware.platform == "gpu" else torch.cpu.synchronize

    def timer(name: str) -> Callable[[], float]:
        weights, rows = rows_of(rival, run, params, episodes, keys)
        row = rows[name]
        optimizer = rival.update(list(weights.values())) if rival.update else None

        def meta_step() -> None:
            _, grads = row()
            if optimizer is not None:
                for path, value in weights.items():
                    value.grad = grads[path]
                optimizer.step()

        n = 1

        def seconds() -> float:
            begin = time.perf_counter()
            for _ in range(n):
                meta_step()
            done()
            return (time.perf_counter() - begin) / n

        seconds()
        n = max(1, int(SECONDS / seconds()))
        return seconds

    return {name: timer(name) for name in rows_of(rival, run, params, episodes, keys)[1]}
