"""A learner of one's own that looks at its numbers is shown no others, and learns as one that does not look."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from support import on_blobs, placed, saved

from metarun.config.run import build_run
from metarun.core import ConfigError
from metarun.learned import load
from metarun.learners.maml import MAML
from metarun.run import train

SMALL = (
    "learner=maml", "learner.inner_lr=0.3", "logger=none", "train.steps=3", "train.meta_batch=2", "eval.episodes=4",
    "eval.val_episodes=2", "eval.inner_steps=[0]",
)  # fmt: skip


@dataclass(frozen=True)
class Checked(MAML):
    def __post_init__(self) -> None:
        if not 0.1 < self.inner_lr < 0.9:  # 1 is none of them, and what is traced no answer
            raise ValueError(f"inner_lr={self.inner_lr}: between 0.1 and 0.9")
        object.__setattr__(self, "log_lr", math.log(self.inner_lr))


def test_it_learns_answers_and_stays_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", f"blobs,{__name__}")
    x, y = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), [0, 1, 2, 0, 1, 2]
    states, figures, answers = [], [], []
    for target in ("metarun.learners.maml.MAML", f"{__name__}.Checked"):
        config, directory = on_blobs(*SMALL), tmp_path / target
        config["learner"]["_target_"] = target
        train.train(placed(config, directory))
        states.append(saved(directory))
        figures.append(json.loads((directory / "results.json").read_text())["test"])
        answers.append(load(directory).adapt(x, y).predict_proba(x))
    plain, checked = states
    for name, expected in plain.items():
        np.testing.assert_allclose(checked[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    for metric, figure in figures[0].items():
        assert figures[1][metric] == pytest.approx(figure, rel=1e-4)
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4, atol=1e-5)


def test_its_own_words_are_told_of_a_number_that_it_refuses(monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", f"blobs,{__name__}")
    config = on_blobs(*SMALL, "learner.inner_lr=0.95")
    config["learner"]["_target_"] = f"{__name__}.Checked"
    with pytest.raises(ConfigError, match=r"inner_lr=0.95: between 0.1 and 0.9"):
        build_run(config)
