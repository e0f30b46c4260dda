"""A run says which of its meta-steps were made where."""

import importlib.metadata

import jax
import numpy as np
from jax.sharding import Mesh

from metarun.run import provenance
from metarun.run.provenance import commit, gone_on

HERE = {"device": "cpu", "devices": 1, "jax": importlib.metadata.version("jax"), "commit": commit()}


def here(devices: int = 1) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("tasks",))


def test_a_run_that_goes_on_elsewhere_has_one_stretch_more():
    begun = gone_on([], 0, here())
    assert begun == [{"first": 0, **HERE}]
    assert gone_on(begun, 30, here()) == begun  # stopped, and gone on in the same place
    two = gone_on(begun, 30, here(2))
    assert two == [{"first": 0, **HERE}, {"first": 30, **HERE, "devices": 2}]
    assert gone_on(two, 50, here()) == [*two, {"first": 50, **HERE}]


def test_another_commit_or_version_is_another_place(monkeypatch):
    begun = gone_on([], 0, here())
    monkeypatch.setattr(provenance, "commit", lambda: None)
    assert gone_on(begun, 8, here()) == [*begun, {"first": 8, **HERE, "commit": None}]


def test_a_stretch_that_was_broken_off_before_its_first_save_is_not_told():
    assert gone_on([{"first": 0, **HERE, "device": "gpu"}], 0, here()) == [{"first": 0, **HERE}]


def test_of_a_run_of_an_earlier_version_the_first_meta_steps_are_not_told():
    assert gone_on([], 700, here()) == [{"first": 700, **HERE}]
