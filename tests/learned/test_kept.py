"""A learner in a directory of its own: the same learner, and nothing that is not whole."""

import contextlib
import dataclasses
import errno
import json
import re
import shutil
import threading
from datetime import date
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load as arrays_of
from safetensors.numpy import load_file
from support import composed, equal, on_blobs
from test_learner import learned_of, on_blobs_learned

from metarun.config.run import build_run
from metarun.core import ConfigError, DataError
from metarun.learned import keep, kept, load, load_adapted, weights

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.mark.parametrize(("name", "model"), [("maml", "mlp"), ("mann", "mlp"), ("protonet", "pixels")])
def test_it_is_the_same_learner_and_answers_as_before(name, model, tmp_path):
    values = on_blobs(f"learner={name}")
    if model == "pixels":  # it has no parameters, and the learner none but its
        values["model"] = composed("model=pixels")["model"]
    learned = learned_of(build_run(values))
    keep(learned, tmp_path / "one")
    again = load(tmp_path / "one")
    equal(again.params, learned.params)
    assert jax.tree.structure(again.params) == jax.tree.structure(learned.params)
    assert again.purpose == learned.purpose
    adapted = learned.adapt(X[:3], ["b", "a", "c"], seed=5)
    keep(adapted, str(tmp_path / "two"))
    other = load_adapted(tmp_path / "two")
    np.testing.assert_array_equal(other.predict_proba(X), adapted.predict_proba(X))
    np.testing.assert_array_equal(other.predict(X), adapted.predict(X))
    assert load(tmp_path / "two").purpose == learned.purpose  # what was adapted can be adapted anew


def test_parameters_of_bfloat16_are_kept_as_they_are(tmp_path):
    learned = learned_of(build_run(on_blobs("learner=protonet")))
    narrow = dataclasses.replace(learned, params=jax.tree.map(lambda leaf: leaf.astype("bfloat16"), learned.params))
    keep(narrow, tmp_path / "one")
    again = load(tmp_path / "one").params
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(again)} == {"bfloat16"}
    equal(again, narrow.params)


@pytest.mark.parametrize("given", [None, 3, b"run", ["run"]])
def test_what_names_no_directory_is_one_line(given):
    for read in (load, load_adapted):
        with pytest.raises(ConfigError, match=f"run={re.escape(str(given))}: must be a run's directory, one that a"):
            read(given)


def test_what_was_kept_has_one_state(tmp_path):
    learned = on_blobs_learned("learner=maml")
    keep(learned, tmp_path / "one")
    for place in (tmp_path / "one", "waves-maml"):
        with pytest.raises(ConfigError, match=f"state=best: {place} was kept with one state; leave it out"):
            load(place, state="best")


def test_inner_steps_and_numbers_as_labels_are_kept(tmp_path):
    learned = on_blobs_learned("learner=maml")
    adapted = learned.adapt(X[:2], [30, 4], inner_steps=np.int64(7), seed=np.uint8(5))
    keep(adapted, tmp_path)
    again = load_adapted(tmp_path)
    assert again.classes.tolist() == [4, 30]
    assert (again.inner_steps, again.seed) == (7, 5)
    np.testing.assert_array_equal(again.outputs(X), adapted.outputs(X))
    assert not np.allclose(again.outputs(X), learned.adapt(X[:2], [30, 4]).outputs(X))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2**63 + 1, 5, 2**63 + 2], np.uint64),  # whose last two are one float
        [2**63 + 1, -5, 2**63 + 2],
        np.array([0.1, 0.3, 0.2], np.float32),
        ["b", "a", "cde"],
        np.array(["2026-01-02", "2025-01-01", "2026-01-01"], "datetime64[D]"),
    ],
)
def test_labels_are_kept_as_they_were_given(labels, tmp_path):
    adapted = on_blobs_learned("learner=maml").adapt(X[:3], labels)
    assert adapted.classes.tolist() == sorted(np.asarray(labels, adapted.classes.dtype).tolist())
    keep(adapted, tmp_path)
    again = load_adapted(tmp_path)
    assert again.classes.dtype == adapted.classes.dtype
    assert again.predict(X).tolist() == adapted.predict(X).tolist()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([b"a", b"b"], "y=b'a': labels of type bytes cannot be kept; adapt to text, numbers or datetime64"),
        ([1j, 2j], "y=1j: labels of type complex cannot be kept"),
        ([date(2026, 1, 1), date(2026, 1, 2)], "y=2026-01-01: labels of type date cannot be kept"),
    ],
)
def test_labels_that_cannot_be_kept_are_refused_before_anything_is_written(labels, said, tmp_path):
    adapted = on_blobs_learned("learner=maml").adapt(X[:2], labels)
    with pytest.raises(ConfigError, match=said):
        keep(adapted, tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_the_weights_are_a_safetensors_file_a_name_a_leaf(tmp_path):
    learned = on_blobs_learned("learner=maml")
    keep(learned, tmp_path)
    arrays = load_file(tmp_path / "params.safetensors")
    assert arrays.keys() == {"dense0/kernel", "dense0/bias", "head/kernel", "head/bias"}
    np.testing.assert_array_equal(arrays["head/kernel"], learned.params["head"]["kernel"])
    one_number = dataclasses.replace(learned, params={"scale": np.float32(4)})
    assert arrays_of(weights(one_number.params))["scale"].shape == ()


def test_what_is_damaged_is_told_and_never_read(tmp_path):
    keep(on_blobs_learned("learner=protonet"), tmp_path)
    content = bytearray((tmp_path / "params.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "params.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"holds no whole learner \(params.safetensors is not what was written\)"):
        load(tmp_path)
    (tmp_path / "params.safetensors").unlink()
    with pytest.raises(DataError, match="holds no whole learner"):
        load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"sha256": []}, {"config": []}, {"config": {"learner": []}}, {"purpose": {"prepares": "x"}},
        {"purpose": {"dtype": "flobt32"}}, {"empty": 3},
    ],
)  # fmt: skip
def test_what_is_told_of_a_learner_in_another_form_is_no_learner(damage, tmp_path):
    keep(on_blobs_learned("learner=protonet"), tmp_path)
    told = json.loads((tmp_path / "learner.json").read_text())
    changed = {part: told[part] | to if isinstance(to, dict) else to for part, to in damage.items()}
    (tmp_path / "learner.json").write_text(json.dumps(told | changed))
    with pytest.raises(DataError, match="holds no whole learner"):
        load(tmp_path)


def test_of_two_that_keep_a_learner_in_one_directory_the_second_waits(tmp_path):
    place, link = tmp_path / "place", tmp_path / "link"
    keep(on_blobs_learned("learner=maml"), place)
    link.symlink_to(place)
    adapted = on_blobs_learned("learner=maml").adapt(X[:2], [30, 4])
    second = threading.Thread(target=keep, args=(adapted, link))
    with kept.only_writer_in(place):
        second.start()
        second.join(timeout=0.5)
        assert second.is_alive()
        assert "adapted" not in json.loads((place / "learner.json").read_text())
    second.join(timeout=20)
    assert load_adapted(place).classes.tolist() == [4, 30]
    assert {file.name for file in place.iterdir()} == {"learner.json", "params.safetensors", "support.npz"}


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("again", [False, True])
def test_over_another_learner_the_old_or_the_new_one_is_whole_wherever_it_is_cut_short(
    tmp_path, monkeypatch, at, again
):
    learned = on_blobs_learned("learner=maml")
    one, other = (learned.adapt(X[first : first + 2], [30, 4]) for first in (0, 2))
    keep(one, tmp_path)
    if again:  # a process that was killed before learner.json was the new one left this
        for name in ("params.safetensors", "support.npz"):
            shutil.copy(tmp_path / name, tmp_path / f".{name}.before")
            (tmp_path / name).write_bytes(b"of another")
    calls = []

    def cut_short(partial, place):
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        calls.append(place.name)
        return rename(partial, place)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", cut_short)
    with contextlib.suppress(OSError):
        keep(other, tmp_path)
    wanted = other if "learner.json" in calls else one
    np.testing.assert_array_equal(load_adapted(tmp_path).outputs(X), wanted.outputs(X))
    monkeypatch.undo()
    keep(other, tmp_path)
    np.testing.assert_array_equal(load_adapted(tmp_path).outputs(X), other.outputs(X))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["learner.json", "params.safetensors", "support.npz"]


def test_a_later_version_and_another_directory_are_told_apart(tmp_path):
    learned = on_blobs_learned("learner=protonet")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else; name a new one"):
        keep(learned, tmp_path / "other")
    keep(learned, tmp_path / "one")
    with pytest.raises(ConfigError, match="holds a learner that is adapted to nothing"):
        load_adapted(tmp_path / "one")
    with pytest.raises(ConfigError, match="holds no adapted learner"):
        load_adapted(tmp_path / "other")
    told = json.loads((tmp_path / "one" / "learner.json").read_text())
    (tmp_path / "one" / "learner.json").write_text(json.dumps(told | {"version": 99, "metarun": "9.9"}))
    with pytest.raises(DataError, match=r"is of metarun 9.9, this is .*: upgrade it"):
        load(tmp_path / "one")
