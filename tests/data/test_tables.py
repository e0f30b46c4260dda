"""Tables, arrays and texts of the user's own: what is read, by whose statistics, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from metarun.core import ConfigError, DataError
from metarun.data import Roles, arrays_in, columns_in, examples_of, rows_by_columns, table_in, texts_in
from metarun.data.cells import read
from metarun.data.encoders import HashedNGrams
from metarun.data.features import Categories, Columns, Numbers
from metarun.tasks.arrays import Arrays
from metarun.tasks.table import Table

DRAWN = ((0.6, 0.2, 0.2), 0)  # fractions and seed
ENCODER = HashedNGrams(64, (1, 1), (0, 0))


def written(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def table(path: Path, *lines: str, by="c", targets=(), features=None, categories=(), split="s"):
    kind = "group" if targets else "class"
    return table_in(written(path, *lines), Roles(kind, by, targets, features, categories, split), *DRAWN)


# Training is 1, 2, 3, 4 and red or blue; the test's numbers and its green are far off.
COLOURS = ("c,s,a,colour,t", "k,train,1,red,10", "k,train,2,blue,20", "l,train,3,red,30", "l,train,4,red,40",
           "m,val,100,green,50", "n,test,-7,red,60", "n,test,,,25")  # fmt: skip


def test_columns_are_encoded_by_the_training_rows_alone(tmp_path):
    found = table(tmp_path / "t.csv", *COLOURS, targets=("t",))
    spread = np.sqrt(1.25)  # of 1, 2, 3, 4, as of 10, 20, 30, 40 ten times as much
    train, val, test = (found.splits[split].pool for split in ("train", "val", "test"))
    red, blue = [0, 1], [1, 0]  # in alphabetical order: blue, red
    np.testing.assert_allclose(train.x[:, 0], (np.arange(1, 5) - 2.5) / spread, rtol=1e-6)
    np.testing.assert_array_equal(train.x[:, 1:], [red, blue, red, red])
    np.testing.assert_allclose(val.x, [[97.5 / spread, 0, 0]], rtol=1e-6)  # green is neither
    np.testing.assert_allclose(test.x, [[-9.5 / spread, *red], [0, 0, 0]], rtol=1e-6)  # what is missing is the mean
    np.testing.assert_allclose(train.y[:, 0], (np.arange(1, 5) - 2.5) / spread, rtol=1e-6)
    np.testing.assert_allclose(test.y[:, 0], [3.5 / spread, 0], rtol=1e-6)
    assert [line.partition(": ")[2] for line in found.told] == [
        "missing numbers are taken for the training mean, missing text for no category: a 1, colour 1",
        "text that training does not hold is taken for no category: colour 1",
        "errors are in units of the targets' standard deviation in training: t 11.18",
    ]


def test_features_are_those_that_are_named_and_numbers_may_be_names(tmp_path):
    found = table(tmp_path / "t.csv", *COLOURS, features=("a",), categories=("a",))
    np.testing.assert_array_equal(found.splits["train"].pool.x, np.eye(4))
    np.testing.assert_array_equal(found.splits["test"].pool.x, np.zeros((2, 4)))
    rest = table(tmp_path / "rest.csv", *COLOURS)
    assert rest.splits["train"].pool.x.shape == (4, 4)  # a, two colours and t; not c, not s
    same = table(tmp_path / "same.csv", *(line.replace("train,3", "train,1") for line in COLOURS), features=("a",))
    assert same.splits["train"].pool.x.shape == (4, 1)
    constant = table(tmp_path / "constant.csv", "c,s,a,b", "k,train,5,1", "k,train,5,2", "m,val,5,3", "n,test,6,4")
    np.testing.assert_array_equal(constant.splits["test"].pool.x[:, 0], [1])  # no division by 0
    assert "the same number in all of training: a" in constant.told[0]


def test_rows_without_what_they_need_are_left_out_and_told(tmp_path):
    found = table(tmp_path / "t.csv", *COLOURS, ",train,9,red,1", "k,,9,red,1", "n,test,9,red,NA", targets=("t",))
    assert [len(found.splits[split].pool.x) for split in ("train", "val", "test")] == [4, 1, 2]
    for spelt in ("NAN", "-nan"):  # as C prints what is no number
        again = table(tmp_path / f"{spelt}.csv", *COLOURS, f"n,test,9,red,{spelt}", targets=("t",))
        assert "1 rows have no t and are left out: line 9" in again.told[0]
    assert [line.partition(": ")[2] for line in found.told[:3]] == [
        "1 rows have no c and are left out: line 9",
        "1 rows have no t and are left out: line 11",
        "1 rows have no s and are left out: line 10",
    ]


class Missing:
    """As pandas.NA: what is asked of it is neither true nor false."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __eq__ = __ne__ = lambda self, other: self
    __hash__ = None

    def __str__(self) -> str:
        return "<NA>"


def test_rows_by_their_columns_are_those_of_a_file(tmp_path):
    lines = ("c,s,flag,a", "k,train,True,1", "k,train,False,2", "m,val,True,3", "n,test,,")
    path = written(tmp_path / "t.csv", *lines)
    columns = columns_in(path, Roles("class", "c", (), None, (), "s"), *DRAWN)
    by_file = columns.inputs(read(path))[0]
    for flags in ([True, False, True, None], np.array([True, False, True, Missing()], object)):
        by_columns = rows_by_columns("x", {"a": [1, 2, 3, np.nan], "flag": flags, "more": [0] * 4}, columns)
        np.testing.assert_array_equal(by_columns, by_file)
    np.testing.assert_array_equal(
        rows_by_columns("x", {"a": [1, 2], "flag": np.array([True, False])}, columns), by_file[:2]
    )


@pytest.mark.parametrize(
    ("known", "given", "encoded"),
    [
        (("1.0", "2.0"), [1.0, 2.0], [0, 1]),
        (("1.0", "2.0"), np.array([2, 1, 2]), [1, 0, 1]),
        (("1", "2"), ["2.00", "+1", "1e0"], [1, 0, 0]),
        (("1", "1.0"), [1.0, "1.0"], [1, 1]),  # of text each is as it is spelt: numpy makes text of both
        (("1", "1.0"), [1.0, 1.00], [0, 0]),
        (("0.1", "0.25"), np.array([0.25, 0.1], np.float32), [1, 0]),
        (("False", "True"), np.array([1, 0], np.int8), [1, 0]),  # as Parquet's are read
        (("0", "1"), np.array([True, False]), [1, 0]),
        (("9007199254740993", "b"), [9007199254740993, 9007199254740992], [0, None]),  # of which a float has one
        (("1", "b"), ["1_", "one", "b", None], [None, None, 1, None]),
    ],
)
def test_a_category_is_known_by_its_value_however_its_number_is_spelt(known, given, encoded, monkeypatch):
    said = []
    monkeypatch.setattr("metarun.data.own_rows.log", SimpleNamespace(warning=said.append))
    columns = Columns("c", (Categories("t", known), Numbers("constant", 1.0, 0.0)), ())
    x = rows_by_columns("x", {"t": given, "constant": [1] * len(given)}, columns)[:, :2]
    np.testing.assert_array_equal(x, [[place == i for i in range(2)] for place in encoded])
    unknown = encoded.count(None) - sum(cell is None for cell in list(given))
    lines = [line for line in said if "missing" not in line]
    told = f"x: text that training does not hold is taken for no category: t {unknown}"
    assert lines == ([told] if unknown else [])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_is_read_however_it_is_separated_and_quoted(tmp_path, separator):
    lines = ['"c, of all",s,"a ""b"""', 'k,train,"1"', "", "k,train, 2 ", '"two\nlines",val,3', "n,test,4"]
    text = "\n".join(lines[1:]).replace(",", separator)
    head = separator.join(['"c, of all"' if separator == "," else "c", "s", '"a ""b"""'])
    (tmp_path / "t.csv").write_text(f"\ufeff{head}\n{text}\n", encoding="utf-8")
    by = "c, of all" if separator == "," else "c"
    found = table_in(str(tmp_path / "t.csv"), Roles("class", by, (), ('a "b"',), (), "s"), *DRAWN)
    assert found.splits["val"].names == ("two\nlines",)
    np.testing.assert_allclose(found.splits["train"].pool.x, [[-1], [1]])
    np.testing.assert_allclose(found.splits["test"].pool.x, [[5]])


def test_a_parquet_file_is_the_csv_of_the_same_rows(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [line.split(",") for line in COLOURS[1:]]
    c, s, a, colour, t = zip(*rows, strict=True)
    whole = pa.table({
        "c": pa.array(c).dictionary_encode(), "s": s, "a": [int(v) if v else None for v in a],
        "colour": [v or None for v in colour], "t": [float(v) for v in t],
        "when": pa.array([0] * 7, pa.timestamp("ms")),
    })  # fmt: skip
    pq.write_table(whole, tmp_path / "t.parquet")
    found = table_in(str(tmp_path / "t.parquet"), Roles("group", "c", ("t",), None, (), "s"), *DRAWN)
    expected = table(tmp_path / "t.csv", *COLOURS, targets=("t",))
    for split in found.splits:
        jax.tree.map(np.testing.assert_array_equal, found.splits[split], expected.splits[split])
    assert "left out, as they are neither numbers nor text: when (timestamp[ms])" in found.told[0]
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match="is no sound Parquet file"):
        table_in(str(tmp_path / "bad.parquet"), Roles("class", "c", (), None, (), "s"), *DRAWN)


def test_whole_numbers_of_a_parquet_file_keep_their_digits_and_an_infinite_label_is_a_label(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    roles = Roles("class", "c", (), ("a",), (), None)

    def classes(name, *labels):
        pq.write_table(pa.table({"c": labels, "a": range(len(labels))}), tmp_path / name)
        found = table_in(str(tmp_path / name), roles, *DRAWN)
        return sorted(label for part in found.splits.values() for label in part.names), found.told

    names, told = classes("large.parquet", 2**53, 2**53 + 1, 2**53, 2**53 + 2, None)
    assert names == ["9007199254740992", "9007199254740993", "9007199254740994"]
    assert "1 rows have no c and are left out: row 5" in told[0]
    assert classes("infinite.parquet", np.inf, 1.0, 2.5, np.inf)[0] == ["1", "2.5", "inf"]


def test_parquet_without_its_package_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"pip install 'metarun\[table\]'; or save it as CSV"):
        table_in(str(tmp_path / "t.parquet"), Roles("class", "c", (), None, (), None), *DRAWN)


def task_of_groups(path: str) -> Table:
    return Table(5, 3, 4, path, None, "g", ("t",), ("i",), (), None, (0.4, 0.3, 0.3), 0)


def test_an_episode_is_of_one_group_and_its_rows_are_all_different(tmp_path):
    """The targets tell the group, the input the row; one group is too small and never drawn."""
    sizes = [7, 8, 20, 3, 9, 30, 7, 7, 12, 8]
    rows = [(f"g{g}", 100 * g + i, g) for g, size in enumerate(sizes) for i in range(size)]
    order = np.random.default_rng(0).permutation(len(rows))  # a group's rows stand anywhere
    lines = ["g,i,t", *(",".join(map(str, rows[i])) for i in order)]
    tasks = task_of_groups(written(tmp_path / "t.csv", *lines))
    drawn = set()
    for split in ("train", "val", "test"):
        tasks.check(split)
        pool = tasks.found().splits[split].pool
        numbers = {
            tuple(y.tolist()): name
            for name, y in zip(tasks.found().splits[split].names, pool.y[pool.first], strict=True)
        }
        keys = jax.random.split(jax.random.key(0), 300)
        episodes = jax.jit(jax.vmap(tasks.sample, (None, 0)))(tasks.load(split), keys)
        assert episodes.classes is None
        x = np.concatenate([episodes.support.x, episodes.query.x], axis=1)
        y = np.concatenate([episodes.support.y, episodes.query.y], axis=1)
        assert x.shape[1:] == (7, 1)
        assert (y == y[:, :1]).all()
        assert all(len(set(of_one)) == 7 for of_one in x[..., 0].tolist())
        names = [numbers[tuple(of_one)] for of_one in y[:, 0].tolist()]
        drawn |= set(names)
        counts = [names.count(name) for name in set(names)]
        assert max(counts) < 1.6 * min(counts)  # however large it is
    assert drawn == {f"g{g}" for g, size in enumerate(sizes) if size >= 7}
    assert sum("groups have fewer than 3+4 rows" in line for line in tasks.told()) == 1


def test_a_group_with_one_row_alone_is_refused(tmp_path):
    lines = [f"g{g},{g},{g}" for g in range(9)]
    tasks = task_of_groups(written(tmp_path / "t.csv", "g,i,t", *lines))
    with pytest.raises(ConfigError, match=r"shots\+queries=3\+4: at most 1 together, the rows of 'g\d', the largest"):
        tasks.check("train")


ROWS = ("k,train,1", "k,train,2", "m,val,3", "n,test,4")
TABLES = [
    # lines, what is said
    ([""], "is empty"),
    (["c,s,a"], "holds no rows, only names: c, s, a"),
    (["c,s", "k,train", "m,val", "n,test"], "no features are left"),
    (["c,s,a", *ROWS, "k,train"], "line 6: 2 cells, where the first line names 3"),
    (["c,s,a,a", "k,train,1,2"], "two columns are named 'a'"),
    (["c,s,a", *ROWS, 'k,train,"5'], "line 6: is no CSV"),
    (["c,s,a", *ROWS, "k,train,five"], "line 6: 'five' in the column a is no number; mend it, leave the column out"),
    (["c,s,a", *ROWS, "k,train,1_0"], "line 6: '1_0' in the column a is no number"),
    (["c,s,a", *ROWS, "k,train,Nan"], "line 6: 'Nan' in the column a is no number"),
    (["c,s,a", *ROWS, "k,train,-inf"], "line 6: a is infinite"),
    (["c,s,a", *ROWS, "n,train,5"], "the class 'n' stands in test and in train: a split needs classes of its own"),
    (["c,s,a", *ROWS, "n,tests,5"], "'tests' is no split; train, val and test are"),
    (["c,s,a", *(row.replace("train", "val") for row in ROWS)], "no class is for training, all are for test and val"),
    (["c,s,a", "k,train,1", "k,train,2"], "classes: 'k' only; each of train, val and test needs its own"),
    (["c,s,a", "k,train,", "k,train,", "m,val,1", "n,test,2"], "a has no value in any training row"),
    (["PK\x03\x04", "x"], "is an archive or a spreadsheet; save it as CSV"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "said"), TABLES, ids=[said for _, said in TABLES])
def test_a_table_that_cannot_be_right_is_refused_in_a_line_with_its_place(tmp_path, lines, said):
    with pytest.raises(DataError) as refused:
        table(tmp_path / "t.csv", *lines)
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "t.csv"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"by": "k"}, "class_column=k: no such column; "),
        ({"split": "c"}, "split_column=c: that column has another part already"),
        ({"targets": ("a", "a")}, "target_columns=a: that column has another part already"),
        ({"features": ("a", "zz")}, "feature_columns=zz: no such column; "),
        ({"features": ("a",), "categories": ("t",)}, "category_columns=t: is no feature"),
        ({"targets": ("colour",)}, "line 2: 'red' in the column colour is no number (nor are 5 more); mend it"),
    ],
    ids=str,
)
def test_columns_that_cannot_have_their_part_are_refused(tmp_path, parts, said):
    with pytest.raises((ConfigError, DataError)) as refused:
        table(tmp_path / "t.csv", *COLOURS, **parts)
    assert said in str(refused.value)


def test_a_column_of_names_is_no_category(tmp_path):
    lines = [f"c{i % 9},n{i}" for i in range(600)]
    with pytest.raises(
        ConfigError, match=r"feature_columns=a: holds 3\d\d different texts in training, and at most 256"
    ):
        table(tmp_path / "t.csv", "c,a", *lines, split=None)


def test_a_file_that_is_none_is_refused(tmp_path):
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "none.csv", "no such file")):
        with pytest.raises(ConfigError, match=f"path={path}: {said}"):
            table_in(str(path), Roles("class", "c", (), None, (), None), *DRAWN)
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00c" * 9)
    with pytest.raises(DataError, match="is no text in UTF-8"):
        table_in(str(tmp_path / "t.csv"), Roles("class", "c", (), None, (), None), *DRAWN)


def saved(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


Y = np.repeat(np.arange(6), 5)
X = np.arange(60).reshape(30, 2)


@pytest.mark.parametrize(
    ("kind", "kept"), [(np.uint8, np.uint8), (np.float64, np.float32), (np.float16, np.float32), (np.int64, np.int32),
                       (np.uint16, np.int32), (bool, np.float32)]
)  # fmt: skip
@pytest.mark.parametrize("label", [int, str, bytes])
def test_arrays_are_sorted_by_their_labels_whatever_these_are(tmp_path, kind, kept, label):
    order = np.random.default_rng(0).permutation(30)
    y = Y.astype(label) if label is not bytes else np.char.encode(Y.astype(str))
    found = arrays_in(saved(tmp_path / "a.npz", x=X.astype(kind)[order], y=y[order]), *DRAWN)
    named = {name: x for split in found.splits.values() for name, x in examples_of(split).items()}
    assert sorted(named) == list("012345")
    for name, x in named.items():
        assert x.dtype == kept
        of_class = X[int(name) == Y].astype(kind)
        np.testing.assert_array_equal(np.sort(x, axis=0), np.sort(of_class, axis=0).astype(kept))
    assert [len(found.splits[split].names) for split in ("train", "val", "test")] == [4, 1, 1]


def test_arrays_may_bring_their_splits_and_bytes_are_seen_from_0_to_1(tmp_path):
    split = np.array(["test", "train", "train", "valid", "train", "train"])[Y]
    path = saved(tmp_path / "a.npz", x=(4 * X).astype(np.uint8), y=Y, split=split, extra=Y)
    tasks = Arrays(2, 1, 1, path, *DRAWN)
    assert {s: list(found.names) for s, found in tasks.found().splits.items()} == {
        "train": ["1", "2", "4", "5"], "val": ["3"], "test": ["0"],
    }  # fmt: skip
    assert (tasks.metric, tasks.n_out) == ("accuracy", 2)
    seen = np.asarray(jax.jit(tasks.sample)(tasks.load("train"), jax.random.key(0)).support.x)
    assert seen.dtype == np.float32
    rows = {tuple(row) for row in X[split == "train"].tolist()}
    assert {tuple(row) for row in np.round(seen * 255 / 4).astype(int).tolist()} <= rows
    assert "extra is not read" in tasks.told()[0]


def test_images_whose_channels_come_first_are_told(tmp_path):
    x, y = np.zeros((6, 1, 8, 8), np.float32), np.repeat([0, 1, 2], 2)
    np.savez(tmp_path / "first.npz", x=x, y=y)
    np.savez(tmp_path / "last.npz", x=np.moveaxis(x, 1, 3), y=y)
    (told,) = arrays_in(str(tmp_path / "first.npz"), *DRAWN).told
    assert "examples are 1x8x8; of images the channels come last: numpy.moveaxis(x, 1, 3)" in told
    assert arrays_in(str(tmp_path / "last.npz"), *DRAWN).told == ()


def test_arrays_with_groups_are_a_regression(tmp_path):
    targets = np.stack([Y, -Y], 1) + 0.5
    tasks = Arrays(5, 2, 2, saved(tmp_path / "a.npz", x=X, y=targets, group=Y.astype(str)), *DRAWN)
    assert (tasks.metric, tasks.n_out) == ("mse", 2)
    support, query, *_ = jax.device_get(jax.jit(tasks.sample)(tasks.load("train"), jax.random.key(0)))
    np.testing.assert_allclose(support.y, np.stack([support.x[:, 0] // 10, -(support.x[:, 0] // 10)], 1) + 0.5)
    loss, metrics = jax.device_get(jax.jit(tasks.loss)(query.y + 2, query.y))
    assert (loss, metrics["mse"]) == (4, 4)
    rows = tasks.examples("train", tasks.load("train"))
    assert {name: len(of_group) for name, of_group in rows.items()} == dict.fromkeys(
        tasks.found().splits["train"].names, 5
    )
    assert len({row.tobytes() for of_group in rows.values() for row in of_group}) == 20


ARRAYS = [
    ({"y": Y}, "lacks x; it holds y"),
    ({"x": X}, "lacks y; it holds x"),
    ({"x": X, "y": Y[:9]}, "x has 30 rows and y 9"),
    ({"x": X, "y": 3}, "y is one value"),
    ({"x": X[:0], "y": Y[:0]}, "x has no rows"),
    ({"x": X[:, :0], "y": Y}, "x has the shape (30, 0)"),
    ({"x": X, "y": Y.astype(float)}, "y is float64 (30,); labels are integers or text"),
    ({"x": X, "y": Y[:, None]}, "y is int64 (30, 1); integers or text (n,) are wanted"),
    ({"x": X, "y": Y.astype(object)}, "the values of y are Python objects"),
    ({"x": X.astype(str), "y": Y}, "of text there is task=text"),
    ({"x": np.where(X == 7, np.nan, X), "y": Y}, "x[3] holds nan; finite numbers are wanted"),
    ({"x": X * 1e300, "y": Y}, "x[0] holds 1e+300"),
    ({"x": X + 2**31, "y": Y}, "integers are kept in 32 bits"),
    ({"x": X, "y": Y, "group": Y + 0.5}, "group is float64 (30,)"),
    ({"x": X, "y": Y.astype(str), "group": Y}, "with groups it holds numbers"),
    ({"x": X, "y": np.where(Y == 4, np.inf, Y), "group": Y}, "y[20] holds inf"),
    ({"x": X, "y": Y, "split": np.array(["train", "val", "test"] * 10)}, "the class '0' stands in train and in val"),
    ({"x": X, "y": Y, "split": np.array(["x"] * 30)}, "'x' is no split"),
    ({"x": X, "y": 0 * Y}, "classes: '0' only"),
    ({"x": X, "y": Y, "split": Y}, "'0' is no split"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "said"), ARRAYS, ids=[said for _, said in ARRAYS])
def test_arrays_that_cannot_be_right_are_refused_in_a_line(tmp_path, arrays, said):
    with pytest.raises(DataError) as refused:
        arrays_in(saved(tmp_path / "a.npz", **arrays), *DRAWN)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_holds_no_arrays_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("metarun.data.arrays.MOST_BYTES", 10_000)
    (tmp_path / "no.npz").write_text("hello")
    np.save(tmp_path / "one.npy", X)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10**6, np.uint8), y=Y)
    saved(tmp_path / "locked.npz", x=X, y=Y)
    content = bytearray((tmp_path / "locked.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # its list of contents says that x is encrypted
    (tmp_path / "locked.npz").write_bytes(content)
    said = {
        "locked.npz": "the values of x cannot be read .*encrypted",
        "no.npz": "is no .npz file",
        "one.npy": "is no .npz file",
        "bomb.npz": r"claims 1,000,\d+ bytes in a file of",
    }
    for name, why in said.items():
        with pytest.raises(DataError, match=why):
            arrays_in(str(tmp_path / name), *DRAWN)
    with pytest.raises(ConfigError, match="no such file"):
        Arrays(5, 1, 1, str(tmp_path / "none.npz"), *DRAWN)


def texts(path: Path, *lines: str, text="text", label="label", split=None):
    return texts_in(written(path, *lines), text, label, split, ENCODER, *DRAWN)


LABELLED = [json.dumps({"label": f"l{i % 6}", "text": f"word{i % 6} {i}", "n": i}) for i in range(30)]


def test_texts_of_json_lines_and_of_csv_are_the_same(tmp_path):
    one = texts(tmp_path / "a.jsonl", *LABELLED, '{"label": "l1"}', '{"text": "no label", "label": null}')
    rows = [json.loads(line) for line in LABELLED]
    other = texts(tmp_path / "a.csv", "t;n;l", *(f"{r['text']};;{r['label']}" for r in rows), text="t", label="l")
    for split, found in one.splits.items():
        jax.tree.map(np.testing.assert_array_equal, found, other.splits[split])
        for name, x in examples_of(found).items():
            np.testing.assert_array_equal(x, ENCODER.encode([r["text"] for r in rows if r["label"] == name]))
    assert [line.partition(": ")[2] for line in one.told] == [
        "1 rows have no text and are left out: line 31",
        "1 rows have no label and are left out: line 32",
    ]


def test_half_a_character_in_json_is_a_character_of_its_own(tmp_path):
    lines = [line.replace("l0", r"l\ud800") for line in LABELLED]
    found = texts(tmp_path / "a.jsonl", *lines)
    assert any("l\ufffd" in part.names for part in found.splits.values())
    assert sum(len(part.pool.x) for part in found.splits.values()) == len(LABELLED)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((*LABELLED[:3], '{"text": '), "line 4: is no JSON"),
        ((*LABELLED[:3], "[1]"), "line 4: is no JSON object; one a line is wanted"),
        (("[", *LABELLED), "line 1: is no JSON"),
        ((*LABELLED[:3], '{"text": ' + "[" * 100_000), "line 4: is no JSON"),
        ((*LABELLED[:3], '{"text": ["a"], "label": 1}'), "line 4: text is no text and no number"),
        (('{"text": "", "label": 1}',), "no row has both a text and a label"),
        (LABELLED[:1], "classes: 'l0' only"),
    ],
)
def test_json_lines_that_are_none_are_refused_with_their_number(tmp_path, lines, said):
    with pytest.raises(DataError) as refused:
        texts(tmp_path / "a.jsonl", *lines)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_table_without_training_rows_has_nothing_to_be_standardised_by(tmp_path):
    path = written(tmp_path / "t.csv", "c,a", "x,1", "y,2", "z,3")
    with pytest.raises(ConfigError, match=r"^fractions=\[0\.0, 0\.0, 1\.0\]: a part for train"):
        table_in(path, Roles("class", "c", (), None, (), None), (0.0, 0.0, 1.0), 0)
