"""`metarun adapt` and `metarun predict` on images: files in, the learner's own answers out."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from own_files import NAMES, answers_of
from PIL import Image
from support import composed, untrained

from metarun.config.run import build_run
from metarun.learned import load
from metarun.run import purpose


def test_folders_of_images_give_what_the_arrays_give_and_the_accuracy(ended, drawings, tmp_path):
    adapted = load(drawings.run).adapt(drawings.support_x, drawings.support_y)
    expected, predicted = (ask(drawings.query_x) for ask in (adapted.predict_proba, adapted.predict))
    paths = "--support", drawings.support, "--query", drawings.query
    said = ended("adapt", drawings.run, *paths, "--json", "a.json", "--csv", "a.csv")
    assert (said.code, said.err) == (0, "")
    p, found = answers_of(tmp_path / "a.json", list(NAMES))
    np.testing.assert_array_equal(p, expected)
    assert found.keys() == {"classes", "predictions", "accuracy"}
    assert [one["predicted"] for one in found["predictions"]] == predicted.tolist()
    files = [f"{drawings.query}/{label}/{i:03}.png" for i, label in enumerate(drawings.query_y)]
    assert [one["query"] for one in found["predictions"]] == files
    accuracy = (predicted == drawings.query_y).mean()
    assert found["accuracy"] == pytest.approx(accuracy)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert list(rows[0]) == ["query", "label", "predicted", *(f"p({name})" for name in NAMES)]
    np.testing.assert_array_equal([[float(row[f"p({name})"]) for name in NAMES] for row in rows], expected)
    assert [row["label"] for row in rows] == drawings.query_y.tolist()
    assert [row["predicted"] for row in rows] == predicted.tolist()
    assert f"accuracy {accuracy:.2%}: {round(25 * accuracy)} of 25" in said.out
    assert "25 queries, each predicted alone" in said.out
    assert "5-way 1-shot" in said.out
    assert "support: 5 images, as the run had them: dark on white becomes light on black" in said.out


def test_queries_may_bear_on_each_other(ended, drawings, tmp_path):
    """A model that normalises by what it is given."""
    run = untrained("protonet", tmp_path / "run", "task=strokes", "model.norm=batch")
    learned = load(run)
    adapted = learned.adapt(drawings.support_x, drawings.support_y)
    found = {}
    for queries, how in (("alone", "each predicted alone"), ("together", "all predicted together")):
        paths = "--support", drawings.support, "--query", drawings.query
        said = ended("adapt", run, *paths, "--queries", queries, "--json", "a.json")
        assert f"25 queries, {how}" in said.out
        found[queries], _ = answers_of(tmp_path / "a.json", list(NAMES))
        np.testing.assert_allclose(found[queries], adapted.predict_proba(drawings.query_x, queries), atol=1e-6)
    assert np.abs(found["alone"] - found["together"]).max() > 1e-3


def test_the_curve_is_what_other_numbers_of_inner_steps_give(ended, drawings):
    learned = load(drawings.run)
    said = ended("adapt", drawings.run, "--support", drawings.support, "--query", drawings.query)
    curve = []
    for steps in (0, 1, 3, 5):
        adapted = learned.adapt(drawings.support_x, drawings.support_y, inner_steps=steps)
        curve.append(f"{steps}: {(adapted.predict(drawings.query_x) == drawings.query_y).mean():.2%}")
    assert f"accuracy by inner steps  {', '.join(curve)}\n" in said.out
    own = ended("adapt", drawings.run, "--support", drawings.support, "--query", drawings.query, "--inner-steps", "9")
    nine = learned.adapt(drawings.support_x, drawings.support_y, inner_steps=9).predict(drawings.query_x)
    assert f"accuracy {(nine == drawings.query_y).mean():.2%}: " in own.out
    assert ", 9: " in own.out


def test_what_was_kept_answers_queries_without_labels_and_single_images(ended, drawings, tmp_path):
    said = ended("adapt", drawings.run, "--support", drawings.named, "--save", "-kept")
    assert said.code == 0
    assert said.out.endswith("files  ./-kept\n")
    expected = load(drawings.run).adapt(drawings.support_x, drawings.support_y).predict_proba(drawings.query_x)
    said = ended("predict", "./-kept", "--query", drawings.flat, "--json", "-")
    found = json.loads(said.out)
    assert found["accuracy"] is None
    p = np.array([[one["probabilities"][name] for name in NAMES] for one in found["predictions"]])
    np.testing.assert_array_equal(p, expected)
    assert "25 queries, without labels, each predicted alone" in said.err  # what people read is not in the JSON's way
    one = ended("predict", "./-kept", "--query", drawings.flat / "bee_007.png", "--csv", "-")
    row = next(csv.DictReader(io.StringIO(one.out)))
    assert row["query"] == str(drawings.flat / "bee_007.png")
    np.testing.assert_allclose([float(row[f"p({name})"]) for name in NAMES], expected[7], rtol=1e-5)


def test_images_of_any_size_and_colour_are_brought_to_the_models_and_that_is_told(ended, drawings, tmp_path):
    """Enlarged fourfold, in colour and turned over to an archive, they come out as they were, nearly."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in sorted(drawings.support.rglob("*.png")):
            large = Image.open(file).convert("RGB").resize((112, 112), Image.Resampling.LANCZOS)
            (content := io.BytesIO(), large.save(content, "PNG"))
            archive.writestr(f"wrapped/{file.parent.name}/{file.name}", content.getvalue())
    said = ended("adapt", drawings.run, "--support", "s.zip", "--query", drawings.query, "--json", "a.json")
    assert "s.zip: 5 images, as the run had them: 112x112 becomes 28x28, in colour becomes grey, dark on" in said.out
    p, _ = answers_of(tmp_path / "a.json", list(NAMES))
    exact = load(drawings.run).adapt(drawings.support_x, drawings.support_y).predict_proba(drawings.query_x)
    assert np.abs(p - exact).max() < 0.05


def test_arrays_of_images_are_as_good_as_files_and_colour_becomes_grey(ended, drawings, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.repeat(drawings.support_x, 3, axis=3), y=drawings.support_y)
    np.savez(tmp_path / "q.npz", x=drawings.query_x)
    said = ended("adapt", drawings.run, "--support", "s.npz", "--query", "q.npz", "--json", "a.json")
    assert "s.npz: 3 channels become 1, grey, as in training" in said.out
    p, found = answers_of(tmp_path / "a.json", list(NAMES))
    exact = load(drawings.run).adapt(drawings.support_x, drawings.support_y).predict_proba(drawings.query_x)
    np.testing.assert_allclose(p, exact, rtol=1e-6)
    assert [one["query"] for one in found["predictions"]] == list(range(1, 26))


def test_a_runs_directory_and_which_of_its_states(ended, blobs_run, tmp_path):
    run = blobs_run
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x, y=[30, 4, 30, 4, 4, 7])  # whole numbers are names as good as others
    np.savez(tmp_path / "q.npz", x=x)
    paths = "--support", "s.npz", "--query", "q.npz", "--json", "a.json"
    for state, words in (("best", "best state, of meta-step"), ("last", "last state, of meta-step 2, adapted")):
        said = ended("adapt", run, *paths, "--state", state)
        assert f"maml of {run}, {words}" in said.out
        adapted = load(run, state).adapt(x, ["30", "4", "30", "4", "4", "7"])
        np.testing.assert_array_equal(answers_of(tmp_path / "a.json", ["30", "4", "7"])[0], adapted.predict_proba(x))
    assert "3-way, 1 to 3 shots" in said.out


def test_more_queries_than_fit_a_screen_are_all_in_the_file(ended, drawings, tmp_path):
    np.savez(tmp_path / "q.npz", x=np.concatenate([drawings.query_x, drawings.query_x]))
    said = ended("adapt", drawings.run, "--support", drawings.support, "--query", "q.npz", "--json", "a.json")
    assert "and 20 more; --json and --csv have all" in said.out
    assert len(answers_of(tmp_path / "a.json", list(NAMES))[1]["predictions"]) == 50


def test_omniglots_own_files_become_its_own_drawings(omniglot_dir, tmp_path):
    """The published PNGs, 105 x 105, through what a run keeps of its preparation."""
    import zipfile

    from metarun.data import images_of_task
    from metarun.tasks import omniglot

    run = build_run(composed("task=omniglot", "learner=protonet", f"data_dir={omniglot_dir}"))
    one = purpose.Purpose((28, 28, 1), "float32", "accuracy", 5, run.tasks.prepares)
    prepares = purpose.of_json(json.loads(json.dumps(purpose.as_json(one)))).prepares
    names, drawings = omniglot.load_drawings(omniglot_dir)
    chosen = ["Greek/character01", "Latin/character07", "Futurama/character03"]
    with zipfile.ZipFile(Path(omniglot_dir) / "omniglot" / "images_background.zip") as archive:
        for name in chosen:
            for member in sorted(n for n in archive.namelist() if f"/{name}/" in n and n.endswith(".png")):
                file = tmp_path / name / Path(member).name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(member))
    found = images_of_task(str(tmp_path), prepares)
    for name in chosen:
        own = found.x[[label == name for label in found.labels]]
        np.testing.assert_array_equal(own[..., 0], drawings[names.index(name)])
