"""A meta-step whose loss, gradient or new parameters are not finite: what is kept of it, and how it is run again."""

import json
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from metarun import engine
from metarun.config.run import Run, build_run
from metarun.core import ConfigError, DataError, Metrics, State
from metarun.files import read_yaml, write_atomically
from metarun.gradients import differentiated
from metarun.run.checkpoint import restore_tree, save_tree
from metarun.run.log import finite
from metarun.text import first_line, no_option


class NotFinite(Exception):
    """The loss, its gradient or a parameter is no longer a number."""


def keep(run: Run, state: State, metrics: Metrics) -> str:
    """Keeps the state before the meta-step, and its metrics, in the run's nonfinite/; says so in one line."""
    directory = Path(run.info.dir)
    folder = directory / "nonfinite"
    step = int(state.step)
    learner = type(run.learner).__name__
    command = shlex.join(["metarun", "replay", no_option(directory)])
    shown = {name: float(value) for name, value in metrics.items()}
    report = {
        "meta_step": step + 1,
        "learner": learner,
        "metrics": {name: str(value) for name, value in shown.items()},
        "skipped_in_a_row": int(state.in_a_row),
        "keys": keys(run, step),
        "command": command,
    }
    told = (
        f"{run.info.name}: meta-step {step + 1} of {learner} is not finite "
        f"({', '.join(f'{name} {value:.4g}' for name, value in shown.items())}); "
        f"try a smaller {'learner.inner_lr or ' if hasattr(run.learner, 'inner_lr') else ''}optimizer.learning_rate, "
        "train.clip_norm, or train.on_nonfinite=skip; "
    )
    if not engine.hosts.is_first():
        return f"{told}process 0 keeps the state before it"
    try:
        folder.mkdir(exist_ok=True)
        save_tree(folder / "state", jax.device_get(state))
        write_atomically(folder / "report.json", json.dumps(report, indent=2) + "\n")
    except Exception as error:  # the disk's errors come from several libraries
        return f"{told}the state before it could not be kept ({first_line(error)})"
    return f"{told}{folder} has the state before it; look at it task by task with: {command}"


def keys(run: Run, step: int) -> list[dict[str, Any]]:
    """Of every task of the meta-step after `step`: its keys, as numbers (episode, adaptation), and which user's it is.

    Where tasks are selected, of every candidate.
    """
    drawn = run.train.meta_batch if run.train.screening is None else run.train.screening.candidates
    k_train = engine.stream(run.train.seed, engine.TRAIN)
    of_step = jax.jit(engine.task_keys, static_argnums=(0, 4))
    found = of_step(run.private, k_train, np.int32(step), np.arange(drawn), run.train.meta_batch)
    k_episodes, k_adapts = (np.asarray(jax.random.key_data(key)).tolist() for key in found[:2])
    every = zip(k_episodes, k_adapts, found.users.tolist(), strict=True)
    return [{"episode": e, "adapt": a, "user": user} for e, a, user in every]


def replay(directory: Path) -> dict[str, Any]:
    """Runs the meta-step that stopped the run in `directory` once more, one task at a time, each from its keys.

    Returns the meta-step, and of every task its metrics and the parameters whose meta-gradient is not finite.
    Raises ConfigError if there is no such meta-step, DataError if the state before it is damaged.
    """
    folder = directory / "nonfinite"
    try:
        report = json.loads((folder / "report.json").read_text())
        of_report = {"meta_step": report["meta_step"], "learner": report["learner"]}
        # Whose each task is an earlier version did not tell.
        every = [
            (np.array([task["episode"], task["adapt"]], np.uint32), np.int32(task.get("user", i)))
            for i, task in enumerate(report["keys"])
        ]
        config = read_yaml(directory / "config.yaml")
        config = {**config, "run": {**config["run"], "dir": str(directory)}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            "replay", directory, f"holds no meta-step that can be run again ({first_line(error)})"
        ) from error
    run = build_run(config)
    data = run.tasks.load("train")
    mesh = run.hardware.set_up(run.train.meta_batch)
    data = engine.held(run.hardware.data, {"train": (run.tasks, data)}, mesh)["train"]
    state = engine.first_state(run.shape, mesh, data, run.numbers, run.train.seed)
    try:
        state = restore_tree(folder / "state", state)
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{folder / 'state'} is damaged ({first_line(error)}); restore it from a copy") from error
    k_train, step = engine.stream(run.train.seed, engine.TRAIN), int(state.step)
    of_step = (engine.of_meta_step, k_train, run.train.meta_batch, step + 1)
    data, _ = engine.in_parts(run.tasks, data, *of_step).at(step)
    net, _ = engine.nets(run.shape)

    @jax.jit
    def one(state: State, data: Any, task: Any, user: Any, k_episode: Any, k_adapt: Any) -> tuple[Any, Any]:
        episode = engine.episode_of(run.private, run.tasks, engine.at(data, state.step, task), user, k_episode)
        episodes, k_adapts = jax.tree.map(lambda leaf: leaf[None], (episode, k_adapt))
        with differentiated(run.inner):
            return run.learner.meta_grad(net, state.params, episodes, k_adapts, state.step)

    tasks = []
    for i, (both, user) in enumerate(every):
        k_episode, k_adapt = (jax.random.wrap_key_data(jnp.array(key)) for key in both)
        grads, metrics = jax.device_get(engine.send(one, state, data, np.int32(i), user, k_episode, k_adapt))
        leaves = jax.tree_util.tree_leaves_with_path(grads)
        bad = [jax.tree_util.keystr(path, simple=True, separator="/") for path, g in leaves if not np.isfinite(g).all()]
        tasks.append({"metrics": {name: float(value) for name, value in metrics.items()}, "not_finite": bad})
    return of_report | {"tasks": tasks}


def tell(found: dict[str, Any]) -> str:
    """What `replay` found, a line for each task that is not finite."""
    bad = {i: task for i, task in enumerate(found["tasks"]) if task["not_finite"] or finite(task) != task}
    lines = [
        f"meta-step {found['meta_step']} of {found['learner']}: "
        f"{len(bad)} of {len(found['tasks'])} tasks have a loss or a meta-gradient that is not finite"
    ]
    for i, task in bad.items():
        figures = "  ".join(f"{name} {value:.4g}" for name, value in task["metrics"].items())
        lines.append(f"  task {i:<4} {figures}  not finite: {', '.join(task['not_finite']) or 'the metrics alone'}")
    if not bad:
        lines.append("  each task alone is finite: it is their mean or the outer update that is not")
    return "\n".join(lines)
