"""What a run has learned from, and whether it is still there when it is tested."""

import json

import numpy as np
import owned
import pytest
from support import composed, no_meta_steps, placed

from metarun.core import DataError
from metarun.data import read_anew
from metarun.learned import keep, load
from metarun.run import purpose, train
from metarun.run.evaluation import Known, evaluate

SMALL = (
    "logger=none", "train.steps=1", "train.meta_batch=2", "hardware.task_chunk=1", "eval.episodes=4",
    "eval.val_episodes=2", "eval.inner_steps=[]", "eval.inductive=none", "learner=protonet", "train.task.ways=3",
    "train.task.queries=1",
)  # fmt: skip


def test_a_test_tells_of_other_examples_and_refuses_other_classes_and_another_encoding(tmp_path):
    x = np.random.default_rng(0).normal(size=(36, 4)).astype(np.float32)
    y, split = np.repeat(np.arange(9), 4), np.repeat(["train", "val", "test"], 12)
    file, directory = tmp_path / "mine.npz", tmp_path / "run"
    config = composed(
        "task=arrays", f"task.path={file}", "task.ways=3", "task.shots=1", "task.queries=1", *SMALL,
        f"run.dir={directory}",
    )  # fmt: skip

    def told(x, y):
        np.savez(file, x=x, y=y, split=split)
        read_anew()
        kept = load(tmp_path / "kept")
        known = Known(config, kept.params, kept.used, kept.purpose)
        of_run, of_kept = (evaluate(directory, config, (), known=one).told for one in (None, known))
        assert of_run == of_kept
        return of_run

    np.savez(file, x=x, y=y, split=split)
    with no_meta_steps():
        train.train(placed(config, directory))
    keep(load(directory), tmp_path / "kept")
    assert told(x, y) == []
    changed = np.where(np.arange(36)[:, None] == 0, x + 1, x)
    assert told(changed, y) == [
        "training's examples are not, to the last bit, those that this was learned from; its classes are"
    ]
    with pytest.raises(DataError, match=r"^the data to train on are no longer of the classes of those that this was"):
        told(x, y[::-1])

    path = directory / purpose.FILE
    values = json.loads(path.read_text())
    del values["data"]  # of an earlier version: it does not tell
    path.write_text(json.dumps(values))
    assert evaluate(directory, config, ()).told == []


@pytest.mark.parametrize("damage", [{"prepares": "x"}, {"prepares": {}}, {"dtype": "flobt32"}, {"shape": 3}])
def test_a_purpose_in_another_form_is_told_with_its_file(damage, tmp_path):
    whole = {"shape": [4], "dtype": "float32", "metric": "accuracy", "n_out": 5, "prepares": None}
    (tmp_path / purpose.FILE).write_text(json.dumps(whole))
    assert purpose.read(tmp_path) == purpose.Purpose((4,), "float32", "accuracy", 5, None)
    (tmp_path / purpose.FILE).write_text(json.dumps(whole | damage))
    with pytest.raises(DataError, match=r"purpose\.json is damaged"):
        purpose.read(tmp_path)


def test_what_is_known_of_the_data_decides_and_what_is_not_known_refuses_nothing():
    data = {"train": ["a", "b"], "val": ["c", "d"]}
    now = purpose.Purpose((3,), "float32", "mse", 1, None, data)
    told = purpose.as_told(now)
    assert purpose.must_be_as_before(told, now) is None
    assert purpose.must_be_as_before(None, now) is None  # it begins
    for split, use in (("train", "train"), ("val", "validate")):
        for digests in (["z", data[split][1]], [data[split][0], "z"]):
            with pytest.raises(DataError, match=f"^the data to {use} on are not those that the run began with"):
                purpose.must_be_as_before(told | {"data": data | {split: digests}}, now)
    with pytest.raises(DataError, match="no longer of the shape of those"):
        purpose.must_be_learned_from(told | {"shape": [4]}, now)
    with pytest.raises(DataError, match="no longer encoded as those"):
        purpose.must_be_learned_from(told | {"prepares": {"_target_": "mine.Encoder"}}, now)

    of_files = now._replace(prepares="an Image")  # which another version of what decodes may give other bits
    line = purpose.must_be_as_before(purpose.as_told(of_files) | {"data": data | {"train": ["a", "z"]}}, of_files)
    assert line.startswith("training's examples are not, to the last bit, those")
    for unknown in (None, [], {"val": ["c", "d"]}, {"train": None}, {"train": []}):  # of earlier versions, or damaged
        purpose.must_be_learned_from(told | {"data": unknown, "prepares": "other"}, now)


def test_data_that_moved_are_told_where_they_are_and_other_data_are_refused_there(ended, tmp_path):
    owned.points(tmp_path)
    of_points = ("task=arrays", "task.path=points.npz", "model=mlp", "model.hidden=[4]", "train.save_every=1")
    with no_meta_steps():
        assert ended(*of_points, *SMALL, "run.dir=RUN").code == 0
    figure = results(tmp_path)["test"]
    (tmp_path / "moved").mkdir()
    (tmp_path / "points.npz").rename(tmp_path / "moved" / "points.npz")
    again = ended("run.dir=RUN", "eval.tail=0.5")
    assert again.code == 2
    assert (
        "task.path=points.npz: no such file; if the data have moved: metarun run.dir=RUN task.path=WHERE" in again.err
    )
    assert ended("eval", "RUN").err.endswith("put them there, or say where they are, task.path=WHERE\n")

    ended("eval", "RUN", "task.path=moved/points.npz", "--json", "told.json")
    assert json.loads((tmp_path / "told.json").read_text())["test"] == figure
    assert ended("run.dir=RUN", "task.path=moved/points.npz", "eval.tail=0.5").code == 0
    assert results(tmp_path)["test"]["accuracy"] == figure["accuracy"]
    assert ended("run.dir=RUN", "eval.tail=0.6").code == 0  # it is known by now

    x, y = np.random.default_rng(1).normal(size=(300, 2)), np.repeat(np.arange(25), 12)
    np.savez(tmp_path / "other.npz", x=x, y=y)
    other = ended("run.dir=RUN", "task.path=other.npz", "train.steps=2")
    assert (other.code, "are not those that the run began with" in other.err) == (1, True)


def results(folder):
    return json.loads((folder / "RUN" / "results.json").read_text())
