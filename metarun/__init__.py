"""metarun: a config-driven meta-learning runner on JAX.

`load(run)` gives what a run has learned, to adapt it to a task of one's own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarun.learned import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` brings JAX along, which the command line does without until it has been understood."""
    if name == "load":
        return importlib.import_module("metarun.learned").load
    raise AttributeError(f"module 'metarun' has no attribute {name!r}")
