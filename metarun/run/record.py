"""What a run's directory tells those who read it: whether a process is at work in it, its rows, its saves, its end."""

from metarun.run.lock import is_taken, let_go, made, only_process_in, taken_anew
from metarun.run.log import FAILED, STOPPED, last_line, read_rows
from metarun.run.series import newest_in

__all__ = [
    "FAILED", "STOPPED", "is_taken", "last_line", "let_go", "made", "newest_in", "only_process_in", "read_rows",
    "taken_anew",
]  # fmt: skip
