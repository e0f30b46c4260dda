"""A user's arrays as a learner takes them: inputs, labels, targets; each mistake is one line."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metarun.core import ConfigError
from metarun.data import Columns, Encoder, Image, is_by_columns, rows_by_columns
from metarun.run.purpose import Purpose
from metarun.text import one_line

REAL = "biuf"  # kinds of numpy's: truth values, integers, floats


def as_inputs(name: str, x: Any, purpose: Purpose) -> np.ndarray:
    """x (n, ...) in the model's shape and type. Bytes, where the model takes numbers, stand for 0 to 1.

    Texts, and rows by the names of their columns, are encoded as training's were.
    """
    encodes = purpose.prepares
    if is_by_columns(x) and isinstance(encodes, Columns):
        return rows_by_columns(name, x, encodes)
    if isinstance(x, Mapping):
        raise ConfigError(name, "rows by their columns", "are for what was trained on a table; give an array")
    x = as_array(name, x)
    if isinstance(encodes, Encoder) and x.ndim == 1 and len(x) and all(isinstance(one, str) for one in x.tolist()):
        return encodes.encode([one.strip() for one in x.tolist()])
    wanted = f"(n, {', '.join(map(str, purpose.shape))})" if purpose.shape else "(n,)"
    if x.dtype.kind not in REAL:
        raise ConfigError(name, f"an array of {x.dtype}", f"must be real numbers {wanted}")
    if x.shape[1:] != purpose.shape and (*x.shape[1:], 1) == purpose.shape:
        x = x[..., None]  # grey images without a channel, single features without an axis
    if x.ndim == 0 or x.shape[1:] != purpose.shape:
        raise ConfigError(name, f"an array {x.shape}", f"must be {wanted}, as in training")
    if len(x) == 0:
        raise ConfigError(name, "an array without rows", "at least one example is needed")
    if x.dtype == np.uint8 and purpose.dtype == "float32":
        return x.astype(np.float32) / 255
    whole = np.issubdtype(x.dtype, np.integer)
    images = len(purpose.shape) == 3 if whole else isinstance(encodes, Image)
    # Floats somewhat above 1 may be meant, as of images that were sharpened; not what bytes as floats come to.
    if images and purpose.dtype == "float32" and (x > (1 if whole else 16)).any():
        raise ConfigError(
            name, f"an array of {x.dtype} up to {np.nanmax(x):.6g}", "images are bytes (uint8), or numbers from 0 to 1"
        )
    return of_type(name, x, np.dtype(purpose.dtype))


def as_array(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError:  # numpy's, of nested lists
        raise ConfigError(name, "rows of different shapes", "must be an array, whose rows are of one shape") from None


def of_type(name: str, x: np.ndarray, wanted: np.dtype) -> np.ndarray:
    """Numbers x (n, ...) as the model's. Raises ConfigError for what is not finite, or what integers cannot hold."""
    with np.errstate(all="ignore"):
        taken = x.astype(wanted)
    if not (finite := np.isfinite(x) & np.isfinite(taken)).all():
        rows = np.flatnonzero(~finite.reshape(len(x), -1).all(1))
        raise ConfigError(
            name, f"row {rows[0]}", f"holds what is no finite number (so do {len(rows)} of {len(x)} rows)"
        )
    if wanted.kind in "iub" and (other := taken != x).any():
        row = int(np.flatnonzero(other.reshape(len(x), -1).any(1))[0])
        least, most = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
        allowed = f"must be whole numbers from {least:,} to {most:,}, as in training ({wanted})"
        raise ConfigError(name, f"{x[other][0]} in row {row}", allowed)
    return taken


def as_labels(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """y (n,) -> its classes (ways,), in order, and which of them each example is of, (n,) int32. Raises ConfigError."""
    if isinstance(y, list | tuple) and len({isinstance(label, str | bytes) for label in y}) > 1:
        y = np.array(y, object)  # numpy would make text of all of them
    elif isinstance(y, list | tuple) and all(type(label) is int for label in y):
        y = np.array(y, object)  # of large ones numpy may make floats
    y = as_array("y", y)
    if y.shape != (n,):
        raise ConfigError("y", f"an array {y.shape}", f"must be ({n},), a label for each row of x")
    if y.dtype == object:
        kinds = {type(label) for label in y.tolist()}
        if len(kinds) > 1:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ConfigError("y", f"labels of several kinds ({names})", "must be of one kind")
        found = as_array("y", y.tolist())
        y = y if kinds == {int} and found.dtype.kind == "f" else found
        if found.ndim > 1 or kinds & {set, frozenset, type(None)}:
            raise no_label(y[0])
    if y.dtype.kind in "fcmM" and not np.isfinite(y).all():
        raise ConfigError("y", one_line(str(y[~np.isfinite(y)][0])), "is no label; give every example one")
    try:
        classes, numbers = np.unique(y, return_inverse=True)
    except TypeError:  # they have no order
        raise no_label(y[0]) from None
    return classes, numbers.reshape(-1).astype(np.int32)


def no_label(given: Any) -> ConfigError:
    allowed = f"is no label but a {type(given).__name__}; labels are text, numbers, truth values or dates"
    return ConfigError("y", one_line(f"{given!s:.40}"), allowed)


def as_targets(y: Any, n: int, d: int) -> np.ndarray:
    """y (n,) or (n, d) -> (n, d) float64, numbers that float32 can hold."""
    y = as_array("y", y)
    if y.dtype.kind not in REAL:
        raise ConfigError("y", f"an array of {y.dtype}", "must be real numbers: the run's task is a regression")
    y = y.astype(np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != (n, d):
        raise ConfigError("y", f"an array {y.shape}", f"must be ({n}, {d}), targets of each row of x")
    if not (np.abs(y) <= np.finfo(np.float32).max).all():
        row = int(np.flatnonzero(~(np.abs(y) <= np.finfo(np.float32).max).all(1))[0])
        raise ConfigError("y", f"row {row}", "holds what is no finite number")
    return y
