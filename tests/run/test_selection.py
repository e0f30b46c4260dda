"""Which state is tested, and on what: validation selects on episodes of its own, by the task's metric, and no more."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import composed, equal, on_blobs, placed, rows

from metarun import engine
from metarun.config import choices
from metarun.config.run import Run, build_run
from metarun.core import State
from metarun.engine import chunks
from metarun.run.loop import Loop
from metarun.run.meta_test import meta_test
from metarun.run.status import Status
from metarun.run.stop import Interrupted, Stop
from metarun.run.watch import Watch

SMALL = (
    "logger=none", "train.meta_batch=2", "hardware.devices=1", "hardware.task_chunk=2", "eval.inductive=none",
    "eval.inner_steps=[]",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SameData:
    """A user's tasks whose `load` makes no difference between the splits."""

    tasks: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tasks, name)

    def load(self, split: str) -> Any:
        return self.tasks.load("train")


def opened(run: Run, directory: Path) -> Loop:
    """A run's loop, before its first meta-step."""
    run = dataclasses.replace(run, info=dataclasses.replace(run.info, dir=str(directory)))
    return Loop(run, Stop(None), Watch(None, directory / "stacks.txt"), Status())


# What tells episodes apart is what ridge regression makes of one: it depends on all of it.
FINGERPRINT = (*SMALL, "learner=r2d2", "eval.episodes=24", "eval.val_episodes=24", "train.steps=2")


def used(run: Run, directory: Path, monkeypatch) -> tuple[set[bytes], set[bytes]]:
    """The episodes of a run's validation and those of its test, as the run itself draws them."""
    found: list[engine.Evaluation] = []
    evaluate = Loop.evaluate

    def kept(*arguments: Any, **named: Any) -> list[engine.Evaluation]:
        evaluations = evaluate(*arguments, **named)
        found.extend(evaluations)
        return evaluations

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "evaluate", kept)
        loop = opened(run, directory)
        loop.validate(loop.state, 1)
        loop.test()
        loop.close({})
    validated, tested = ({np.round(one, 3).tobytes() for one in each.answers.outputs} for each in found)
    assert len(validated) == len(tested) == 24
    return validated, tested


# Drawn by the same functions as folder and table: make slow takes them, too.
ALIKE = ("arrays", "banking77", "cifar_fs", "clinc150", "fc100", "miniimagenet", "text")
TASKS = [
    pytest.param(task, marks=pytest.mark.slow) if task in ALIKE else task
    for task in choices("task")
    if task not in ("bandits", "gymnax", "gymnax_trials", "navigation", "tabular_mdp")  # these hold no examples
]


@pytest.mark.parametrize("task", [*TASKS, "blobs", "a user's, whose splits are the same"])
def test_no_episode_that_a_run_selects_by_is_one_that_it_is_tested_on(task, tmp_path, monkeypatch, data_for):
    """Also with `eval.split=val`, where both come from the same data."""
    settings = (f"task={task}", "model=pixels", *data_for(task))
    run = build_run(composed(*settings, *FINGERPRINT) if task in choices("task") else on_blobs(*FINGERPRINT))
    if task.startswith("a user's"):
        run = dataclasses.replace(run, tasks=SameData(run.tasks), eval_tasks=SameData(run.eval_tasks))
    for split in ("test", "val"):
        evaluation = dataclasses.replace(run.eval, split=split)
        validated, tested = used(dataclasses.replace(run, eval=evaluation), tmp_path / split, monkeypatch)
        assert validated.isdisjoint(tested)


class Scripted:
    """Stands for the compiled evaluation: gives validations the figures it is told, and keeps what it is given."""

    def __init__(self, metric: str, *means: float) -> None:
        self.metric, self.means = metric, list(means)
        self.given: list[dict[str, Any]] = []

    def __call__(self, params, data, episodes, k_eval, numbers, after, pause) -> list[engine.Evaluation]:
        key = jax.random.key_data(k_eval).tolist()
        self.given.append(jax.device_get({"params": params, "data": data, "episodes": episodes, "key": key}))
        figure = {"mean": self.means.pop(0) if self.means else 0.0, "ci95": 0.0}
        nothing = np.zeros((1, 1, 1))
        return [engine.Evaluation({self.metric: figure, "loss": figure}, engine.Answers(nothing, nothing, None))]


def scripted(monkeypatch, script: Callable[..., list[engine.Evaluation]]) -> None:
    """All that is compiled is as it was but for the evaluation."""
    real = chunks.programs
    monkeypatch.setattr(chunks, "programs", lambda *a: real(*a)._replace(evaluate=script))


FOUR = (*SMALL, "learner=fomaml", "train.steps=8", "train.eval_every=2", "eval.episodes=5", "eval.val_episodes=3")


@pytest.mark.parametrize(
    ("metric", "means", "best"),
    [
        ("accuracy", (0.3, 0.9, 0.5, 0.9), 4),
        ("mse", (3.0, 1.0, 2.0, 1.0), 4),
        ("accuracy", (math.nan, 0.2, 0.9, 0.1), 6),
    ],
)
def test_the_state_with_the_best_validation_is_the_one_that_is_tested(tmp_path, monkeypatch, metric, means, best):
    """More accuracy, or less error; of equals the first; never what is no number. `eval.state=last` tests the last."""
    values = on_blobs(*FOUR) if metric == "accuracy" else composed("task=sinusoid", "model.hidden=[8]", *FOUR)
    script, kept = Scripted(metric, *means), {}
    scripted(monkeypatch, script)
    validate = Loop.validate

    def remember(loop: Loop, state: State, step: int) -> None:
        kept[step] = jax.device_get(state.params)
        validate(loop, state, step)

    monkeypatch.setattr(Loop, "validate", remember)
    loop = opened(placed(values, tmp_path), tmp_path)
    loop.meta_train()
    assert list(kept) == [2, 4, 6, 8]
    for step, given in zip(kept, script.given, strict=True):  # each validation was of that state
        equal(given["params"], kept[step])
    assert not any(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (kept[2], kept[4])), strict=True))

    loop.run = dataclasses.replace(loop.run, eval=dataclasses.replace(loop.run.eval, state="best"))
    _, tested = loop.test()
    assert (tested["state"], tested["step"]) == ("best", best)
    equal(script.given[-1]["params"], kept[best])
    assert tested["mean"] == means[best // 2 - 1]

    loop.run = dataclasses.replace(loop.run, eval=dataclasses.replace(loop.run.eval, state="last"))
    _, tested = loop.test()
    assert tested == {"state": "last", "step": 8}
    equal(script.given[-1]["params"], kept[8])
    loop.close({})


def given_to(values: dict[str, Any], directory: Path, monkeypatch) -> tuple[dict, dict]:
    """What a run's validation is given, and what its test is."""
    script = Scripted("accuracy")
    with monkeypatch.context() as patch:
        scripted(patch, script)
        loop = opened(placed(values, directory), directory)
        loop.validate(loop.state, 2)
        loop.test()
        loop.close({})
    validation, test = script.given
    return validation, test


def test_validation_takes_the_validation_split_and_the_test_the_one_asked_for(tmp_path, monkeypatch):
    for split in ("test", "val"):
        values = on_blobs(*FOUR, f"eval.split={split}")
        validation, test = given_to(values, tmp_path / split, monkeypatch)
        tasks = build_run(values).eval_tasks
        equal(validation["data"], jax.device_get(tasks.load("val")))
        equal(test["data"], jax.device_get(tasks.load(split)))
        assert (validation["episodes"], test["episodes"]) == (3, 5)


def test_held_out_tasks_follow_the_evaluations_seed_and_never_trainings(tmp_path, monkeypatch):
    def keys(*overrides: str) -> list[list[int]]:
        directory = tmp_path / "-".join(overrides)
        return [given["key"] for given in given_to(on_blobs(*FOUR, *overrides), directory, monkeypatch)]

    one = keys("train.seed=3", "eval.seed=5")
    assert keys("train.seed=4", "eval.seed=5") == one
    other = keys("train.seed=3", "eval.seed=6")
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert one[0] != one[1]


def test_a_new_best_is_saved_with_the_state_that_tells_of_it(tmp_path, monkeypatch):
    """States are saved at the end alone, and where the validation is better than those before."""
    scripted(monkeypatch, Scripted("accuracy", 0.3, 0.9, 0.5, 0.4))
    loop = opened(placed(on_blobs(*FOUR, "train.save_every=8"), tmp_path), tmp_path)
    loop.meta_train()
    assert loop.checkpoints.last.all_steps() == [4, 8]  # 2 was one, too; two are kept
    for step in (4, 8):
        _, host = loop.checkpoints.read(step, loop.state)
        assert (host["best"]["step"], host["best"]["mean"], host["unvalidated"]) == (4, 0.9, False)
    loop.close({})


def test_a_validation_that_was_broken_off_is_made_good_and_is_then_written_down(tmp_path, monkeypatch):
    """Also where it is no new best, which would be saved anyway: else a kill would have it made once more."""
    script, run = Scripted("accuracy", 0.9), placed(on_blobs(*FOUR, "train.save_every=8"), tmp_path)

    def until_interrupted(*given: Any, **named: Any) -> list[engine.Evaluation]:
        if not script.means:
            raise Interrupted
        return script(*given, **named)

    scripted(monkeypatch, until_interrupted)
    first = opened(run, tmp_path)
    with pytest.raises(Interrupted):
        first.meta_train()
    first.close({})
    script.means.append(0.5)
    again = opened(run, tmp_path)
    told = [again.host["unvalidated"]]
    again.look_after(again.state, again.step, last=False)
    told.append(again.checkpoints.read(4, again.state)[1]["unvalidated"])
    assert (again.step, told) == (4, [True, False])
    again.close({})


def test_a_run_that_goes_on_knows_its_best_state(tmp_path, monkeypatch):
    scripted(monkeypatch, Scripted("accuracy", 0.3, 0.9, 0.5, 0.4))
    run = placed(on_blobs(*FOUR), tmp_path)
    first = opened(run, tmp_path)
    first.meta_train()
    first.close({})
    again = opened(run, tmp_path)
    assert again.step == 8
    assert again.host == first.host
    _, tested = again.test()
    assert (tested["state"], tested["step"]) == ("best", 4)
    again.close({})


def test_a_logged_row_is_the_mean_over_its_own_period(tmp_path, monkeypatch):
    logged = {}
    for period in (1, 4):
        scripted(monkeypatch, Scripted("accuracy"))
        directory = tmp_path / str(period)
        loop = opened(placed(on_blobs(*FOUR, f"train.log_every={period}"), directory), directory)
        loop.meta_train()
        loop.close({})
        logged[period] = {row["step"]: row["loss"] for row in rows(directory) if row["split"] == "train"}
    assert list(logged[4]) == [4, 8]
    for step, loss in logged[4].items():
        np.testing.assert_allclose(loss, np.mean([logged[1][s] for s in range(step - 3, step + 1)]), rtol=1e-5)


def test_the_final_test_is_made_after_each_number_of_inner_steps_and_with_each_of_shots():
    run = build_run(on_blobs("eval.inner_steps=[0,3]", "eval.shots=[2,4]"))
    tested = meta_test(run, lambda run, _: [(run.eval_tasks.shots, n) for n in (None, *run.other_steps)])
    assert tested.evaluation == (1, None)
    assert tested.by_inner_steps == {"0": (1, 0), "3": (1, 3)}
    for shots in (2, 4):
        other = tested.by_shots[str(shots)]
        assert other == ((shots, None), {"0": (shots, 0), "3": (shots, 3)}, {}, {})
    assert list(tested.by_shots) == ["2", "4"]


def test_validation_is_after_the_learners_own_number_of_inner_steps(tmp_path):
    """And not after those that the test also answers after: 0 here, the untrained head's."""
    settings = (*FOUR, "eval.inner_steps=[1,0]", "learner.inner_steps=2", "learner.inner_lr=0.5")
    found = []
    for name, more in (("with", ()), ("without", ("eval.inner_steps=[]",)), ("none", ("learner.inner_steps=0",))):
        loop = opened(build_run(on_blobs(*settings, *more)), tmp_path / name)
        found.append(
            loop.evaluate(loop.run, loop.state.params, "val", loop.data["val"], 20, lambda done: None)[0].figures
        )
        loop.close({})
    assert found[0] == found[1] != found[2]


def test_the_learners_own_number_of_inner_steps_is_not_tested_twice_however_often_it_is_asked_for():
    run = build_run(on_blobs("learner.inner_steps=3", "eval.inner_steps=[3,1,1,3,0]"))
    assert run.other_steps == (1, 0)
    tested = meta_test(run, lambda run, _: [None, *run.other_steps])
    assert tested.by_inner_steps == {"3": None, "1": 1, "0": 0}
    assert build_run(on_blobs("learner=protonet")).other_steps == ()
