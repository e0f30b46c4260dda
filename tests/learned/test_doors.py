"""One episode by every door: training's evaluation, metarun eval, adapt, Python, scikit-learn, the exported program."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax import export
from support import GIVEN, composed, learners_with, no_meta_steps, on_blobs, placed

from metarun import MetaLearnedClassifier, MetaLearnedRegressor, load
from metarun.command import adapt
from metarun.config.run import build_run
from metarun.core import ConfigError, Key, Measured
from metarun.engine import EVAL, stream, task_key
from metarun.learned import exported
from metarun.run import train

QUICK = ("maml", "protonet", "mann")  # make slow takes them all
QUICK_TO_PREDICT = ("cnp",)
CPU = ("cpu",)
TINY = (
    "logger=none", "hardware.devices=1", "hardware.task_chunk=1", "train.steps=1", "train.meta_batch=1",
    "eval.episodes=2", "eval.val_episodes=2", "eval.inner_steps=[]",
)  # fmt: skip


def every(quick: tuple[str, ...]) -> list:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in GIVEN]


def small(name: str) -> list[str]:
    """Long ways multiply roundings: 50 steps by Adam, whose last ones go by a rounding's sign, differ by 0.04."""
    small = {"inner_steps": 3, "inner_lr": 0.001, "units": 8, "memory": "[8,4]"}
    return [f"learner.{key}={value}" for key, value in small.items() if name in learners_with(key)]


def refusal(values: dict) -> str:
    try:
        build_run(values)
    except ConfigError as error:
        return str(error)
    return ""


@jax.jit
def keys_of(k_eval: Key, index: np.int32) -> tuple[Key, Key]:
    """That a test adapts to one of its episodes by: a learner that is measured has half of it."""
    k_adapt = task_key(k_eval, index)[1]
    return k_adapt, jax.random.split(k_adapt)[0]


def episodes(directory: Path, run) -> list[tuple]:
    """Those that a run has kept: support x and y, query x and y, the test's outputs, and the key that it adapted by."""
    kept, k_eval = np.load(directory / "examples.npz"), stream(run.eval.seed, EVAL)
    keys = [keys_of(k_eval, np.int32(index))[isinstance(run.eval_learner, Measured)] for index in kept["index"]]
    parts = [kept[part] for part in ("support_x", "support_y", "query_x", "query_y", "outputs")]
    return list(zip(*parts, keys, strict=True))


def by_files(directory: Path, folder: Path, key: Key, support: tuple, query: tuple) -> dict:
    """What `metarun adapt` says of an episode in files."""
    for name, (x, y) in {"support": support, "query": query}.items():
        np.savez(folder / f"{name}.npz", x=x, y=y)
    paths = {f"--{name}": str(folder / f"{name}.npz") for name in ("support", "query")}
    adapt.adapt(directory, paths | {"--json": str(folder / "said.json"), "--seed": key})
    return json.loads((folder / "said.json").read_text())


def by_program(one: exported.Exported, *given: np.ndarray) -> dict[str, np.ndarray]:
    """What an exported program gives, by the names that its JSON has for it."""
    outputs = [one.told[name] for name in ("output", "further_output") if name in one.told]
    found = jax.tree.leaves(export.deserialize(bytearray(one.program)).call(*given))
    return dict(zip([output["name"] for output in outputs], found, strict=True))


def close(found, wanted) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", every(QUICK))
@no_meta_steps()
def test_every_door_tells_the_classes_that_the_runs_own_test_did(ended, tmp_path, name):
    directory = tmp_path / "run"
    run = placed(on_blobs(f"learner={name}", *small(name), *TINY), directory)
    train.train(run)
    assert ended("eval", directory, "--json", "eval.json").code == 0
    told = [json.loads(file.read_text())["test"] for file in (tmp_path / "eval.json", directory / "results.json")]
    names, learned, losses, right = np.array(["ant", "bee", "cow"]), load(directory), [], []
    for support_x, support_y, x, y, outputs, key in episodes(directory, run):
        wanted = scipy.special.softmax(outputs, axis=1)
        adapted = learned.adapt(support_x, names[support_y], seed=key)
        close(adapted.predict_proba(x), wanted)
        losses.append(-np.log(wanted[np.arange(len(y)), y]).mean())
        right.append((wanted.argmax(1) == y).mean())
    for figures in told:
        close(figures["loss"]["mean"], np.mean(losses))
        close(figures["accuracy"]["mean"], np.mean(right))
    # The other doors are asked about the last of the episodes.
    said = by_files(directory, tmp_path, key, (support_x, names[support_y]), (x, names[y]))
    close([[one["probabilities"][name] for name in names] for one in said["predictions"]], wanted)
    close(said["accuracy"], right[-1])
    classifier = MetaLearnedClassifier(directory, seed=key).fit(support_x, names[support_y])
    close(classifier.predict_proba(x), wanted)
    close(by_program(exported.predictor(adapted, platforms=CPU), x)["probabilities"], wanted)
    predicted = names[wanted.argmax(1)].tolist()
    assert [one["predicted"] for one in said["predictions"]] == predicted == adapted.predict(x).tolist()
    assert classifier.predict(x).tolist() == predicted


@pytest.mark.parametrize("name", every(QUICK_TO_PREDICT))
@no_meta_steps()
def test_every_door_tells_the_targets_that_the_runs_own_test_did(ended, tmp_path, name):
    directory = tmp_path / "run"
    values = composed("task=sinusoid", f"learner={name}", "model=mlp", "model.hidden=[8]", *small(name), *TINY)
    if said := refusal(values):
        assert "is a regression; use maml, cnp or another" in said
        return
    run = placed(values, directory)
    train.train(run)
    assert ended("eval", directory, "--json", "eval.json").code == 0
    told = [json.loads(file.read_text())["test"] for file in (tmp_path / "eval.json", directory / "results.json")]
    learned, errors, likelihoods = load(directory), [], []
    for support_x, support_y, x, y, wanted, key in episodes(directory, run):
        adapted = learned.adapt(support_x, support_y, seed=key)
        close(adapted.predict(x), wanted)
        errors.append(np.square(wanted - y).mean())
        if name == "cnp":
            mean, sd = adapted.predict(x, return_std=True)
            close(mean, wanted)
            likelihoods.append(scipy.stats.norm.logpdf(y, mean, sd).mean())
    for figures in told:
        close(figures["mse"]["mean"], np.mean(errors))
        if likelihoods:  # which its own standard deviations give, whatever is told here
            close(figures["log_likelihood"]["mean"], np.mean(likelihoods))
    # The other doors are asked about the last of the episodes.
    said = by_files(directory, tmp_path, key, (support_x, support_y), (x, y))
    close([one["predicted"] for one in said["predictions"]], wanted)
    close(said["mse"], errors[-1])
    regressor = MetaLearnedRegressor(directory, seed=key).fit(support_x, support_y)
    close(regressor.predict(x), wanted)
    one = exported.learner(learned, shots=len(support_x), platforms=CPU)
    programs = by_program(exported.predictor(adapted, platforms=CPU), x), by_program(one, support_x, support_y, x)
    by_seed = learned.adapt(support_x, support_y).predict(x)  # in whose order a sequence is read
    close([program.pop("targets") for program in programs], (wanted, by_seed))
    if name == "cnp":
        close(regressor.predict(x, return_std=True), (wanted, sd))
        close([one["sd"] for one in said["predictions"]], sd)
        close([program.pop("sd") for program in programs], (sd, sd))
    assert programs == ({}, {})
