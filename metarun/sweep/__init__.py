"""Many runs: what a sweep's directory tells of it, how its jobs are chosen, and where they are made."""

from metarun.sweep.plugins import register
from metarun.sweep.record import Sweep, is_sweep, read, unfinished
from metarun.sweep.table import as_json, tell

__all__ = ["Sweep", "as_json", "is_sweep", "read", "register", "tell", "unfinished"]
