"""Many runs: what a sweep's directory tells of it, how its jobs are chosen, and where they are made."""

from metarun.sweep.plugins import register, train_together
from metarun.sweep.record import Sweep, are_together, how_to_go_on, is_sweep, read, unfinished
from metarun.sweep.table import as_json, tell

__all__ = [
    "Sweep", "are_together", "as_json", "how_to_go_on", "is_sweep", "read", "register", "tell", "train_together",
    "unfinished",
]  # fmt: skip
