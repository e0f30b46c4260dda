"""`metarun adapt`: what is wrong with a command or with files is one line, and nothing is written."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def small(drawings, tmp_path) -> SimpleNamespace:
    """Folders and files in which something is wrong, and some in which nothing is."""
    image = Image.new("L", (30, 30), 200)
    names = "one/a/1.png two/a/1.png two/b/1.png zebra/zebra/1.png zebra/a/1.png loose/first.png loose/b_2.png"
    names += " six/a/1.png six/b/1.png six/c/1.png six/d/1.png six/e/1.png six/f/1.png bad/a/1.png bad/b/1.png"
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "bad/b/1.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("text")
    np.savez(tmp_path / "few.npz", x=np.zeros((2, 5, 5)), y=["a", "b"])
    np.savez(tmp_path / "nan.npz", x=np.full((2, 28, 28, 1), np.nan), y=["a", "b"])
    np.savez(tmp_path / "floats.npz", x=np.zeros((2, 28, 28, 1)), y=[0.5, 1.5])
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 28, 28, 1)))
    np.savez(tmp_path / "objects.npz", x=np.zeros((2, 28, 28, 1)), y=np.array([{}, 1], object))
    np.savez(tmp_path / "long.npz", x=np.zeros((2, 28, 28, 1)), y=["a", "b", "c"])
    return drawings


GOOD = ("--support", "two", "--query", "two/a/1.png")
MISTAKES = {
    "": "adapt: names none; name one run: metarun adapt DIR",
    "RUN RUN": "adapt: names 2, ",
    "RUN": "adapt: what to adapt to is missing: --support PATH",
    "RUN --support two": "adapt: names nothing to do with it: --query PATH to ask it, --save DIR to keep it",
    "RUN --support two --save new --csv a": "adapt --csv: there are no answers without --query",
    "RUN --suport two": "adapt --suport: no such option; did you mean --support?",
    "RUN -s two": "adapt -s: no such option; allowed: --support, --query",
    "RUN --support": "adapt --support: needs a value: --support PATH",
    "RUN --support --query": "adapt --support: needs a value: --support PATH",
    "RUN --support two --support two": "adapt --support: stands there twice",
    "RUN GOOD --json - --csv -": "both cannot be standard output",
    "RUN GOOD --json gone/a.json": "adapt --json gone/a.json: cannot be written (make the directory first)",
    "RUN GOOD --csv two": "adapt --csv two: is a directory; name a file in it",
    "RUN GOOD --save two": "adapt --save two: holds something else; name a new directory",
    "RUN GOOD --save file": "adapt --save file: is a file; name a directory",
    "RUN GOOD --queries both": "adapt --queries both: must be one of: alone, together",
    "RUN GOOD --state first": "adapt --state first: must be one of: best, last",
    "RUN GOOD --state best": "/run was kept with one state; leave it out",
    "RUN GOOD --inner-steps -1": "adapt --inner-steps -1: must be a whole number from 0 to 2,147,483,647",
    "RUN GOOD --inner-steps 99999999999": "adapt --inner-steps 99999999999: must be a whole number from 0 to 2,147,",
    "RUN GOOD --seed 12345678901234567890": "adapt --seed 12345678901234567890: must be a whole number from 0 to 4,2",
    "RUN GOOD --seed x": "adapt --seed x: must be a whole number from 0 to",
    "run GOOD": "run=run: holds no run (no config.yaml); name a run's directory",
    "gone GOOD": "run=gone: no such directory, and none of metarun ready's",
    "RUN --support gone --query two": "--support=gone: no such folder, zip or tar",
    "RUN --support file --query two": "--support=file: is neither a folder nor a zip nor a tar",
    "RUN --support empty --query two": "--support=empty: holds no images",
    "RUN --support two --query empty": "--query=empty: holds no images",
    "RUN --support two --query zebra": "--query=zebra: zebra: no class of the support set, which has a, b; add",
    "RUN --support one --query two": "--support=1 class: at least two are needed to tell apart",
    "RUN --support two/a/1.png --query two": "is a single image; a folder with a directory a class is wanted",
    "RUN --support loose --query two": "--support=loose: no class stands in the name first.png; give a directory",
    "RUN --support six --query two": "--support=6 classes: at most 5: MAML was trained with so many outputs",
    "RUN --support few.npz --query two": "--support=an array (2, 5, 5): must be (n, 28, 28, 1), as in training",
    "RUN --support two --query few.npz": "--query=an array (2, 5, 5): must be (n, 28, 28, 1), as in training",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(ended, small, tmp_path, words):
    before = sorted(tmp_path.rglob("*"))
    given = words.replace("GOOD", " ".join(GOOD)).replace("RUN", str(small.run)).split()
    said = ended("adapt", *given)
    assert MISTAKES[words] in said.err
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert sorted(tmp_path.rglob("*")) == before


DAMAGED = {
    "--support bad --query two": "cannot be read as images and are left out: b/1.png",
    "--support nan.npz --query two": "nan.npz: x[0] holds nan; finite numbers are wanted",
    "--support floats.npz --query two": "floats.npz: y is float64 (2,); integers or text (n,) are wanted",
    "--support objects.npz --query two": "objects.npz: the values of y are Python objects; numbers and text",
    "--support long.npz --query two": "long.npz: x has 2 rows and y 3; there is one for each example",
    "--support two --query none.npz": "none.npz holds no examples: x has no rows",
}


@pytest.mark.parametrize("words", DAMAGED)
def test_what_is_damaged_is_one_line_and_nothing_is_written(ended, small, tmp_path, words):
    before = sorted(tmp_path.rglob("*"))
    said = ended("adapt", small.run, *words.split(), "--json", "a.json", "--save", "kept")
    assert DAMAGED[words] in said.err
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_checkpoint_is_one_line(ended, blobs_run, tmp_path):
    import shutil

    shutil.copytree(blobs_run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])
    said = ended("adapt", "run", "--support", "s.npz", "--query", "q.npz")
    assert said.err.startswith("metarun: run holds no whole checkpoint: ")
    assert (said.code, said.err.count("\n")) == (1, 1)


TABLES = {
    ("dose,ward\n1,north", "dose,ward\n1,north"): (2, "--support=s.csv: lacks the column response, as in training; it"),
    ("ward,response\nnorth,1", "dose,ward\n1,north"): (2, "--support=s.csv: lacks the column dose, as in training"),
    ("dose,ward,response\n1,north,1", "ward\nnorth"): (2, "--query=q.csv: lacks the column dose, as in training"),
    ("dose,ward,response\nmuch,north,1", "dose,ward\n1,north"): (1, "s.csv, line 2: 'much' in the column dose is no"),
    ("dose,ward,response\n1,north,high", "dose,ward\n1,north"): (1, "s.csv, line 2: 'high' in the column response is"),
    ("dose,ward,response\ninf,north,1", "dose,ward\n1,north"): (1, "s.csv, line 2: dose is infinite"),
    ("dose,ward,response\n1,north,", "dose,ward\n1,north"): (2, "--support=s.csv: no row has a response"),
    ("dose,ward,response\n1,north,1", "dose,ward"): (1, "q.csv holds no rows, only names: dose, ward"),
}


@pytest.mark.parametrize("content", TABLES)
def test_a_table_that_does_not_fit_is_one_line(ended, people_run, tmp_path, content):
    for name, text in zip(("s.csv", "q.csv"), content, strict=True):
        (tmp_path / name).write_text(text + "\n")
    said = ended("adapt", people_run, "--support", "s.csv", "--query", "q.csv", "--json", "a.json")
    code, line = TABLES[content]
    assert line in said.err
    assert (said.code, said.err.count("\n"), (tmp_path / "a.json").exists()) == (code, 1, False)


def test_texts_that_lack_a_column_or_are_no_text(ended, texts_run, tmp_path):
    (tmp_path / "s.csv").write_text("text,class\na,b\n")
    (tmp_path / "l.jsonl").write_text('{"text": "a", "label": ["b"]}\n')
    said = ended("adapt", texts_run, "--support", "s.csv", "--query", "s.csv")
    assert "--support=s.csv: lacks the column label, as in training; it has text, class" in said.err
    said = ended("adapt", texts_run, "--support", "l.jsonl", "--query", "s.csv")
    assert "l.jsonl, line 1: label is no text and no number" in said.err
    said = ended("adapt", texts_run, "--support", tmp_path, "--query", "s.csv")
    assert "holds no CLASS.txt; a folder of texts has one for each class" in said.err


def test_arrays_are_asked_for_where_the_run_had_arrays(ended, waves_run, tmp_path):
    (tmp_path / "s.csv").write_text("x\n1\n")
    said = ended("adapt", waves_run, "--support", "s.csv", "--save", "kept")
    assert "--support=s.csv: the run was trained on arrays; write numpy.savez('own.npz', x=x), x (n, 1)" in said.err
    said = ended("adapt", waves_run, "--support", "gone.npz", "--save", "kept")
    assert "--support=gone.npz: no such file" in said.err
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    said = ended("adapt", waves_run, "--support", "s.npz", "--save", "kept")
    assert "--support=an array (3, 2): must be (n, 1), as in training" in said.err
    said = ended("predict", waves_run, "--query", "s.npz")
    assert "holds a learner that is adapted to nothing; adapt it first" in said.err
    assert said.code == 2


def test_more_examples_than_fit_in_memory_are_refused_before_they_fill_it(ended, small, monkeypatch):
    monkeypatch.setattr("metarun.engine.free_host_bytes", lambda: 100)
    assert ended("adapt", small.run, "--support", "two", "--query", "two").code == 0  # so few are never asked about
    monkeypatch.setattr("metarun.learned.programs.ALWAYS_FREE", 100)
    said = ended("adapt", small.run, "--support", "two", "--query", "two")
    assert "--support=2 examples: they take 0.0 GiB at once where 0.0 are free; give fewer" in said.err
    assert said.code == 2
