"""A user's own rows and texts of one task: which there are, what they are called, and what is told of them."""

from pathlib import Path

import numpy as np
import pytest

from metarun.data import Columns, rows_by_columns, rows_of_task, texts_of_task
from metarun.data.cells import START
from metarun.data.encoders import HashedNGrams
from metarun.data.features import Categories, Numbers

ENCODER = HashedNGrams(64, (1, 1), (0, 0))
COLUMNS = Columns("c", (Numbers("a", 0.0, 1.0), Categories("t", ("b", "d"))), ())


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_row_of_empty_cells_is_a_row_and_a_blank_line_is_none(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\nfirst,a\n,\n\n  \nsecond,b\n")
    queries, support = (texts_of_task(path, "text", "label", ENCODER, support) for support in (False, True))
    assert (queries.names, queries.texts, queries.labels) == ((1, 3), ("first", "second"), ("a", "b"))
    assert queries.told == (f"{path}: 1 rows have no text and are left out: line 3",)
    assert (support.names, support.told[1:]) == ((1, 3), (f"{path}: 1 rows have no label and are left out: line 3",))
    alone = written(tmp_path / "alone.csv", 'text\nfirst\n""\n\nsecond\n')
    assert texts_of_task(alone, "text", "label", ENCODER, support=False).names == (1, 3)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("text\nwhere is it\n", ("text", "where is it")),
        ("text, please send me one\nwhere is it\n", ("text, please send me one", "where is it")),
        ("label, text\n", ("label, text",)),
        ("[" * 100_000, ("[" * 100_000,)),
        ('"text";label\n\n"a; b";\n', None),
        ("\nlabel, text\n1, a; b\n", None),
        ('\n{"text": "a; b"}\n', None),
        ('{"text": "a; b", "more": "' + "." * START + '"}', None),
    ],
    ids=range(8),
)
def test_a_text_file_is_a_text_a_line_unless_it_begins_as_a_table_which_is_told(tmp_path, content, found):
    path = written(tmp_path / "q.txt", content)
    queries = texts_of_task(path, "text", "label", ENCODER, support=False)
    assert queries.texts == (found or ("a; b",))
    assert queries.told == (() if found else (f"{path}: is read as a table, as its first lines are of one",))


def test_a_query_of_empty_cells_is_answered_and_told_of(tmp_path):
    path = written(tmp_path / "a.csv", "a,t\n1,b\n,\n\n2,d\n")
    found = rows_of_task(path, COLUMNS, support=False)
    assert found.names == (1, 2, 3)
    np.testing.assert_array_equal(found.x, [[1, 1, 0], [0, 0, 0], [2, 0, 1]])
    assert "missing text for no category: a 1, t 1" in found.told[0]


class Named:
    """As pandas' NA and NaT: a value that is missing, by this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def test_the_text_none_is_a_category_and_the_value_none_is_missing(tmp_path):
    names = ("<NA>", "NaT", "None")
    columns = Columns("c", (Categories("garage", names),), ())
    file = written(tmp_path / "a.csv", "garage,c\n" + "".join(f"{name},k\n" for name in names))
    each = np.eye(3)
    np.testing.assert_array_equal(rows_of_task(file, columns, support=True).x, each)
    values = [*names, np.str_("None"), None, np.nan, Named("<NA>"), Named("NaT"), np.datetime64("NaT"), "nan"]
    of_objects = rows_by_columns("x", {"garage": np.array(values, object)}, columns)
    np.testing.assert_array_equal(of_objects, [*each, each[2], *np.zeros((6, 3))])
    np.testing.assert_array_equal(rows_by_columns("x", {"garage": np.array(names)}, columns), each)
