"""Files of rows with named columns: CSV, JSON lines and Parquet, as text and numbers."""

import csv
import json
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metarun.core import ConfigError, DataError
from metarun.text import first_line, one_line, whole_characters

# How a cell without a value is spelt; with NAN and -nan as C prints them.
MISSING = {"", "NA", "N/A", "NaN", "nan", "NAN", "-NaN", "-nan", "-NAN", "null", "NULL"}
START = 2**16  # characters of a file that tell how its cells are separated
BLOCK = 4096  # rows that are turned into columns at a time: one by one takes twice as long
MOST_TOLD = 5  # of a kind, in a line

# Text, "" where a cell has no value; or numbers, float64 or integers, NaN where it has none.
Column = list[str] | np.ndarray


class Table(NamedTuple):
    """A file's rows, column by column."""

    path: str
    columns: dict[str, Column]
    lines: list[int] | None  # where each row ends; None where the file has rows and no lines
    told: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"


def read(path: str) -> Table:
    """A CSV file (with commas, semicolons, tabs or bars, and a first line of names), JSON lines, or Parquet.

    Raises ConfigError for a path that is none, and DataError.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise ConfigError("path", path, "is a folder; a file is wanted" if place.is_dir() else "no such file")
    try:
        with place.open("rb") as file:
            start = file.read(4)
        if start.startswith(b"PAR1"):
            return in_parquet(path, place)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"\xd0\xcf")):
            raise DataError(f"{path} is an archive or a spreadsheet; save it as CSV")
        with place.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), None)
        if first is None:
            raise DataError(f"{path} is empty")
        found = in_json(path, place) if opens_json(first) else in_csv(path, place)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({first_line(error)}), and no Parquet file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({first_line(error)})") from error
    if not found.columns or not found.rows:
        raise DataError(f"{path} holds no rows, only names: {listed(found.columns)}")
    return found


def opens_json(line: str) -> bool:
    """Whether JSON begins so, sound or not: a name in brackets, as in a CSV file's `[id],text`, is none."""
    if re.match(r'\s*[{\[]\s*(["{}\[\]]|$)', line):
        return True
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict | list)
    return False


def separator_of(start: str) -> str:
    """What separates a CSV file's cells: the most frequent in the first line, what stands in quotes aside.

    Of those that divide the next line into as many cells, if any do.
    """
    bare = re.sub(r'(^|[,;\t|\r\n]) *"(?:[^"]|"")*"', r'\1""', start)
    first, second, *_ = [*re.split(r"[\r\n]+", bare.strip("\r\n")), ""]
    return max(",;\t|", key=lambda one: (first.count(one) == second.count(one) > 0, first.count(one)))


def in_csv(path: str, place: Path) -> Table:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text may be long
    with place.open(newline="", encoding="utf-8-sig") as file:
        separator = separator_of(file.read(START))
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            names = [name.strip() for name in next(filter(None, reader), [])]
            columns: list[list[str]] = [[] for _ in names]
            lines = []
            block: list[list[str]] = []
            blank = ([], [""]) if len(names) > 1 else ([],)  # of one column, an empty cell is a row all the same
            for row in reader:
                if row in blank:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(row)} cells, where the first line names {len(names)}"
                    )
                lines.append(reader.line_num)
                block.append(row)
                if len(block) == BLOCK:
                    add(columns, block)
            add(columns, block)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: is no CSV ({first_line(error)})") from error
    if doubled := [name for name in names if name and names.count(name) > 1]:
        raise DataError(one_line(f"{path}: two columns are named {doubled[0]!r}"))
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    told = f"{path}: the column without a name is left out" if len(named) < len(names) else None
    return Table(path, dict(named), lines, (told,) if told else ())


def add(columns: list[list[str]], rows: list[list[str]]) -> None:
    """Puts the rows' cells below those of the columns, and empties `rows`."""
    for column, cells in zip(columns, zip(*rows, strict=True), strict=False):
        column.extend("" if cell in MISSING else cell for cell in map(str.strip, cells))
    rows.clear()


def in_json(path: str, place: Path) -> Table:
    """An object a line. A key that an object lacks is a cell without a value."""
    found = []
    with place.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if "\\u" in line:
                    row = json.loads(whole_characters(json.dumps(row, ensure_ascii=False)))
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: is no JSON ({first_line(error)}); an object a line is wanted"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: is no JSON object; one a line is wanted")
            found.append((number, row))
    names = dict.fromkeys(name for _, row in found for name in row)

    def cell(number: int, name: str, value: object) -> str:
        if isinstance(value, dict | list):
            raise DataError(one_line(f"{path}, line {number}: {name} is no text and no number"))
        return "" if value is None or (text := str(value).strip()) in MISSING else text

    columns = {name: [cell(number, name, row.get(name)) for number, row in found] for name in names}
    return Table(path, dict(columns), [number for number, _ in found], ())


def in_parquet(path: str, place: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        need = "is Parquet, which needs a package: pip install 'metarun[table]'; or save it as CSV"
        raise ConfigError("path", path, need) from error
    try:
        found = pq.read_table(place)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no sound Parquet file ({first_line(error)})") from error
    columns: dict[str, Column] = {}
    left = []
    for name in found.column_names:
        column, kind = found[name], found[name].type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_integer(kind) and column.null_count == 0:
            columns[name] = column.to_numpy()
        elif pa.types.is_integer(kind):  # whose digits may be more than a float has
            columns[name] = ["" if v is None else str(v) for v in column.to_pylist()]
        elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            columns[name] = column.cast(pa.float64()).to_numpy()
        elif pa.types.is_boolean(kind):
            columns[name] = column.cast(pa.int8()).cast(pa.float64()).to_numpy()
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            columns[name] = ["" if (text := (v or "").strip()) in MISSING else text for v in column.to_pylist()]
        else:
            left.append(f"{name} ({kind})")
    told = one_line(f"{path}: left out, as they are neither numbers nor text: {', '.join(left)}") if left else None
    return Table(path, columns, None, (told,) if told else ())


def texts(column: Column) -> list[str]:
    """A column's cells as text, "" where there is no value. Whole numbers have no point."""
    if isinstance(column, list):
        return column
    return ["" if v != v else str(int(v)) if float(v).is_integer() else repr(float(v)) for v in column.tolist()]


class Numbers(NamedTuple):
    values: np.ndarray  # (n,) float64, NaN where there is no number
    text: list[int]  # the rows that hold text, which is no number


def numbers(column: Column) -> Numbers:
    if not isinstance(column, list):
        return Numbers(column.astype(np.float64), [])
    if "_" not in "".join(column):  # which Python's numbers may hold
        with suppress(ValueError):
            found = np.array([float(cell) if cell else np.nan for cell in column])
            if np.isnan(found).sum() == column.count(""):
                return Numbers(found, [])
    values, text = np.full(len(column), np.nan), []
    for row, cell in enumerate(column):
        if cell:
            try:
                if "_" in cell or (value := float(cell)) != value:  # a NaN however spelt is no value, and nobody's name
                    raise ValueError
                values[row] = value
            except ValueError:
                text.append(row)
    return Numbers(values, text)


def must_have(table: Table, key: str, name: str, others: Collection[str] = ()) -> None:
    """Raises ConfigError unless the setting `key` names one of the table's columns, and none of `others`."""
    if name not in table.columns:
        raise ConfigError(key, one_line(name), one_line(f"no such column; {table.path} has {listed(table.columns)}"))
    if name in others:
        raise ConfigError(key, one_line(name), "that column has another part already")


def complete(table: Table, columns: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """The rows (n,) with a value in each of `columns`, and a line about those without."""
    kept = np.ones(table.rows, bool)
    told = []
    for name in columns:
        column = table.columns[name]
        there = np.array([bool(cell) for cell in column]) if isinstance(column, list) else ~np.isnan(column)
        if not there.all():
            first = ", ".join(table.place(row) for row in np.flatnonzero(~there)[:MOST_TOLD])
            told.append(one_line(f"{table.path}: {(~there).sum():,} rows have no {name} and are left out: {first}"))
        kept &= there
    return np.flatnonzero(kept), told


def listed(names: Iterable[str], most: int = 30) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def taken(column: Column, rows: np.ndarray) -> Column:
    """Its cells in `rows`, some of all in their order."""
    if len(rows) == len(column):
        return column
    return [column[row] for row in rows] if isinstance(column, list) else column[rows]
