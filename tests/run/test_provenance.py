"""A run says which of its meta-steps were made where, and by which code."""

import importlib.metadata
import subprocess

import jax
import numpy as np
from jax.sharding import Mesh

from metarun.run import provenance
from metarun.run.provenance import commit, gone_on, of_two_precisions

HERE = {
    "device": "cpu",
    "devices": 1,
    "jax": importlib.metadata.version("jax"),
    "commit": commit(),
    "precision": "float32",
}


def here(devices: int = 1) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("tasks",))


def test_a_run_that_goes_on_elsewhere_has_one_stretch_more():
    begun = gone_on([], 0, here(), "float32")
    assert begun == [{"first": 0, **HERE}]
    assert gone_on(begun, 30, here(), "float32") == begun  # stopped, and gone on in the same place
    two = gone_on(begun, 30, here(2), "float32")
    assert two == [{"first": 0, **HERE}, {"first": 30, **HERE, "devices": 2}]
    assert gone_on(two, 50, here(), "float32") == [*two, {"first": 50, **HERE}]


def test_another_precision_is_another_stretch_and_is_said():
    begun = gone_on([], 0, here(), "float32")
    two = gone_on(begun, 6700, here(), "bfloat16")
    assert two == [*begun, {"first": 6700, **HERE, "precision": "bfloat16"}]
    assert of_two_precisions(two) == "hardware.precision: bfloat16 from meta-step 6,700 on, float32 before"
    older = [{key: value for key, value in two[0].items() if key != "precision"}, two[1]]
    assert [of_two_precisions(one) for one in (begun, older, [*two, two[1]])] == [None] * 3


def test_another_commit_or_version_is_another_place(monkeypatch):
    begun = gone_on([], 0, here(), "float32")
    monkeypatch.setattr(provenance, "commit", lambda: None)
    assert gone_on(begun, 8, here(), "float32") == [*begun, {"first": 8, **HERE, "commit": None}]


def test_a_stretch_that_was_broken_off_before_its_first_save_is_not_told():
    assert gone_on([{"first": 0, **HERE, "device": "gpu"}], 0, here(), "float32") == [{"first": 0, **HERE}]


def test_of_a_run_of_an_earlier_version_the_first_meta_steps_are_not_told():
    assert gone_on([], 700, here(), "float32") == [{"first": 700, **HERE}]


def test_code_is_changed_by_what_runs_not_by_pages_about_it(tmp_path, monkeypatch):
    """As a script that writes a page after each of several runs changes nothing that they are made from."""
    root = tmp_path.resolve()

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *words], cwd=root, check=True, capture_output=True, text=True
        ).stdout.strip()

    for file in ("metarun/__init__.py", "conf/config.yaml", "docs/results.md"):
        (root / file).parent.mkdir()
        (root / file).write_text("as it was\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.setattr(provenance.metarun, "__file__", str(root / "metarun" / "__init__.py"))
    here = {"id": git("rev-parse", "HEAD"), "changed": False}
    assert commit() == here
    (root / "docs" / "results.md").write_text("another\n")
    (root / "mine.yaml").write_text("mine\n")
    assert commit() == here
    (root / "conf" / "config.yaml").write_text("another\n")
    assert commit() == here | {"changed": True}
    git("checkout", "-q", "conf")
    (root / "metarun" / "learner.py").write_text("new\n")
    assert commit() == here | {"changed": True}
