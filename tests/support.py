"""What several test files share: configurations composed as the command line does it, and small nets."""

import copy
import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blobs import Blobs
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun import losses
from metarun.config import choices, conf_dir
from metarun.config.build import build
from metarun.config.run import Run, build_run, resolve
from metarun.config.serving import learners_for
from metarun.core import Batch, Episode, Net


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration that these overrides give, the caller's to change."""
    return copy.deepcopy(composed_once(overrides, os.environ.get("METARUN_DATA_DIR")))


@cache
def composed_once(overrides: tuple[str, ...], data_dir: str | None) -> dict[str, Any]:
    """Hydra takes 70 ms, and the same few hundred configurations are asked for again and again.

    Of the environment, conf/ reads the `data_dir` alone.
    """
    fixed = ["run.dir=RUN", "run.name=NAME"]  # the defaults need Hydra's runtime
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return resolve(compose("config", overrides=[*fixed, *overrides]))


SMALLER = {  # than as published: quicker to compile, and with two tasks a meta-step
    "attention": ("learner.blocks=1",),
    "rl2": ("optimizer.minibatches=2",),
    "rl2_attention": ("optimizer.minibatches=2", "learner.memory.blocks=1"),
    "mann": ("learner.memory=[8,4]", "learner.units=8"),
    "lstm": ("learner.units=8",),
}


def on_blobs(*overrides: str) -> dict[str, Any]:
    """`composed`, on tests/blobs.py: the classification that needs no data and next to no compilation.

    One task at once, unless it is told otherwise: to find the best number, programs of several would be compiled.
    A learner that serves no examples which are given gets a bandit instead.
    """
    small = [one for name, settings in SMALLER.items() if f"learner={name}" in overrides for one in settings]
    values = composed("task=strokes", "model=mlp", "model.hidden=[8]", "hardware.task_chunk=1", *small, *overrides)
    if any(f"learner={name}" in overrides for name in ACTING_ALONE):
        return values | {"task": composed("task=bandits", "task.arms=3", "task.pulls=4", "task.queries=2")["task"]}
    return values | {"task": dataclasses.asdict(BLOBS) | {"_target_": "blobs.Blobs"}}


def run_of(*overrides: str) -> Run:
    return build_run(composed(*overrides))


# A run of seconds.
SMALL = (
    "task=sinusoid", "model.hidden=[8]", "train.meta_batch=4", "eval.episodes=8", "eval.val_episodes=8",
    "hardware.task_chunk=2",
)  # fmt: skip


def untrained(
    learner: str, directory: Path, *overrides: str, model: tuple[str, ...] = ("model=mlp", "model.hidden=[8]")
) -> Path:
    """A learner as it is before training, kept in a directory."""
    from metarun import engine
    from metarun.learned import Learned, keep
    from metarun.run import purpose

    run = build_run(composed(f"learner={learner}", *model, "logger=none", *overrides))
    net, data = engine.nets(run.shape)[0], run.tasks.load("train")
    x = jax.eval_shape(run.tasks.sample, data, jax.random.key(0)).support.x
    params = jax.jit(lambda key: run.learner.init(net, key, jnp.zeros_like(x)))(jax.random.key(1))
    keep(Learned(run.config, purpose.purpose_of(run.tasks, data), jax.device_get(params), {}), directory)
    return directory


@contextmanager
def no_meta_steps():
    """Runs that this process begins are at their end at once, saved as they began: nothing of training is compiled.

    For what is said of a run's test, and of what is made of it: any state will do.
    """
    from metarun import engine
    from metarun.run.loop import Loop

    def meta_train(loop: Loop) -> None:
        loop.step = loop.run.train.steps
        loop.state = loop.state._replace(step=engine.placed(np.int32(loop.step), loop.mesh))
        loop.save(loop.state)
        loop.checkpoints.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "meta_train", meta_train)
        yield


def run_in(directory: Path, *overrides: str) -> Run:
    """A small run in `directory`, checked."""
    return placed(composed("logger=none", *SMALL, *overrides), directory)


def placed(values: dict[str, Any], directory: Path) -> Run:
    """The run of a configuration, in `directory`, checked."""
    return build_run(values | {"run": values["run"] | {"dir": str(directory)}})


BLOBS = Blobs(ways=3, shots=1, queries=2, pool=20)


@cache
def serving(task: str) -> tuple[str, ...]:
    """The learners that serve a task, asked as the command line asks them."""
    values = composed(f"task={task}")
    return tuple(learners_for(build("task", values["task"]), values))


# Those that learn from examples which are given, as who uses a learner has them; and those that do not.
GIVEN = sorted({*learners_for(BLOBS, {"suggested": {"inner_lr": 0.4}}), *serving("sinusoid")})
ACTING_ALONE = sorted({*choices("learner")} - {*GIVEN})


def experiments() -> list[str]:
    return choices("experiment")


def learners_with(field: str) -> list[str]:
    """The learners that have a setting, told by their classes: to compose them all would take seconds."""

    def target(name: str) -> str:
        text = (conf_dir() / "learner" / f"{name}.yaml").read_text()
        if own := re.search(r"_target_: (metarun\.learners\.\S+)", text):
            return own[1]
        return target(re.search(r"^  - (\w+)$", text, re.MULTILINE)[1])

    def fields(name: str) -> dict[str, Any]:
        module, _, of = target(name).rpartition(".")
        return getattr(importlib.import_module(module), of).__dataclass_fields__

    return [name for name in choices("learner") if field in fields(name)]


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """A server on this machine, at work until the tests end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that leaves is no news
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def to_yaml(values: dict[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _linear_init(key, x):
    return {"layer": {"w": jax.random.normal(key, (x.shape[1], 1))}}


LINEAR = Net(
    init=_linear_init,
    apply=lambda params, x: x @ params["layer"]["w"],
    features=lambda params, x: x,
    loss=losses.squared_error,
    n_out=1,
    classification=False,
    n_classes=None,
)


def identity(ways: int) -> Net:
    """A net without parameters, whose features are its inputs."""
    return Net(
        init=lambda key, x: {},
        apply=lambda params, x: x,
        features=lambda params, x: x,
        loss=losses.cross_entropy,
        n_out=ways,
        classification=True,
        n_classes=None,
    )


def classifier(ways: int, n_classes: int | None = None) -> Net:
    """A net with one hidden layer: its second derivatives are not zero."""

    def init(key, x):
        k_in, k_out = jax.random.split(key)
        return {
            "hidden": {"w": jax.random.normal(k_in, (x.shape[1], 6)), "b": jnp.zeros(6)},
            "head": {"kernel": jax.random.normal(k_out, (6, ways)), "bias": jnp.zeros(ways)},
        }

    def features(params, x):
        return jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"][None])

    def apply(params, x):
        return features(params, x) @ params["head"]["kernel"] + params["head"]["bias"][None]

    return Net(init, apply, features, losses.cross_entropy, ways, True, n_classes)


def episodes(tasks: int, ways: int, seed: int = 0) -> Episode:
    """Random episodes (tasks leading), two shots and two queries a class, three numbers an example."""
    draw, y = np.random.default_rng(seed), np.tile(np.arange(ways, dtype=np.int32), (tasks, 2))
    of = jnp.result_type(float)  # as jax has it set
    support, query = (Batch(draw.normal(size=(tasks, 2 * ways, 3)).astype(of), y) for _ in "sq")
    return Episode(support, query)


def drawn_like(init: Callable[[], Any]) -> Any:
    """Numbers in the shapes of what `init` gives: to compile the orthogonal matrices of an LSTM takes a second."""
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(init)
    return jax.tree.map(lambda leaf: (draw.normal(size=leaf.shape) / 2).astype(leaf.dtype), shapes)


def one_of(batch: Episode, index: int = 0) -> Episode:
    return jax.tree.map(lambda leaf: leaf[index], batch)


def equal(one, other) -> None:
    """Two pytrees are equal, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other, **tolerances: float) -> None:
    """Two pytrees are equal, number by number."""
    tolerances = {"rtol": 1e-5, "atol": 1e-6} | tolerances
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), one, other)


def changed(file: Path, change: Callable[[Any], object]) -> None:
    """Changes a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


MARKUP = "<script>alert(1)</script>|`x`"  # in the names of the runs and classes of `two_runs`


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


# Of a process of its own: what the first of them compiles, the others find.
QUICK = (*SMALL, "train.steps=40", "eval.inner_steps=[]")

STARTED: list[subprocess.Popen] = []  # by the test that is at work


def start(
    *arguments: str, cwd: Path, program: tuple[str, ...] = ("-m", "metarun"), **environment: str
) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env={**os.environ, "WANDB_MODE": "offline", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    STARTED.append(process)
    return process


def metarun(*arguments: str, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    process = start(*arguments, cwd=cwd, **environment)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{out}\n{err}"
    return subprocess.CompletedProcess(arguments, code, out, err)


def rows(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def rows_so_far(directory: Path) -> int:
    """How many rows a run at work has written: none before the first."""
    file = directory / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def complete(directory: Path) -> list[Path]:
    """The run's last checkpoints that are whole: one being written has a longer name."""
    return [path for path in (directory / "checkpoints" / "last").glob("*") if path.name.isdigit()]


def saved(directory: Path) -> dict[str, np.ndarray]:
    """The arrays of a run's last checkpoint."""
    import orbax.checkpoint as ocp
    from jax.tree_util import keystr, tree_leaves_with_path

    newest = max(complete(directory), key=lambda path: int(path.name))
    tree = ocp.StandardCheckpointer().restore((newest / "state").absolute())
    return {keystr(path): np.asarray(leaf) for path, leaf in tree_leaves_with_path(tree)}


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
