"""A user's own examples of one task: what is known of each, and those in arrays."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from metarun.core import ConfigError
from metarun.data.arrays import examples, read, targets, text
from metarun.data.cells import Column, listed, taken, texts
from metarun.text import one_line

Labels = tuple[str | None, ...]  # None: of which class an example is was not said


class Own(NamedTuple):
    """Examples of a task, as they are read from a user's files."""

    x: np.ndarray  # (n, ...) as the model takes them, or bytes
    names: tuple[str | int, ...]  # an example's file, or its row, counted from 1
    labels: Labels | None  # of a classification; None: no example has one
    targets: np.ndarray | None  # (n, d) float32, of a regression; NaN where an example has none
    told: tuple[str, ...]  # what was converted or left out, a line each
    texts: tuple[str, ...] | None = None  # that x was made from


def must_hold(path: str, columns: Iterable[str], names: list[str]) -> None:
    """Raises ConfigError unless the table has all these columns."""
    if missing := [name for name in names if name not in columns]:
        lacks = f"{'columns' if len(missing) > 1 else 'column'} {listed(missing)}"
        raise ConfigError("path", path, one_line(f"lacks the {lacks}, as in training; it has {listed(columns)}"))


def labels_in(columns: Mapping[str, Column], name: str, rows: np.ndarray) -> Labels | None:
    """The labels of these rows, None for all of them if none has one."""
    found = tuple(cell or None for cell in texts(taken(columns[name], rows))) if name in columns else ()
    return found if any(found) else None


def rows_of(rows: np.ndarray) -> tuple[int, ...]:
    return tuple(int(row) + 1 for row in rows)


def is_arrays(path: str) -> bool:
    return path.lower().endswith(".npz")


def arrays_of_task(path: str, shape: tuple[int, ...], classification: bool, support: bool) -> Own:
    """An .npz file: x (n, ...), and labels or targets y, which queries need not have. Raises ConfigError, DataError.

    Images in colour become grey where the model was trained on grey ones, and grey ones are taken for colour.
    """
    arrays, told = read(path, ("x", "y") if support else ("x",))
    x, converted = in_channels(path, examples(path, arrays["x"]), shape)
    names = rows_of(np.arange(len(x)))
    labels = tuple(text(path, "y", arrays["y"])) if classification and "y" in arrays else None
    y = targets(path, arrays["y"]) if not classification and "y" in arrays else None
    return Own(x, names, labels, y, (*told, *converted))


GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601, as for files


def in_channels(path: str, x: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Images x (n, side, side, channels) with the channels of `shape`, and what is told of it."""
    if x.ndim != 4 or len(shape) != 3 or x.shape[1:3] != shape[:2]:
        return x, []
    if (x.shape[3], shape[2]) == (3, 1):
        grey = (x @ GREY)[..., None]
        x = np.round(grey).astype(np.uint8) if x.dtype == np.uint8 else grey.astype(np.float32)
        return x, [f"{path}: 3 channels become 1, grey, as in training"]
    if (x.shape[3], shape[2]) == (1, 3):
        return np.repeat(x, 3, axis=3), [f"{path}: 1 channel, grey, becomes 3, as in training"]
    return x, []
