"""`metarun adapt` and `metarun predict` on texts and tables: files in, the learner's own answers out."""

import csv
import io
import json

import numpy as np
import owned
import pytest
from own_files import answers_of
from support import untrained

from metarun.core import ConfigError
from metarun.data import Columns, Roles, columns_in, table_in
from metarun.learned import load
from metarun.run import purpose


def test_texts_are_encoded_as_in_training(ended, texts_run, tmp_path):
    support = [("red as blood", "r"), ("so red", "r"), ("blue as the sea", "b"), ("no label", None)]
    lines = [json.dumps({"text": text, "label": label, "more": 1}) for text, label in support]
    (tmp_path / "s.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "q.csv").write_text("text,label\nred,r\nblue,\nblue sea,b\n")
    said = ended("adapt", texts_run, "--support", "s.jsonl", "--query", "q.csv", "--json", "a.json", "--csv", "a.csv")
    assert (said.code, said.err) == (0, "")
    assert [row["label"] for row in csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))] == ["r", "", "b"]
    learned = load(texts_run)
    encode = learned.purpose.prepares.encode
    adapted = learned.adapt(encode([text for text, _ in support[:3]]), ["r", "r", "b"])
    by_texts = learned.adapt([text for text, _ in support[:3]], ["r", "r", "b"])
    np.testing.assert_array_equal(by_texts.outputs(["red", " blue "]), adapted.outputs(encode(["red", "blue"])))
    with pytest.raises(ConfigError, match="x=rows by their columns: are for what was trained on a table"):
        learned.adapt({"text": ["red", "blue"]}, ["r", "b"])
    p, found = answers_of(tmp_path / "a.json", ["b", "r"])
    queries = encode(["red", "blue", "blue sea"])
    np.testing.assert_allclose(p, adapted.predict_proba(queries), rtol=1e-6)
    right = adapted.predict(queries)[[0, 2]] == ["r", "b"]
    assert found["accuracy"] == right.mean()  # of those that have a label
    assert "1 rows have no label and are left out: line 4" in said.out
    assert "2-way, 1 to 2 shots" in said.out


def test_plain_text_is_a_text_a_line_and_in_a_folder_a_file_a_class(ended, texts_run, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "red.txt").write_bytes(b"\xef\xbb\xbfred as blood\r\n\r\n so red, too\r\n")
    (tmp_path / "s" / "blue.txt").write_text("blue as the sea")
    (tmp_path / "q.txt").write_text("\nred\n[blue], sea\n")
    said = ended("adapt", texts_run, "--support", "s", "--query", "q.txt", "--json", "a.json", "--save", "kept")
    assert (said.code, said.err) == (0, "")
    assert "2-way, 1 to 2 shots" in said.out
    learned = load(texts_run)
    encode = learned.purpose.prepares.encode
    adapted = learned.adapt(encode(["blue as the sea", "red as blood", "so red, too"]), ["blue", "red", "red"])
    p, found = answers_of(tmp_path / "a.json", ["blue", "red"])
    np.testing.assert_allclose(p, adapted.predict_proba(encode(["red", "[blue], sea"])), rtol=1e-6)
    assert [one["query"] for one in found["predictions"]] == [2, 3]  # lines
    assert found["accuracy"] is None
    (tmp_path / "table.txt").write_text('"text"\tlabel\nblue sea\tblue\n')  # a table by its first line
    for query, names in (("s", ["s/blue.txt:1", "s/red.txt:1", "s/red.txt:3"]), ("table.txt", [1])):
        assert ended("predict", "kept", "--query", query, "--json", "a.json").code == 0
        _, found = answers_of(tmp_path / "a.json", ["blue", "red"])
        assert [one["query"] for one in found["predictions"]] == names
        assert found["accuracy"] is not None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--support q.txt --query q.txt", 2, "--support=q.txt: has no labels; give a folder with a CLASS.txt for each"),
        ("--support empty --query q.txt", 2, "--support=empty: holds no CLASS.txt; a folder of texts has one for each"),
        ("--support s --query no.txt", 1, "no.txt holds no text; a text a line is wanted"),
        ("--support s --query bytes.txt", 1, "bytes.txt is no text in UTF-8"),
        ("--support s --query other", 2, "--query=other: green: no class of the support set, which has blue, red"),
    ],
)
def test_a_mistake_in_plain_text_is_one_line(ended, texts_run, tmp_path, words, code, said):
    for name in ("s/red.txt", "s/blue.txt", "q.txt", "other/green.txt", "empty/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "no.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    before = sorted(tmp_path.rglob("*"))
    found = ended("adapt", texts_run, *words.split(), "--json", "a.json")
    assert said in found.err
    assert (found.code, found.out, found.err.count("\n")) == (code, "", 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_are_what_they_are_whatever_stands_in_them(ended, texts_run, tmp_path):
    """Markup is none, an escape sequence is spelt out, and what UTF-8 cannot hold does not end the program."""
    labels = ["[red]a[/]", "b\x1b[2J", "\ud800"]
    lines = [json.dumps({"text": f"word{i}", "label": label}) for i, label in enumerate(labels)]
    (tmp_path / "s.jsonl").write_text("\n".join(lines) + "\n")
    said = ended("adapt", texts_run, "--support", "s.jsonl", "--query", "s.jsonl", "--json", "a.json", "--csv", "a.csv")
    assert said.code == 0
    assert "[red]a[/]" in said.out
    assert "b\\x1b[2J" in said.out
    assert "\x1b[2J" not in said.out
    answers_of(tmp_path / "a.json", ["[red]a[/]", "b\x1b[2J", "\ufffd"])


def test_a_tables_rows_are_standardised_as_in_training_and_told_in_their_own_units(ended, people_run, tmp_path):
    (tmp_path / "s.csv").write_text("ward,response,dose,note\nnorth,1.5,0.25,x\nwest,2.5,,y\nsouth,,1,z\n")
    (tmp_path / "q.csv").write_text("dose,ward,response\n0.5,north,2\n-1,south,\n")
    said = ended("adapt", people_run, "--support", "s.csv", "--query", "q.csv", "--json", "a.json", "--csv", "a.csv")
    assert (said.code, said.err) == (0, "")
    learned = load(people_run)
    columns = learned.purpose.prepares
    (dose, ward), (response,) = columns.features, columns.targets
    assert (dose.name, ward.name, ward.known, response.name) == ("dose", "ward", ("north", "south"), "response")

    def row(number: float, *places: int) -> list[float]:
        return [(number - dose.mean) / dose.spread, *places]

    x = np.array([row(0.25, 1, 0), row(dose.mean, 0, 0)], np.float32)  # what is missing is the mean; west is unknown
    y = (np.array([1.5, 2.5], np.float32) - response.mean) / response.spread
    queries = np.array([row(0.5, 1, 0), row(-1, 0, 1)], np.float32)
    expected = learned.adapt(x, y).predict(queries) * response.spread + response.mean
    # In Python rows may be given as they stand in the table, by the names of their columns.
    rows = {"ward": ["north", None], "dose": [0.25, np.nan], "note": ["x", "y"]}
    own = learned.adapt(rows, [1.5, 2.5]).predict({"dose": [0.5, -1], "ward": np.array(["north", "south"])})
    np.testing.assert_allclose(own, expected, rtol=1e-5)
    assert learned.adapt(rows, [1.5, 2.5]).predict(queries).dtype == np.float32  # arrays are the model's own
    with pytest.raises(ConfigError, match="x=the columns dose: must hold those of training, ward too"):
        learned.adapt({"dose": [1, 2]}, [1, 2])
    with pytest.raises(ConfigError, match=r"x=dose, 1.5: must be a list of values, one a row"):
        learned.adapt({"dose": 1.5, "ward": ["north"]}, [1.0])
    with pytest.raises(ConfigError, match="x=columns without rows"):
        learned.adapt({"dose": [], "ward": []}, [])
    with pytest.raises(ConfigError, match="x=columns of several lengths"):
        learned.adapt({"dose": [1, 2], "ward": ["north"]}, [1, 2])
    found = json.loads((tmp_path / "a.json").read_text())
    assert found.keys() == {"targets", "predictions", "mse"}
    assert found["targets"] == ["response"]
    np.testing.assert_allclose([one["predicted"] for one in found["predictions"]], expected, rtol=1e-4)
    assert [one["query"] for one in found["predictions"]] == [1, 2]
    assert found["mse"] == pytest.approx((found["predictions"][0]["predicted"][0] - 2) ** 2, rel=1e-4)
    assert (tmp_path / "a.csv").read_text().startswith("query,response,predicted response\n1,2.0")
    assert "mse by inner steps  0: " in said.out
    assert "text that training does not hold is taken for no category: ward 1" in said.out
    assert "1 rows have no response and are left out: line 4" in said.out


def test_a_learner_that_knows_how_sure_it_is_says_so_in_the_tables_units(ended, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("sure")
    settings = f"task.path={owned.people(folder)}", *owned.OF_PEOPLE
    run = untrained("cnp", folder / "run", "task=table", *settings)
    (tmp_path / "s.csv").write_text("ward,response,dose\nnorth,1.5,0.25\nnorth,2.5,1\n")
    (tmp_path / "q.csv").write_text("dose,ward,response\n0.5,north,2\n-1,south,\n")
    said = ended("adapt", run, "--support", "s.csv", "--query", "q.csv", "--json", "a.json", "--csv", "a.csv")
    assert (said.code, said.err) == (0, "")
    learned = load(run)
    columns = learned.purpose.prepares
    by_columns = learned.adapt({"ward": ["north"] * 2, "dose": [0.25, 1]}, [1.5, 2.5])
    told = by_columns.predict({"ward": ["north", "south"], "dose": [0.5, -1]}, return_std=True)
    in_file = json.loads((tmp_path / "a.json").read_text())["predictions"]
    np.testing.assert_allclose(told[0], [one["predicted"] for one in in_file], rtol=1e-4)
    np.testing.assert_allclose(told[1], [one["sd"] for one in in_file], rtol=1e-4)
    from metarun.data.cells import read

    (x, _), y, (queries, _) = (
        columns.inputs(read("s.csv")), columns.outputs(read("s.csv")), columns.inputs(read("q.csv"))
    )  # fmt: skip
    mean, sd = learned.adapt(x, y).predict(queries, return_std=True)
    found = json.loads((tmp_path / "a.json").read_text())["predictions"]
    (response,) = columns.targets
    np.testing.assert_allclose([one["predicted"] for one in found], mean * response.spread + response.mean, rtol=1e-4)
    np.testing.assert_allclose([one["sd"] for one in found], sd * response.spread, rtol=1e-4)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert list(rows[0]) == ["query", "response", "predicted response", "sd response"]
    assert [float(row["sd response"]) for row in rows] == [one["sd"][0] for one in found]
    assert rows[1]["response"] == ""
    assert f"{found[0]['sd'][0]:.5g}" in said.out


def test_a_tables_classes_are_predicted_and_kept(ended, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("classes")
    path = owned.people(folder)
    settings = f"task.path={path}", "task.class_column=person", "train.task.ways=5"
    run = untrained("protonet", folder / "run", "task=table", *settings)
    (tmp_path / "s.csv").write_text("person,dose,ward,response\nA,0.1,north,1\nB,0.9,south,-1\n")
    (tmp_path / "q.csv").write_text("dose,ward,response\n0.1,north,1\n0.9,south,-1\n")
    assert ended("adapt", run, "--support", "s.csv", "--save", "kept").code == 0
    assert ended("predict", "kept", "--query", "q.csv", "--json", "a.json").code == 0
    _, found = answers_of(tmp_path / "a.json", ["A", "B"])
    assert [one["predicted"] for one in found["predictions"]] == ["A", "B"]  # what it was shown
    columns = load(run).purpose.prepares
    assert [one.name for one in columns.features] == ["dose", "ward", "response"]


def test_columns_give_the_training_data_again(tmp_path):
    """What is kept of a table, and was read from JSON, encodes it as the task did."""
    path = str(owned.people(tmp_path))
    roles, drawn = Roles("group", "person", ("response",), None, (), None), ((0.6, 0.2, 0.2), 0)
    columns = columns_in(path, roles, *drawn)
    one = purpose.Purpose((3,), "float32", "mse", 1, columns)
    again = purpose.of_json(json.loads(json.dumps(purpose.as_json(one)))).prepares
    assert isinstance(again, Columns)
    assert again == columns
    from metarun.data.cells import read

    pool = table_in(path, roles, *drawn).splits["train"].pool
    x, y = again.inputs(read(path))[0], again.outputs(read(path))
    every = {tuple(row) for row in np.concatenate([x, y], 1).tolist()}
    assert {tuple(row) for row in np.concatenate([pool.x, pool.y], 1).tolist()} <= every
    np.testing.assert_allclose(pool.y.mean(), 0, atol=1e-6)


def test_arrays_of_a_regression(ended, waves_run, tmp_path):
    x = np.linspace(-1, 1, 6)
    np.savez(tmp_path / "s.npz", x=x, y=np.sin(x))
    np.savez(tmp_path / "q.npz", x=x[:3], y=np.cos(x[:3]))
    said = ended("adapt", waves_run, "--support", "s.npz", "--query", "q.npz", "--json", "a.json", "--inner-steps", "2")
    expected = load(waves_run).adapt(x[:, None], np.sin(x), inner_steps=2).predict(x[:3, None])
    found = json.loads((tmp_path / "a.json").read_text())
    np.testing.assert_allclose([one["predicted"] for one in found["predictions"]], expected, rtol=1e-6)
    assert found["mse"] == pytest.approx(((expected[:, 0] - np.cos(x[:3])) ** 2).mean(), rel=1e-5)
    assert "6 examples" in said.out
