"""Several runs in one program: each is what it would be alone, however the process ends, and whatever the others do."""

import json
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from support import on_blobs, placed, rows, saved

from metarun import engine
from metarun.config.population import must_agree
from metarun.config.run import Run
from metarun.core import ConfigError, State
from metarun.run import train, train_together
from metarun.run.log import last_line
from metarun.run.loop import Loop
from metarun.run.stop import Interrupted, Stop

SMALL = (
    "logger=none", "train.steps=4", "train.meta_batch=4", "train.log_every=1", "train.eval_every=2",
    "train.save_every=2", "eval.episodes=4", "eval.val_episodes=2", "eval.inner_steps=[]", "eval.inductive=none",
)  # fmt: skip
OWN = (("train.seed=0",), ("train.seed=1",))
NUMBER = {"maml": "learner.inner_lr=0.2", "reptile": "learner.inner_lr=0.05"}  # of others their optimizer's


def runs_in(directory: Path, *overrides: str, own: tuple[tuple[str, ...], ...] = OWN) -> list[Run]:
    """A run for each of `own` settings, in a directory each."""
    return [placed(on_blobs(*SMALL, *overrides, *each), directory / str(n)) for n, each in enumerate(own)]


def results(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text())


def assert_alike(one: Path, other: Path, tolerance: float = 0) -> None:
    """Two runs have the same last state, rows and figures."""
    first, second = saved(one), saved(other)
    assert first.keys() == second.keys()
    for name, expected in second.items():
        np.testing.assert_allclose(first[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    for row, expected in zip(rows(one), rows(other), strict=True):
        assert (row.pop("step"), row.pop("split")) == (expected.pop("step"), expected.pop("split"))
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
    found, expected = results(one), results(other)
    for name, figure in expected["test"].items():
        assert found["test"][name] == pytest.approx(figure, rel=tolerance, abs=tolerance)
    assert (found["state"]["state"], found["state"]["step"]) == (expected["state"]["state"], expected["state"]["step"])


# The other tests here are Reptile's.
SLOW = [pytest.param(learner, marks=pytest.mark.slow) for learner in ("reptile", "protonet", "mann")]


@pytest.mark.parametrize("learner", ["maml", *SLOW])
def test_each_is_what_it_would_be_alone(tmp_path, learner):
    """Three on two devices share each meta-step's tasks out; they differ in their seeds and in a step size."""
    own = (*OWN, ("train.seed=1", NUMBER.get(learner, "optimizer.learning_rate=0.01")))
    assert train_together.train(runs_in(tmp_path / "all", f"learner={learner}", own=own), tmp_path / "all") == {}
    for alone in runs_in(tmp_path / "alone", f"learner={learner}", own=own)[1:]:
        train.train(alone)
        assert_alike(tmp_path / "all" / Path(alone.info.dir).name, Path(alone.info.dir), tolerance=2e-5)
    assert len({results(tmp_path / "all" / name)["speed"]["meta_steps_per_s"] for name in "012"} - {None}) == 1
    configs = [(tmp_path / place / "2" / "config.yaml").read_text() for place in ("all", "alone")]
    assert configs[0].replace(str(tmp_path / "all"), str(tmp_path / "alone")) == configs[1]
    first, second, third = (saved(tmp_path / "all" / name) for name in "012")
    assert any((first[name] != second[name]).any() for name in first)
    assert any((second[name] != third[name]).any() for name in first)


class Asked(Stop):
    """Asked to stop after so many calls to the devices, or from the first of so many validations on."""

    def __init__(self, calls: int, validations: int) -> None:
        super().__init__(None)
        self.calls, self.validations = calls, validations

    @property
    def asked(self) -> bool:
        self.calls -= 1
        return self.calls < 0

    def check(self) -> None:
        self.validations -= 1
        if self.validations < 0:
            raise Interrupted


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two that nothing has happened to; each has a device."""
    directory = tmp_path_factory.mktemp("whole")
    train_together.train(runs_in(directory, "learner=reptile"), directory)
    return directory


@pytest.mark.parametrize(("calls", "validations"), [(3, 99), (99, 0), (99, 2), (99, 3), (99, 7)])
def test_stopped_they_go_on_to_the_same_end_bit_for_bit(tmp_path, whole, calls, validations):
    """Between calls; in the first validation of the one or of the other; in the second; in the test."""

    @contextmanager
    def asking(_):
        yield Asked(calls, validations)

    runs = runs_in(tmp_path, "learner=reptile")
    with pytest.raises(Interrupted, match=f"go on with: metarun run.dir={tmp_path}"):
        train_together.train(runs, tmp_path, asking)
    train_together.train(runs, tmp_path)
    for name in "01":
        assert_alike(tmp_path / name, whole / name)


def test_minutes_that_are_over_before_any_came_further_are_a_mistake(tmp_path):
    runs = runs_in(tmp_path, "learner=reptile", "run.max_minutes=1e-9")
    with pytest.raises(
        ConfigError, match=r"^run\.max_minutes=1e-09: was over before the first meta-step; give it more"
    ):
        train_together.train(runs, tmp_path, lambda minutes: nullcontext(Stop(minutes)))


@pytest.mark.parametrize("killed_at", range(1, 5))
def test_killed_between_two_saves_they_go_on_to_the_same_end_bit_for_bit(tmp_path, whole, killed_at, monkeypatch):
    """One is then ahead of the other, which catches up."""
    saves, save = [], Loop.save

    def until_killed(self: Loop, kept: State) -> None:
        save(self, kept)
        saves.append(self.directory.name)
        if len(saves) == killed_at:
            self.checkpoints.wait()
            raise KeyboardInterrupt

    runs = runs_in(tmp_path, "learner=reptile")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", until_killed)
        patch.setattr(train_together.Population, "close", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            train_together.train(runs, tmp_path)
    assert train_together.train(runs, tmp_path) == {}
    for name in "01":
        assert_alike(tmp_path / name, whole / name)


def test_one_that_is_not_finite_fails_alone(tmp_path, whole):
    own = (*OWN[:1], ("train.seed=5", "learner.inner_lr=1.0e+38"), *OWN[1:2])
    failed = train_together.train(runs_in(tmp_path, "learner=reptile", own=own), tmp_path)
    assert list(failed) == [1]
    assert "is not finite" in failed[1]
    assert (tmp_path / "1" / "nonfinite" / "report.json").exists()
    assert not (tmp_path / "1" / "results.json").exists()
    assert_alike(tmp_path / "0", whole / "0", tolerance=2e-5)
    assert_alike(tmp_path / "2", whole / "1", tolerance=2e-5)
    assert last_line(tmp_path / "1" / "metarun.log").startswith("failed: NAME: meta-step 1 of Reptile is not finite")
    assert "failed" not in (tmp_path / "0" / "metarun.log").read_text()


def test_those_that_are_finished_are_left_as_they_are(tmp_path, whole):
    runs = runs_in(whole, "learner=reptile")
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*.*")}
    assert train_together.train(runs, whole) == {}
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            "train.steps=6",
            r"^train\.steps=6: is so in \S+/1, and in \S+/0 it is 4; .*finish .* metarun run\.dir=\S+/1$",
        ),
        ("eval.split=val", r"^eval\.split=val: is so in"),
        (
            "+eval.tasks={other: {task: strokes, ways: 3}}",
            r"^eval\.tasks\.other\.\S+=\S+: is so in .* it is \(nothing\)",
        ),
        ("+eval.learner.inner_steps=3", r"^eval\.learner\.inner_steps=3: is so in"),
    ],
)
def test_one_that_was_changed_by_itself_goes_on_with_the_others_once_it_agrees_or_is_finished(
    tmp_path, monkeypatch, changed, says
):
    runs = runs_in(tmp_path, "learner=maml", own=(OWN[0], (*OWN[1], changed), ("train.seed=2",)))
    with pytest.raises(ConfigError, match=says) as refused:
        train_together.train(runs, tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())

    place = tmp_path / "1"
    place.mkdir()
    (place / "config.yaml").write_text(yaml.safe_dump(runs[1].config))
    (place / "results.json").write_text("{}")
    monkeypatch.setattr(train_together, "Population", left := Mock(side_effect=Interrupted))
    with pytest.raises(Interrupted):
        train_together.train(runs, tmp_path)
    assert left.call_args.args[0] == [runs[0], runs[2]]


def test_one_that_is_finished_is_not_to_be_finished_first(tmp_path):
    runs = runs_in(tmp_path, "learner=maml", own=(OWN[0], (*OWN[1], "train.steps=6")))
    (tmp_path / "1").mkdir()
    (tmp_path / "1/results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^train\.steps=6: is so in \S+/1, and in \S+/0 it is 4; give it to all$"):
        must_agree(runs)


def test_seeds_numbers_places_and_loggers_are_each_members_own(tmp_path):
    own = ("train.seed=1", "learner.inner_lr=1", "+eval.learner.inner_lr=0.3", "optimizer.learning_rate=0.1")
    must_agree(runs_in(tmp_path, "learner=maml", own=(OWN[0], (*own, "run.name=other", "logger=tensorboard"))))


def test_data_on_the_host_are_of_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "is_on_host", lambda data: True)
    with pytest.raises(ConfigError, match=r"hardware\.data=auto: the examples stay on the host"):
        train_together.train(runs_in(tmp_path, "learner=reptile"), tmp_path)


def test_devices_have_whole_runs_as_far_as_they_can():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("tasks",))
    assert dict(engine.of_members(mesh, 8).shape) == {"members": 2, "tasks": 1}
    assert dict(engine.of_members(mesh, 3).shape) == {"members": 1, "tasks": 2}


def test_what_is_stacked_is_cut_out_again():
    mesh = engine.of_members(jax.sharding.Mesh(np.array(jax.devices()[:2]), ("tasks",)), 2)
    keys = [jax.random.key(seed) for seed in (3, 4)]
    trees = [{"key": key, "lr": rate, "w": np.full((2, 3), rate)} for key, rate in zip(keys, (0.5, 0.25), strict=True)]
    found = engine.stacked(trees, mesh)
    assert (jax.random.key_data(found["key"])[1] == jax.random.key_data(keys[1])).all()
    numbers = engine.cut(jax.device_get({"lr": found["lr"], "w": found["w"]}), 1)
    assert numbers["lr"] == 0.25
    assert (numbers["w"] == 0.25).all()


def test_a_number_of_each_run_takes_the_type_of_what_it_meets_as_it_does_in_a_run_of_its_own():
    """An update of parameters in bfloat16 would not be of their type else."""
    mesh = engine.of_members(jax.sharding.Mesh(np.array(jax.devices()[:2]), ("tasks",)), 2)
    rates, params = engine.stacked([(rate, np.ones(3, jnp.bfloat16)) for rate in (0.5, 0.25)], mesh)
    update = jax.jit(jax.vmap(lambda rate, params: params - rate * params))(rates, params)
    assert update.dtype == jnp.bfloat16
    np.testing.assert_array_equal(update, [[0.5] * 3, [0.75] * 3])
