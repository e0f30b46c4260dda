"""Arrays that are mapped from the disk: read where they are used, and not kept in memory."""

import mmap
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

READERS = 4  # threads: the disk is asked for so many rows side by side
BYTES_AT_ONCE = 2**23  # of what is mapped, before it is let go: a thread's
NEIGHBOURS = 2**16  # bytes that Linux brings along with a page that is touched


def look_up(x: np.ndarray, rows: np.ndarray, into: np.ndarray) -> None:
    """x[rows] -> `into`; of what is mapped from the disk, no more than some rows are in memory at a time."""
    rows, into = rows.reshape(-1), into.reshape(-1, *x.shape[1:])  # a view: `into` is in one piece
    at_once = max(1, BYTES_AT_ONCE // (x[:1].nbytes + NEIGHBOURS))

    def part(start: int) -> None:
        end = start + at_once
        np.take(x, rows[start:end], axis=0, out=into[start:end], mode="clip")  # the other modes copy once more
        let_go(x)

    with ThreadPoolExecutor(READERS) as readers:
        for _ in readers.map(part, range(0, len(rows), at_once)):
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
