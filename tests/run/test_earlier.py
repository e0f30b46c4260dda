"""What runs of earlier versions left still loads: earlier/d6fbdc8.zip was made by that commit."""

import json
import zipfile
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
import yaml
from support import composed, on_blobs, rows, saved

from metarun import report
from metarun.config.build import MOVED, build
from metarun.config.learned import parts
from metarun.config.resume import resume
from metarun.config.run import build_run

ARCHIVE = Path(__file__).parent / "earlier" / "d6fbdc8.zip"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of 8 meta-steps that was stopped after 3, and the same one whole."""
    folder = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def test_names_that_moved_are_classes_that_build(runs):
    for old, new in MOVED.items():
        assert old != new
        name = old.rpartition(".")[2]
        choice = "hardware" if name == "Hardware" else "logger"
        file = {"Hardware": "auto", "Wandb": "wandb", "NoLogger": "none"}[name]
        values = yaml.safe_load((Path(__file__).parents[2] / "conf" / choice / f"{file}.yaml").read_text())
        assert values["_target_"] == new
        assert type(build(choice, values | {"_target_": old})).__name__ == name


def test_a_stopped_run_goes_on_to_the_end_it_would_have_had(runs, ended):
    names = [
        yaml.safe_load((runs / "stopped" / "config.yaml").read_text())[g]["_target_"] for g in ("hardware", "logger")
    ]
    assert set(names) <= MOVED.keys()
    out = ended(f"run.dir={runs / 'stopped'}").out
    assert "going on from meta-step 3" in out
    whole, went_on = saved(runs / "whole"), saved(runs / "stopped")
    assert whole.keys() == went_on.keys()
    for name, expected in whole.items():
        np.testing.assert_allclose(went_on[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    trained = [[row for row in rows(runs / name) if row["split"] == "train"] for name in ("whole", "stopped")]
    assert [row["step"] for row in trained[1]] == [row["step"] for row in trained[0]]
    results = [json.loads((runs / name / "results.json").read_text()) for name in ("whole", "stopped")]
    np.testing.assert_allclose(results[1]["test"]["mse"]["mean"], results[0]["test"]["mse"]["mean"], rtol=1e-4)
    text = report.as_text(report.as_markdown(report.read(report.find([runs]))))
    assert text.count("maml") >= 2


def test_its_configuration_is_what_it_was(runs):
    stored = yaml.safe_load((runs / "whole" / "config.yaml").read_text())
    auto = yaml.safe_load((Path(__file__).parents[2] / "conf" / "hardware" / "auto.yaml").read_text())
    later = {"run": stored["run"] | {"max_silent_minutes": 15}, "hardware": auto}
    now = resume(runs / "whole", stored | later, [])
    assert build_run(now).train.steps == 8
    assert now["hardware"] == auto | stored["hardware"]


def test_a_setting_that_a_component_got_later_is_what_it_was_by_default(tmp_path):
    """Also a component's within another, and an optimizer's: `learner.memory.times`, `optimizer.entropy_weight`."""
    now = composed("task=bandits", "learner=rl2", "learner.memory.times=logarithmic", f"run.dir={tmp_path}")
    stored = json.loads(json.dumps(now))
    del stored["learner"]["memory"]["times"], stored["optimizer"]["entropy_weight"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    resumed = resume(tmp_path, now, [])
    assert build_run(resumed).learner.memory.times == "uniform"
    assert resumed["optimizer"] == now["optimizer"] | {"entropy_weight": 0}


def test_a_setting_that_a_model_got_later_is_what_it_was_by_default(tmp_path):
    """For a run that goes on, and for what was learned: `model.features`. What flax and the hardware set is none."""
    now = composed("learner=reptile", "model=conv4", f"run.dir={tmp_path}")
    stored = json.loads(json.dumps(now))
    del stored["learner"]["moments"], stored["model"]["features"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    resumed = resume(tmp_path, now, [])
    assert resumed["model"] == now["model"]
    assert build_run(resumed).shape == build_run(now).shape
    assert parts(stored, 5, "accuracy") == parts(now, 5, "accuracy")


class WithDefaults(nn.Module):
    """A model of one's own whose every field has a default, those that the runner sets among them."""

    hidden: int = 8
    n_out: int | None = None
    dtype: str | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_out or self.hidden, name="head")(x.reshape(len(x), -1))


def test_what_the_runner_sets_in_a_model_is_no_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", f"blobs,{WithDefaults.__module__}")
    now = on_blobs("learner=maml", f"run.dir={tmp_path}")
    now["model"] = {"_target_": f"{WithDefaults.__module__}.WithDefaults", "hidden": 8}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(now))
    assert resume(tmp_path, now, [])["model"] == now["model"]
    assert parts(now, 3, "accuracy").model.n_out == 3
