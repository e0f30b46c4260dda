"""Arrays that are mapped from the disk: read where they are used, and not kept in memory."""

import mmap
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

# A page that is touched brings up to 15 neighbours along: 64 KB for each small row, until they are let go.
ROWS_AT_ONCE = 512
READERS = 4  # threads: the disk is asked for so many rows side by side


def look_up(x: np.ndarray, rows: np.ndarray, into: np.ndarray) -> None:
    """x[rows] -> `into`; of what is mapped from the disk, no more than some rows are in memory at a time."""
    rows, into = rows.reshape(-1), into.reshape(-1, *x.shape[1:])  # a view: `into` is in one piece

    def part(start: int) -> None:
        end = start + ROWS_AT_ONCE
        np.take(x, rows[start:end], axis=0, out=into[start:end], mode="clip")  # the other modes copy once more
        let_go(x)

    with ThreadPoolExecutor(READERS) as readers:
        for _ in readers.map(part, range(0, len(rows), ROWS_AT_ONCE)):
            pass


def let_go(x: np.ndarray) -> None:
    """Takes what was read of an array that is mapped from the disk out of this process's memory.

    It stays readable, and in the system's own cache as long as there is room. An array of another kind stays as it is.
    """
    base = x
    while isinstance(base, np.ndarray):
        base = base.base  # type: ignore[assignment]
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        with suppress(OSError, ValueError):
            base.madvise(mmap.MADV_DONTNEED)
