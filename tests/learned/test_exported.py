"""A learner as a program: it answers as the learner does, whatever the number of queries, and needs no metarun."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export
from support import GIVEN, composed
from test_learner import learned_of, on_blobs_learned

from metarun.config.run import build_run
from metarun.core import ConfigError
from metarun.learned import exported, load

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
Y = np.array([1, 0, 2])
CPU = ("cpu",)
FEW = ("maml", "protonet")  # make slow takes all


def called(one: exported.Exported, *given):
    return np.asarray(export.deserialize(bytearray(one.program)).call(*given))


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in GIVEN]
)
def test_it_answers_as_the_learner_does_for_any_number_of_queries(name):
    learned = on_blobs_learned(f"learner={name}", "hardware.devices=1")
    adapted = learned.adapt(X, Y)
    predictor, learner = exported.predictor(adapted), exported.learner(learned)
    assert predictor.told["platforms"] == learner.told["platforms"] == ["cpu", "cuda", "tpu"]
    for n in (1, 35):  # two blocks, and three that are left over
        x = RNG.normal(size=(n, 4)).astype(np.float32)
        wanted = adapted.predict_proba(x)
        np.testing.assert_allclose(called(predictor, x), wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(called(learner, X, Y.astype(np.int32), x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", ["alone", "together"])
def test_queries_have_the_support_set_for_company_or_each_other(queries):
    learned = on_blobs_learned("learner=protonet", "model.norm=batch")
    adapted = learned.adapt(X, np.datetime64("2026-01-01") + Y)
    one = exported.predictor(adapted, queries=queries, platforms=CPU)
    assert one.told["queries"] == queries
    assert one.told["classes"] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    for n in (2, 18):
        x = RNG.normal(size=(n, *learned.purpose.shape)).astype(np.float32)
        np.testing.assert_allclose(called(one, x), adapted.predict_proba(x, queries), rtol=1e-4, atol=1e-5)


def test_a_regression_gives_targets_and_inner_steps_are_as_asked_for():
    learned = learned_of(build_run(composed("task=sinusoid", "learner=maml", "model.hidden=[8]")))
    support_x, support_y = RNG.uniform(-5, 5, (2, 10, 1)).astype(np.float32)
    x = RNG.uniform(-5, 5, (4, 1)).astype(np.float32)
    one = exported.learner(learned, shots=np.int64(10), inner_steps=np.int64(3), platforms=CPU)
    assert json.loads(json.dumps(one.told)) == one.told
    assert one.told["inputs"][1] == {"name": "support_y", "shape": [10, 1], "dtype": "float32"}
    assert (one.told["ways"], one.told["inner_steps"], one.told["output"]["name"]) == (None, 3, "targets")
    wanted = learned.adapt(support_x, support_y, inner_steps=3).predict(x)
    np.testing.assert_allclose(called(one, support_x, support_y, x), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="ways=3: the run's task is a regression, which has none"):
        exported.learner(learned, ways=3)


@pytest.mark.parametrize("name", ["protonet", "metaoptnet"])
def test_it_is_in_the_models_numbers_where_jax_has_larger_ones(name):
    learned = on_blobs_learned(f"learner={name}", "hardware.devices=1")
    with jax.enable_x64(True):
        one = exported.learner(learned, platforms=CPU)
    assert one.told["output"]["dtype"] == "float32"
    wanted = learned.adapt(X, Y).predict_proba(X)
    np.testing.assert_allclose(called(one, X, Y.astype(np.int32), X), wanted, rtol=1e-5, atol=1e-5)


def test_a_learner_that_says_how_sure_it_is_gives_standard_deviations_beside_the_targets():
    learned = learned_of(build_run(composed("task=sinusoid", "learner=cnp", "model.hidden=[8]")))
    adapted = learned.adapt(*RNG.uniform(-5, 5, (2, 10, 1)))
    one = exported.predictor(adapted, platforms=CPU)
    assert one.told["output"] == {"name": "targets", "shape": ["b", 1], "dtype": "float32"}
    assert one.told["further_output"] == {"name": "sd", "shape": ["b", 1], "dtype": "float32"}
    assert one.told["call"] == "targets, sd = program.call(x)"
    x = RNG.uniform(-5, 5, (19, 1)).astype(np.float32)
    found = export.deserialize(bytearray(one.program)).call(x)
    np.testing.assert_allclose(found, adapted.predict(x, return_std=True), rtol=1e-5, atol=1e-5)


ALONE = """
import json, sys, zipfile

sys.path.append(sys.argv[1])
import jax.export
import numpy as np

with zipfile.ZipFile(sys.argv[1]) as file:
    program = jax.export.deserialize(bytearray(file.read("program.stablehlo")))
    told = json.loads(file.read("learner.json"))
assert "metarun" not in sys.modules and "flatbuffers" in sys.modules
print(json.dumps([told["classes"], sys.modules["flatbuffers"].__file__, program.call(np.load(sys.argv[2])).tolist()]))
"""


def test_the_file_needs_jax_alone_and_is_the_same_every_time(tmp_path):
    learned = on_blobs_learned("learner=protonet")
    adapted = learned.adapt(X, ["b", "a", "c"])
    for name in ("one.zip", "two.zip"):
        exported.write(tmp_path / name, exported.predictor(adapted))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    jax.config.update("jax_traceback_in_locations_limit", 10)  # as it is but in tests
    try:
        program = exported.predictor(adapted).program
    finally:
        jax.config.update("jax_traceback_in_locations_limit", 0)
    assert str(Path(exported.__file__).parent).encode() not in program
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zip", "two.zip"]
    np.save(tmp_path / "x.npy", X)
    # -S: without this environment's packages; those that jax itself needs are linked, and no others.
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("jax", "jaxlib", "ml_dtypes", "numpy", "numpy.libs", "opt_einsum", "scipy", "scipy.libs"):
        where = os.path.dirname(os.path.dirname(jax.__file__))
        if os.path.exists(os.path.join(where, name)):
            (packages / name).symlink_to(os.path.join(where, name))
    command = [sys.executable, "-S", "-P", "-c", ALONE, str(tmp_path / "one.zip"), str(tmp_path / "x.npy")]
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(packages)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    classes, reader, probabilities = json.loads(found.stdout)
    assert classes == ["a", "b", "c"]
    assert reader.startswith(str(tmp_path / "one.zip"))
    np.testing.assert_allclose(probabilities, adapted.predict_proba(X), rtol=1e-5, atol=1e-5)


def test_the_json_says_what_goes_in_and_out_and_how_it_was_prepared(tmp_path):
    learned = on_blobs_learned("learner=mann")
    exported.write(tmp_path / "one.zip", exported.learner(learned, ways=2, shots=4, seed=7, platforms=("tpu", "cpu")))
    with zipfile.ZipFile(tmp_path / "one.zip") as file:
        assert "flatbuffers/LICENSE" in file.namelist()
        told = json.loads(file.read("learner.json"))
    assert told["inputs"] == [
        {"name": "support_x", "shape": [8, 4], "dtype": "float32"},
        {"name": "support_y", "shape": [8], "dtype": "int32"},
        {"name": "x", "shape": ["b", 4], "dtype": "float32"},
    ]
    assert told["output"] == {"name": "probabilities", "shape": ["b", 2], "dtype": "float32"}
    wanted = {"kind": "learner", "ways": 2, "shots": 4, "seed": 7, "platforms": ["cpu", "tpu"], "preprocessing": None}
    assert told | wanted == told
    assert told["call"] == "probabilities = program.call(support_x, support_y, x)"
    assert told["jax"] == jax.__version__


def test_a_learner_that_adapts_at_random_does_so_by_its_seed():
    learned = on_blobs_learned("learner=mann")
    y = Y.astype(np.int32)
    for seed in (0, 7):
        one = exported.learner(learned, seed=seed, platforms=CPU)
        wanted = learned.adapt(X, Y, seed=seed).predict_proba(X)
        np.testing.assert_allclose(called(one, X, y, X), wanted, rtol=1e-5, atol=1e-5)
    assert not np.allclose(wanted, learned.adapt(X, Y).predict_proba(X), atol=1e-4)


def test_a_mistake_is_one_line():
    learned = on_blobs_learned("learner=maml")
    with pytest.raises(ConfigError, match="platforms=gpu: some of: cpu, cuda, tpu"):
        exported.learner(learned, platforms=("cpu", "gpu"))
    with pytest.raises(ConfigError, match="ways=4 classes: at most 3: MAML was trained with so many outputs"):
        exported.learner(learned, ways=4)
    with pytest.raises(ConfigError, match="shots=0: must be 1 or more"):
        exported.learner(learned, shots=0)
    for name in ("shots", "ways", "inner_steps", "seed"):
        for given in (1.5, -1, 2**63):
            with pytest.raises(ConfigError, match=f"{name}={given}: must be a whole number from 0 to "):
                exported.learner(learned, **{name: given})
    with pytest.raises(ConfigError, match="shots=2147483647: a support set of 10,737,418,235 has more numbers than"):
        exported.learner(load("strokes-maml"), shots=2**31 - 1, platforms=CPU)
    with pytest.raises(ConfigError, match="queries=both: must be one of: alone, together"):
        exported.learner(learned, queries="both", platforms=CPU)
    with pytest.raises(ConfigError, match="inner_steps=2: ProtoNet takes none"):
        exported.learner(on_blobs_learned("learner=protonet"), inner_steps=2)
