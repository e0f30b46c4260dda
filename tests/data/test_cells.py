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
