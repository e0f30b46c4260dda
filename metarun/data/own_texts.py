"""A user's own texts of one task: rows of a table, or plain files with a text a line."""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path

from metarun.core import ConfigError, DataError
from metarun.data.cells import START, complete, read, separator_of, taken, texts
from metarun.data.encoders import Encoder
from metarun.data.own import Own, labels_in, must_hold, rows_of
from metarun.text import first_line, one_line

PLAIN = ".txt"


def texts_of_task(path: str, text_column: str, label_column: str, encoder: Encoder, support: bool) -> Own:
    """Rows of texts of a CSV or Parquet file or of JSON lines; a label each, which queries need not have.

    Or plain text: a folder with a CLASS.txt for each class, an example a line, or one such file of queries; one that
    begins as a table is read as that, and told of. Rows without a text are left out, and so are rows of a support set
    without a label. Raises ConfigError, DataError.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return in_folder(path, place, encoder)
    if is_plain(place, text_column):
        if support:
            what = "has no labels; give a folder with a CLASS.txt for each class, or a table"
            raise ConfigError("path", path, f"{what} with the columns {text_column} and {label_column}")
        lines = lines_of(place)
        found = list(lines.values())
        return Own(encoder.encode(found), tuple(lines), None, None, (), tuple(found))
    own = in_rows(path, text_column, label_column, encoder, support)
    told = (f"{path}: is read as a table, as its first lines are of one",) if place.suffix.lower() == PLAIN else ()
    return own._replace(told=(*told, *own.told))


def in_rows(path: str, text_column: str, label_column: str, encoder: Encoder, support: bool) -> Own:
    table = read(path)
    must_hold(path, table.columns, [text_column, label_column] if support else [text_column])
    rows, told = complete(table, [text_column, label_column] if support else [text_column])
    if not len(rows):
        raise ConfigError("path", path, f"no row has a {text_column}{f' and a {label_column}' if support else ''}")
    found = texts(taken(table.columns[text_column], rows))
    labels = labels_in(table.columns, label_column, rows)
    return Own(encoder.encode(found), rows_of(rows), labels, None, (*table.told, *told), tuple(found))


def in_folder(path: str, place: Path, encoder: Encoder) -> Own:
    """A text a line, of the class that the file is named for."""
    files = sorted(file for file in place.iterdir() if file.suffix.lower() == PLAIN and not file.name.startswith("."))
    if not files:
        raise ConfigError(
            "path", path, "holds no CLASS.txt; a folder of texts has one for each class, an example a line"
        )
    each = [(file, number, text) for file in files for number, text in lines_of(file).items()]
    found = [text for _, _, text in each]
    names = tuple(f"{path}/{file.name}:{number}" for file, number, _ in each)
    return Own(encoder.encode(found), names, tuple(file.stem for file, _, _ in each), None, (), tuple(found))


def is_plain(place: Path, text_column: str) -> bool:
    """Whether it is plain text by its name, and no table by its first lines.

    Those are an object of JSON, or two or more names, the column's among them, above as many cells: a first line of
    plain text may begin with the column's name, or be no more than that.
    """
    if place.suffix.lower() != PLAIN or not place.is_file():
        return False
    with suppress(OSError, UnicodeDecodeError, csv.Error), place.open(newline="", encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
        with suppress(ValueError, RecursionError):
            return not isinstance(json.loads(first), dict)
        start = first + file.read(START)
        rows = filter(None, csv.reader(io.StringIO(start), delimiter=separator_of(start), skipinitialspace=True))
        names, cells = next(rows, []), next(rows, [])
        return len(names) < 2 or len(cells) != len(names) or text_column not in map(str.strip, names)
    return True  # `lines_of` tells what is wrong


def lines_of(file: Path) -> dict[int, str]:
    """Its texts by the numbers of their lines, without the empty ones. Raises DataError."""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(one_line(f"{file} is no text in UTF-8 ({first_line(error)})")) from error
    except OSError as error:
        raise DataError(one_line(f"{file} cannot be read ({first_line(error)})")) from error
    found = {number: line.strip() for number, line in enumerate(content.split("\n"), 1) if line.strip()}
    if not found:
        raise DataError(one_line(f"{file} holds no text; a text a line is wanted"))
    return found
