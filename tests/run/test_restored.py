"""What a run has learned, read from its directory: the states that it has, and nothing that is not whole."""

import json
import shutil

import jax
import numpy as np
import pytest
from support import changed, equal, run_in, saved

from metarun.core import ConfigError, DataError
from metarun.learned import load
from metarun.run import train
from metarun.run.checkpoint import Checkpoints
from metarun.run.restored import log


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose best state is not its last, whose optimizer has a state, and which has two of each saved."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    found = train.train(
        run_in(directory, "learner=fomaml", "train.steps=30", "optimizer.learning_rate=0.5", "eval.inner_steps=[]")
    )
    assert found["state"]["step"] < 30
    return directory, found


def test_the_best_state_and_the_last_are_those_that_the_run_had(finished):
    directory, results = finished
    best, last = load(directory), load(directory, "last")
    assert best.used == results["state"]
    assert last.used == {"state": "last", "step": 30}
    on_disk = saved(directory)
    for path, leaf in jax.tree_util.tree_leaves_with_path(last.params):
        np.testing.assert_array_equal(leaf, on_disk[f"['params']{jax.tree_util.keystr(path)}"])
    opened = Checkpoints(directory / "checkpoints")
    equal(best.params, opened.restore_best(results["state"], last.params))
    opened.close()


def test_a_damaged_state_gives_way_to_the_one_before_it_and_is_named(finished, tmp_path, monkeypatch):
    directory, told = tmp_path / "run", []
    shutil.copytree(finished[0], directory)
    monkeypatch.setattr(log, "warning", told.append)
    assert load(directory, "last").used == {"state": "last", "step": 30}
    assert told == []
    host = directory / "checkpoints" / "last" / "30" / "host" / "metadata"
    changed(host, lambda content: content.update(seconds=1e9))
    assert load(directory, "last").used == {"state": "last", "step": 20}
    why = "its digest is not that of its content"
    newest = directory / "checkpoints" / "last" / "30"
    assert told == [f"passed over: {newest} ({why}); taken is what was learned by meta-step 20"]
    host = directory / "checkpoints" / "last" / "20" / "host" / "metadata"
    host.write_text(json.dumps({}))
    with pytest.raises(DataError, match=rf"holds no whole checkpoint: .*last/30 \({why}"):
        load(directory, "last")


def test_a_best_state_that_is_not_there_is_missing(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    shutil.rmtree(directory / "checkpoints" / "best")
    with pytest.raises(DataError, match=r"holds no whole checkpoint: .*last/30 \(.*checkpoints/best/\d+ is missing\)"):
        load(directory, "best")


def test_parameters_of_another_content_are_not_believed(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    best = directory / "checkpoints" / "best"
    steps = sorted(int(path.name) for path in best.iterdir())
    shutil.rmtree(best / str(steps[-1]) / "default")
    shutil.copytree(best / str(steps[-2]) / "default", best / str(steps[-1]) / "default")
    with pytest.raises(DataError, match="its digest is not that of its content"):
        load(directory)


def test_what_is_no_run_or_has_saved_nothing_is_told_in_one_line(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"no such directory; name a run's directory"):
        load(tmp_path / "nothing")
    (tmp_path / "one").mkdir()
    with pytest.raises(ConfigError, match=r"holds no run \(no config.yaml\)"):
        load(tmp_path / "one")
    shutil.copy(finished[0] / "config.yaml", tmp_path / "one")
    with pytest.raises(ConfigError, match="has saved nothing yet"):
        load(tmp_path / "one")


@pytest.mark.parametrize("state", ["Best", "worst", ""])
def test_a_state_that_there_is_not_is_never_taken_for_another(finished, state):
    with pytest.raises(ConfigError, match=f"state={state}: must be one of: best, last"):
        load(finished[0], state)
