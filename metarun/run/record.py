"""What a run's directory tells those who read it: whether a process is at work in it, and its rows."""

from metarun.run.lock import is_taken
from metarun.run.log import read_rows

__all__ = ["is_taken", "read_rows"]
