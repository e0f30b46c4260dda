"""A user's own tasks in files, and learners that they are given to."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import owned
import pytest
from PIL import Image
from support import composed, on_blobs, placed, untrained

from metarun.command import main
from metarun.config.run import build_run
from metarun.run import train

NAMES = ("ant", "bee", "cow", "dog", "eel")


@pytest.fixture
def ended(tmp_path, monkeypatch, capfd):
    """A command of any verb in an empty directory: its exit code, and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["metarun", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main.command()
        except SystemExit as error:
            code = error.code
        said = capfd.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture(scope="session")
def drawings(tmp_path_factory) -> SimpleNamespace:
    """A learner of images, an episode, as bytes, and the same as files: dark ink on white paper."""
    folder = tmp_path_factory.mktemp("drawings")
    untrained("maml", folder / "run", "task=strokes")
    tasks = build_run(composed("task=strokes", "learner=maml")).eval_tasks
    episode = jax.jit(tasks.sample)(tasks.load("test"), jax.random.key(3))
    found = SimpleNamespace(
        run=folder / "run", support=folder / "support", query=folder / "query", flat=folder / "flat"
    )
    found.named = folder / "named"
    for part in ("support", "query"):
        batch = getattr(episode, part)
        x = np.round(255 * np.asarray(batch.x)).astype(np.uint8)
        y = np.array(NAMES)[np.asarray(batch.y)]
        order = np.argsort(y, kind="stable")  # in which files are read
        setattr(found, f"{part}_x", x[order])
        setattr(found, f"{part}_y", y[order])
        for i, (image, label) in enumerate(zip(x[order], y[order], strict=True)):
            flat = found.named if part == "support" else found.flat
            for file in (folder / part / label / f"{i:03}.png", flat / f"{label}_{i:03}.png"):
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(255 - image[..., 0]).save(file)
    return found


@pytest.fixture(scope="session")
def texts_run(once) -> Path:
    def make(folder: Path) -> None:
        path = owned.texts(folder)
        untrained("protonet", folder / "kept", "task=text", f"task.path={path}", "train.task.ways=5")

    return once("texts_run", make) / "kept"


@pytest.fixture(scope="session")
def people_run(once) -> Path:
    def make(folder: Path) -> None:
        untrained("maml", folder / "kept", "task=table", f"task.path={owned.people(folder)}", *owned.OF_PEOPLE)

    return once("people_run", make) / "kept"


@pytest.fixture(scope="session")
def blobs_run(once) -> Path:
    """A finished run on points, with all that it has saved."""
    quick = ("hardware.task_chunk=2", "train.steps=2", "train.meta_batch=2", "eval.episodes=2", "eval.val_episodes=2")
    values = on_blobs("learner=maml", "logger=none", "eval.inner_steps=[]", *quick)
    return once("blobs_run", lambda folder: train.train(placed(values, folder / "run"))) / "run"


@pytest.fixture(scope="session")
def waves_run(once) -> Path:
    return once("waves_run", lambda folder: untrained("maml", folder / "run", "task=sinusoid")) / "run"


def answers_of(file: Path, classes: list[str]) -> tuple[np.ndarray, dict]:
    """The probabilities (n, ways) of a file of JSON, and all of it."""
    found = json.loads(file.read_text())
    assert found["classes"] == classes
    assert all(list(one["probabilities"]) == classes for one in found["predictions"])
    return np.array([list(one["probabilities"].values()) for one in found["predictions"]]), found
