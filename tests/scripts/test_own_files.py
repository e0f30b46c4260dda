"""Omniglot's own files, given to `metarun adapt`, have the accuracy that `metarun eval` has on the same episodes."""

import pytest
from measure_own_files import both, own
from rich.console import Console
from support import composed, placed

from metarun.run import train

QUICK = ("logger=none", "model.filters=4", "train.meta_batch=2", "eval.episodes=2", "eval.val_episodes=2")


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["protonet", "maml"])
def test_files_of_evaluation_alphabets_are_told_apart_as_their_drawings_are(
    learner, omniglot_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(own, "console", lambda options: Console(quiet=True))
    task = "task=omniglot", "task.split=lake", "task.ways=20", f"data_dir={omniglot_dir}"
    values = composed(f"learner={learner}", *task, *QUICK, "train.steps=40", "eval.inner_steps=[]")
    train.train(placed(values, tmp_path / "run"))
    for ways in (5, 20):
        found = both(tmp_path / "run", ways, 4)
        assert found.adapted["mean"] == pytest.approx(found.evaluated["mean"], abs=1e-6)
        assert found.adapted["ci95"] == pytest.approx(found.evaluated["ci95"], abs=1e-6)
        assert found.adapted["ci95"] > 0
