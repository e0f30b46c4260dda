"""A run that is broken off goes on to the same end: every learner, every task, another number of devices."""

import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from support import composed, equal, on_blobs, placed, rows, saved

from metarun.config import choices
from metarun.config.run import Run
from metarun.core import DataError
from metarun.data import read_anew
from metarun.learned import load
from metarun.run import train
from metarun.run.stop import Interrupted, Stop

SMALL = (
    "logger=none", "train.steps=4", "train.meta_batch=2", "train.log_every=1", "train.eval_every=2",
    "hardware.task_chunk=1", "train.save_every=2", "eval.episodes=4", "eval.val_episodes=2", "eval.inner_steps=[]",
    "eval.inductive=none",
)  # fmt: skip


class Asked(Stop):
    """Asked to stop after so many calls to the devices."""

    def __init__(self, calls: int) -> None:
        super().__init__(None)
        self.calls = calls

    @property
    def asked(self) -> bool:
        self.calls -= 1
        return self.calls < 0

    def check(self) -> None:
        """Lets validations end."""


def run_in(directory: Path, *overrides: str) -> Run:
    """A run on the tasks that `overrides` name, else on blobs."""
    of = composed if any(override.startswith("task=") for override in overrides) else on_blobs
    return placed(of(*SMALL, *overrides), directory)


def whole_and_broken(tmp_path: Path, monkeypatch, *overrides: str, then: tuple[str, ...] = ()) -> list[dict]:
    """The results of a run, and of the same one broken off after 3 of its 4 meta-steps; `then` is how it goes on."""
    whole = train.train(run_in(tmp_path / "whole", *overrides))

    @contextmanager
    def asking(_):
        yield Asked(3)

    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_signals", asking)
        with pytest.raises(Interrupted, match="stopped and saved at meta-step 3 of 4"):
            train.train(run_in(tmp_path / "broken", *overrides))
    return [whole, train.train(run_in(tmp_path / "broken", *overrides, *then))]


def assert_same_end(tmp_path: Path, results: list[dict], rtol: float = 0) -> None:
    whole, broken = saved(tmp_path / "whole"), saved(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    for name, expected in whole.items():
        np.testing.assert_allclose(broken[name], expected, rtol=rtol, atol=rtol, err_msg=name)
    assert [(row["step"], row["split"]) for row in rows(tmp_path / "broken")] == [
        (1, "train"), (2, "train"), (2, "val"), (3, "train"), (4, "train"), (4, "val")
    ]  # fmt: skip
    if not rtol:
        assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
        assert results[0]["test"] == results[1]["test"]
        assert results[0]["state"] == results[1]["state"]
        assert results[0]["training"]["stretches"] == results[1]["training"]["stretches"]


QUICK = ("maml", "protonet", "sinusoid")  # make slow takes them all


def quick_and_slow(names: list[str]) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("learner", quick_and_slow(choices("learner")))
def test_every_learner_goes_on_to_the_same_end_bit_for_bit(tmp_path, monkeypatch, learner):
    results = whole_and_broken(tmp_path, monkeypatch, f"learner={learner}")
    assert_same_end(tmp_path, results)


@pytest.mark.parametrize("task", quick_and_slow(choices("task")))
def test_every_task_goes_on_to_the_same_end_bit_for_bit(tmp_path, monkeypatch, data_for, task):
    overrides = (
        f"task={task}",
        "learner=protonet" if task in ("omniglot", "strokes") else "learner=maml",
        "model=mlp",
    )
    results = whole_and_broken(tmp_path, monkeypatch, *overrides, "model.hidden=[8]", *data_for(task))
    assert_same_end(tmp_path, results)


def test_a_private_run_goes_on_with_the_same_users_and_the_same_noise_bit_for_bit(tmp_path, monkeypatch):
    private = ("train.private.clip=1", "train.private.noise=0.5", "train.private.users=40", "train.meta_batch=20")
    results = whole_and_broken(tmp_path, monkeypatch, "learner=fomaml", *private, "hardware.task_chunk=10")
    assert_same_end(tmp_path, results)
    assert results[0]["privacy"] == results[1]["privacy"]


def test_what_a_learner_keeps_beside_the_optimizer_goes_on_to_the_same_end_bit_for_bit(tmp_path, monkeypatch):
    two = ("learner.inner_steps=2", "eval.learner.inner_steps=2", "inner.unroll=1")
    kept = ("learner=reptile", "learner.moments=kept", "train.clip_norm=1.0")
    results = whole_and_broken(tmp_path, monkeypatch, *kept, *two)
    assert_same_end(tmp_path, results)
    (steps,) = (leaf for path, leaf in saved(tmp_path / "whole").items() if path.endswith("['adam']['steps']"))
    assert steps == 4 * 2
    learned = load(tmp_path / "broken", "last")  # the same state, told by its configuration alone
    equal(learned.params["adam"]["steps"], steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("task=bandits", "learner=rl2", "task.arms=3", "task.pulls=4", "learner.memory.units=4", "optimizer=trpo"),
        ("task=bandits", "learner=rl2", "task.arms=3", "task.pulls=4", "optimizer=ppo", "optimizer.minibatches=2"),
        ("task=navigation", "learner=maml", "model.hidden=[4]", "optimizer=trpo"),
    ],
)
def test_an_optimizer_that_sees_the_tasks_goes_on_to_the_same_end_bit_for_bit(
    tmp_path, monkeypatch, data_for, settings
):
    short = [one for one in data_for(settings[0].removeprefix("task=")) if not one.startswith("eval")]
    results = whole_and_broken(tmp_path, monkeypatch, *short, *settings, "++eval.task={shots: 1, queries: 2}")
    assert_same_end(tmp_path, results)


@pytest.mark.slow
def test_on_another_number_of_devices_a_run_goes_on_to_nearly_the_same_end(tmp_path, monkeypatch):
    two, one = "hardware.devices=2", ("hardware.devices=1",)
    results = whole_and_broken(tmp_path, monkeypatch, "learner=maml", two, then=one)
    assert [found["machine"]["devices"] for found in results] == [2, 1]
    made = [[(at["first"], at["devices"]) for at in found["training"]["stretches"]] for found in results]
    assert made == [[(0, 2)], [(0, 2), (3, 1)]]
    assert_same_end(tmp_path, results, rtol=1e-5)


def test_the_same_run_twice_gives_the_same_numbers_bit_for_bit(tmp_path):
    """Reproducibility of one configuration, seed and kind of device; another seed is another run."""
    found = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        train.train(run_in(tmp_path / name, "learner=maml", f"train.seed={seed}"))
        found[name] = saved(tmp_path / name)
        (tmp_path / name / "config.yaml").rename(tmp_path / f"{name}.yaml")
        shutil.rmtree(tmp_path / name / "checkpoints")
    same = {name: np.array_equal(found["one"][name], found["again"][name]) for name in found["one"]}
    assert all(same.values()), same
    assert rows(tmp_path / "one") == rows(tmp_path / "again")
    assert not all(np.array_equal(found["one"][name], found["other"][name]) for name in found["one"])


def test_a_run_does_not_go_on_with_other_data_of_the_same_shape(tmp_path, monkeypatch, capsys):
    """What it trains and validates on must be as before; a test's may be another, and so may all once it has ended."""
    x = np.random.default_rng(0).normal(size=(36, 4)).astype(np.float32)
    y, split = np.repeat(np.arange(9), 4), np.repeat(["train", "val", "test"], 12)
    file = tmp_path / "mine.npz"
    small = ("task.ways=3", "task.shots=1", "task.queries=1", "learner=fomaml", "model=mlp", "model.hidden=[8]")
    overrides = ("task=arrays", f"task.path={file}", *small)

    def other(*changed: str) -> None:
        np.savez(file, x=x + np.isin(split, changed)[:, None], y=y, split=split)
        read_anew()

    other()
    stop = Asked(3)
    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_signals", lambda _: nullcontext(stop))
        with pytest.raises(Interrupted):
            train.train(run_in(tmp_path / "run", *overrides))
    for part, what in (("train", "train"), ("val", "validate")):
        other(part)
        with pytest.raises(DataError, match=f"^the data to {what} on are not those that the run began with"):
            train.train(run_in(tmp_path / "run", *overrides))
    other("test")
    train.train(run_in(tmp_path / "run", *overrides))
    other("val")
    train.train(run_in(tmp_path / "run", *overrides, "eval.tail=0.5"))  # it has ended, and is only tested
    with pytest.raises(DataError, match=r"^the data to validate on"):
        train.train(run_in(tmp_path / "run", *overrides, "eval.tail=0.5", "train.steps=6"))
    other("train")
    assert "training's examples are not, to the last bit, those" not in capsys.readouterr().out
    train.train(run_in(tmp_path / "run", *overrides, "eval.tail=0.6"))
    assert "training's examples are not, to the last bit, those" in capsys.readouterr().out
    before = (tmp_path / "run" / "results.json").read_bytes()
    y = y[::-1]
    other()
    with pytest.raises(DataError, match=r"^the data to train on are no longer of the classes of those"):
        train.train(run_in(tmp_path / "run", *overrides, "eval.tail=0.8"))
    assert (tmp_path / "run" / "results.json").read_bytes() == before
