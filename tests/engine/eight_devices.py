"""Run by test_hardware in a process of its own: parameters on 1, 2 and 8 devices, as npz, to argv[1]."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from support import run_of

from metarun import engine
from metarun.engine import programs

jax.config.update("jax_num_cpu_devices", 8)  # before anything touches a device
run = run_of(
    "task=sinusoid", "model=mlp", "model.hidden=[8]", "model.norm=batch", "train.meta_batch=16",
    "optimizer=sgd", "optimizer.learning_rate=0.1",
)  # fmt: skip
data = run.tasks.load("train")
found = {}
for devices, task_chunk in ((1, 16), (2, 2), (8, 1)):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("tasks",))
    start, meta_steps, evaluate, *_ = programs(run.shape, mesh, task_chunk)
    state = start(data, run.numbers, engine.stream(0, engine.INIT))
    state, report = meta_steps(state, data, run.numbers, engine.stream(0, engine.TRAIN), jnp.int32(3))
    figures = evaluate(state.params, data, 11, engine.stream(0, engine.EVAL), run.numbers["eval_learner"])[0].figures
    found[f"params_{devices}"] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])
    found[f"figures_{devices}"] = np.array([report.sums["loss"], *(f["mean"] for f in figures.values())])
np.savez(sys.argv[1], **found)
