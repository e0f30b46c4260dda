"""Files of rows with named columns: what kind a file is, and how its cells are told apart."""

from pathlib import Path

import pytest

from metarun.core import DataError
from metarun.data.cells import read


def columns(path: Path, content: str) -> dict[str, list[str]]:
    path.write_text(content)
    return dict(read(str(path)).columns)


@pytest.mark.parametrize("name", ["PK", "PKID", "[id]", "{id}", "[1]x"])
def test_a_column_may_begin_as_other_kinds_of_files_do(tmp_path, name):
    assert columns(tmp_path / "t.csv", f"{name};text\n1;a\n") == {name: ["1"], "text": ["a"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("PK\x03\x04", " is an archive or a spreadsheet"),
        ("PK\x05\x06", " is an archive or a spreadsheet"),
        ('[1, "a"]\n', ", line 1: is no JSON object"),
        ('[\n{"text": "a"}]\n', ", line 1: is no JSON ("),
        ('{"text": "a"},\n', ", line 1: is no JSON ("),
        ("{text\n", " holds no rows, only names: {text"),
        ("\n" * 99, " is empty"),
    ],
)
def test_what_is_no_csv_is_called_what_it_is(tmp_path, content, said):
    with pytest.raises(DataError) as refused:
        columns(tmp_path / "t.csv", content)
    assert said in str(refused.value)


def test_a_file_may_begin_with_any_number_of_blank_lines(tmp_path):
    assert columns(tmp_path / "t.jsonl", "\n" * 99 + '{"a": 1}\n') == {"a": ["1"]}
    assert columns(tmp_path / "t.csv", "\n" * 99 + "a;b\n1;2\n") == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('"text, long";label\na;b\n', {"text, long": ["a"], "label": ["b"]}),
        ('x;"a, ""b"", c"\n1;"d, e, f"\n', {"x": ["1"], 'a, "b", c': ["d, e, f"]}),  # the same number in both lines
        ('"a;\nb;",c\n1,2\n', {"a;\nb;": ["1"], "c": ["2"]}),
        ('"a";"b"\n\n"1, 2, 3";"\n"\n', {"a": ["1, 2, 3"], "b": [""]}),
        ("Height, cm;Weight, kg;label\n1;2;a\n", {"Height, cm": ["1"], "Weight, kg": ["2"], "label": ["a"]}),
        ("Height, in cm, bare;label\r\n1;a\r\n", {"Height, in cm, bare": ["1"], "label": ["a"]}),
        ("[a, b]\tc\n1\t2\n", {"[a, b]": ["1"], "c": ["2"]}),
        ('5" disk|3" disk, new\n1|2\n', {'5" disk': ["1"], '3" disk, new': ["2"]}),
        ("a;b\n1,5;2,5\n", {"a": ["1,5"], "b": ["2,5"]}),
        ('"a;b"\n"c;d"\ne;f\n', {"a;b": ["c;d", "e;f"]}),
    ],
)
def test_cells_are_told_apart_by_what_stands_outside_of_quotes_in_the_first_two_lines(tmp_path, content, found):
    assert columns(tmp_path / "t.csv", content) == found
