"""A series of checkpoints by the names of its folders: which meta-steps are saved, without a look at what they hold."""

from pathlib import Path


def steps_in(series: Path) -> list[int]:
    """The meta-steps whose saves are complete, in order: the folder of one under way has another name."""
    return sorted(int(path.name) for path in series.glob("*") if path.name.isdecimal())


def newest_in(series: Path) -> int | None:
    """The newest of them; None if there is none."""
    return max(steps_in(series), default=None)
