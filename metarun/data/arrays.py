"""A user's own arrays, in an .npz file."""

import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from metarun.core import ConfigError, DataError
from metarun.data.files import MOST_BYTES, MOST_TIMES
from metarun.data.labelled import pools, splits_of
from metarun.data.pool import Found
from metarun.text import first_line, one_line

ARRAYS = ("x", "y", "group", "split")
HOW = "write it with numpy.savez(FILE, x=x, y=y)"


@lru_cache(maxsize=8)
def arrays_in(path: str, fractions: tuple[float, ...], seed: int) -> Found:
    """What an .npz file holds: x (n, ...), and labels y (n,), integers or text, for a classification.

    With `group` (n,), integers or text, y (n,) or (n, d) are the targets of a regression in which each group is a task.
    `split` (n,), of train, val and test, is the split of each class or group; without it they are drawn. Bytes stay
    bytes, other numbers become float32 or int32. Raises ConfigError and DataError.
    """
    arrays, told = read(path)
    x = examples(path, arrays["x"])
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        shape = "x".join(map(str, x.shape[1:]))
        told = (*told, f"{path}: examples are {shape}; of images the channels come last: numpy.moveaxis(x, 1, 3)")
    given = text(path, "split", arrays["split"]) if "split" in arrays else None
    if "group" in arrays:
        names = text(path, "group", arrays["group"])
        splits = splits_of(path, "group", names, given, fractions, seed)
        return Found(pools(x, names, splits, targets(path, arrays["y"])), told)
    if arrays["y"].dtype.kind == "f":
        kind = f"{arrays['y'].dtype} {arrays['y'].shape}"
        raise DataError(f"{path}: y is {kind}; labels are integers or text, and a regression has an array group, too")
    names = text(path, "y", arrays["y"])
    return Found(pools(x, names, splits_of(path, "class", names, given, fractions, seed)), told)


def with_groups(path: str) -> bool:
    """Whether the file is of a regression: its list of contents tells. Raises ConfigError and DataError."""
    return "group" in contents(path)


def contents(path: str) -> dict[str, int]:
    """The names of the arrays, and their sizes in bytes."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise ConfigError("path", path, "no such file" if not place.is_dir() else f"is a folder; {HOW}")
    try:
        with zipfile.ZipFile(place) as file:
            found = {info.filename.removesuffix(".npy"): info.file_size for info in file.infolist()}
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is no .npz file ({first_line(error)}); {HOW}") from error
    most = max(MOST_BYTES, MOST_TIMES * place.stat().st_size)
    if sum(found.values()) > most:
        raise DataError(
            f"{path} claims {sum(found.values()):,} bytes in a file of {place.stat().st_size:,}; at most {most:,} are "
            "read; write it with numpy.savez, which does not compress"
        )
    return found


def read(path: str, needed: Sequence[str] = ("x", "y")) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays that are known, those that are `needed` among them, and a line about those that are not."""
    names = contents(path)
    if missing := [name for name in needed if name not in names]:
        raise DataError(one_line(f"{path} lacks {' and '.join(missing)}; it holds {', '.join(names) or 'nothing'}"))
    arrays = {}
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            for name in ARRAYS:
                if name in names:
                    arrays[name] = file[name]
    except Exception as error:  # of zip, of what packs it, of numpy's own form: a damaged file may raise anything
        which = [name for name in ARRAYS if name in names][len(arrays)]
        why = "are Python objects" if "Object arrays" in str(error) else f"cannot be read ({first_line(error)})"
        raise DataError(f"{path}: the values of {which} {why}; numbers and text are wanted: {HOW}") from error
    if scalar := [name for name, values in arrays.items() if values.ndim == 0]:
        raise DataError(f"{path}: {scalar[0]} is one value; there is one for each example")
    n = len(arrays["x"])
    for name, values in arrays.items():
        if len(values) != n:
            raise DataError(f"{path}: x has {n:,} rows and {name} {len(values):,}; there is one for each example")
    if n == 0:
        raise DataError(f"{path} holds no examples: x has no rows")
    other = sorted(set(names) - set(ARRAYS))
    told = one_line(f"{path}: {', '.join(other)} is not read, as it is none of {', '.join(ARRAYS)}")
    return arrays, ((told,) if other else ())


def examples(path: str, x: np.ndarray) -> np.ndarray:
    """x (n, ...) as uint8, float32 or int32; a number an example becomes (n, 1)."""
    x = x[:, None] if x.ndim == 1 else x
    if x.size == 0:
        raise DataError(f"{path}: x has the shape {x.shape}: its examples hold no numbers")
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind in "fb":
        return finite(path, "x", x)
    if x.dtype.kind not in "iu":
        raise DataError(f"{path}: x is {x.dtype}; numbers are wanted (of text there is task=text)")
    if x.max() >= 2**31 or x.min() < -(2**31):
        raise DataError(f"{path}: x reaches from {x.min()} to {x.max()}; integers are kept in 32 bits")
    return x.astype(np.int32)


def targets(path: str, y: np.ndarray) -> np.ndarray:
    """y (n,) or (n, d) as (n, d) float32."""
    if y.dtype.kind not in "fiub" or y.ndim > 2 or 0 in y.shape:
        raise DataError(f"{path}: y is {y.dtype} {y.shape}; with groups it holds numbers, (n,) or (n, d)")
    return finite(path, "y", y.reshape(len(y), -1))


def finite(path: str, name: str, values: np.ndarray) -> np.ndarray:
    """As float32. Raises DataError for what is no number, or none of float32."""
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    if not (good := np.isfinite(small)).all():
        row = int(np.flatnonzero(~good.reshape(len(good), -1).all(1))[0])
        raise DataError(f"{path}: {name}[{row}] holds {values[row][~good[row]].ravel()[0]}; finite numbers are wanted")
    return small


def text(path: str, name: str, values: np.ndarray) -> list[str]:
    """Labels, groups or splits (n,), as text."""
    if values.ndim != 1 or values.dtype.kind not in "iubUS":
        raise DataError(f"{path}: {name} is {values.dtype} {values.shape}; integers or text (n,) are wanted")
    try:
        return (np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)).tolist()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {name} is no text in UTF-8 ({first_line(error)})") from error
