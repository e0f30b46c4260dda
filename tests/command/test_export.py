"""`metarun export`: one file of a run or of what was adapted, and each mistake in one line."""

import json
import shlex
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import composed, drawn_like, run_in, to_yaml, untrained
from test_pages import blocks, section

from metarun import engine
from metarun.command import export, own
from metarun.config.run import build_run
from metarun.learned import Learned, keep, load
from metarun.learned.learner import MOST
from metarun.run.purpose import Purpose


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A learner of sine waves in a directory, and the same adapted to one of them."""
    directory = tmp_path_factory.mktemp("kept")
    run = build_run(composed("task=sinusoid", "learner=maml", "model.hidden=[4]"))
    x = np.linspace(-5, 5, 10, dtype=np.float32)[:, None]
    params = drawn_like(lambda: run.learner.init(engine.nets(run.shape)[0], jax.random.key(0), x))
    learned = Learned(run.config, Purpose((1,), "float32", "mse", 1, None), params, {})
    keep(learned, directory / "learned")
    keep(learned.adapt(x, np.sin(x)), directory / "adapted")
    return directory


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        export.main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    return said


def test_what_was_adapted_is_a_predictor_and_what_was_not_a_learner(kept, tmp_path, capsys):
    for name, given, said in (
        ("learned", ["--shots=7"], "learner, support_x (7, 1), support_y (7, 1), x (b, 1) -> targets (b, 1), for cpu"),
        ("adapted", [], "predictor, x (b, 1) -> targets (b, 1), for cpu"),
        ("adapted", ["--kind", "learner"], "learner, support_x (10, 1), support_y (10, 1), x (b, 1) -> targets (b, 1)"),
    ):
        export.main([str(kept / name), "--out", str(tmp_path / "one.zip"), "--platforms=cpu", *given])
        assert said in capsys.readouterr().out
        with zipfile.ZipFile(tmp_path / "one.zip") as file:
            assert said.startswith(json.loads(file.read("learner.json"))["kind"])


def test_weights_alone_are_what_was_learned(kept, tmp_path):
    export.main([str(kept / "adapted"), "--weights", str(tmp_path / "one.safetensors")])
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]
    found, learned = load_file(tmp_path / "one.safetensors"), load_file(kept / "learned" / "params.safetensors")
    assert found.keys() == learned.keys()
    np.testing.assert_array_equal(found["head/kernel"], learned["head/kernel"])


def test_a_mistake_is_one_line_and_nothing_is_written(kept, tmp_path, capsys):
    learned, adapted, out = kept / "learned", kept / "adapted", tmp_path / "one.zip"
    for arguments, said in (
        ((tmp_path / "none", "--out", out), "no such directory; name a run's directory"),
        ((learned, "--out", out, "--kind", "predictor"), "is adapted to no task; adapt it first (metarun adapt"),
        ((learned, "--out", out, "--kind", "both"), "--kind both: must be one of: predictor, learner"),
        ((learned, "--out", out, "--platforms", "cpu,gpu"), "platforms=gpu: some of: cpu, cuda, tpu"),
        ((learned, "--out", out, "--shots", "-1"), "--shots -1: must be a whole number from 0 to 2,147,483,647"),
        ((learned, "--out", out, "--inner-steps", "99999999999"), "--inner-steps 99999999999: must be a whole number"),
        ((learned, "--out", out, "--ways", "9" * 5_000), "999: must be a whole number from 0 to 2,147,483,647"),
        ((learned, "--out", out, "--ways", "\u0663"), "--ways \u0663: must be a whole number from 0 to 2,147,483,647"),
        ((learned, "--out", out, "--shots", "0"), "shots=0: must be 1 or more"),
        ((adapted, "--out", out, "--shots", "5"), "--shots: a predictor has adapted already; leave it out"),
        ((learned, "--out", tmp_path / "none" / "one.zip"), "cannot be written (make the directory first)"),
        ((learned, "--out", tmp_path), "is a directory; name a file in it"),
        ((learned, "--out"), "--out: is given no value"),
        ((learned, "--format", "onnx"), "--format: no such option; allowed: --out, "),
        ((learned,), "names no file; give one: metarun export"),
        ((learned, adapted, "--out", out), "names 2 directories; give one"),
        (("--out", out), "names no run; give one"),
    ):
        assert said in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_numbers_have_the_same_bounds_on_the_command_line_and_in_python():
    assert {f"--{name.replace('_', '-')}": most for name, most in MOST.items()} == own.WHOLE


def test_a_run_that_has_saved_nothing_is_told(tmp_path, capsys):
    run = run_in(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(run.config))
    assert "has saved nothing yet" in refused(capsys, tmp_path / "run", "--out", tmp_path / "one.zip")


def test_the_lines_of_the_page_run_as_they_stand_there(ended, tmp_path, monkeypatch):
    text = section((Path(__file__).parents[2] / "docs" / "use.md").read_text(), "Elsewhere, without metarun")
    (commands,), (of_what_was_adapted, of_the_learner) = blocks(text, ""), blocks(text, "python")
    run = untrained("protonet", tmp_path / "runs/strokes-protonet/first", "task=strokes")
    learned, random = load(run), np.random.default_rng(0)
    support_x, x = (random.random((n, 28, 28, 1), np.float32) for n in (25, 3))
    support_y = np.repeat(np.arange(5, dtype=np.int32), 5)
    adapted = learned.adapt(support_x, np.array(list("abcde"))[support_y])
    keep(adapted, tmp_path / "my_symbols")
    for line in commands.strip().splitlines():
        said = ended(*shlex.split(line, comments=True)[1:])
        assert (said.code, said.err) == (0, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"x": x, "support_x": support_x, "support_y": support_y}
    exec(of_what_was_adapted, names)
    np.testing.assert_allclose(names["probabilities"], adapted.predict_proba(x), atol=1e-5)
    exec(of_what_was_adapted.replace("symbols.zip", "learner.zip").split("probabilities =")[0] + of_the_learner, names)
    np.testing.assert_allclose(names["probabilities"], adapted.predict_proba(x), atol=1e-5)
    assert load_file("learner.safetensors").keys() == load_file(run / "params.safetensors").keys()
