"""metarun: a config-driven meta-learning runner on JAX.

From Python, `train(...)` makes a run as the command line does; `load(run)` gives what a run has learned, to adapt it to
a task of one's own; `MetaLearnedClassifier(run)` and `MetaLearnedRegressor(run)` are the same as estimators of
scikit-learn. Their errors are ConfigError, DataError and Interrupted, in one line each.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarun.command.from_python import train
    from metarun.core import ConfigError, DataError
    from metarun.learned import load
    from metarun.learned.estimators import MetaLearnedClassifier, MetaLearnedRegressor
    from metarun.run.train import Interrupted

# XLA before jax 0.10.2 writes to standard error, at every start, that a program it compiled here may not suit this very
# processor ("+prefer-no-gather is not supported"). It reads this when it is loaded; what fails raises all the same.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
__all__ = [
    "ConfigError", "DataError", "Interrupted", "MetaLearnedClassifier", "MetaLearnedRegressor", "__version__", "load",
    "train",
]  # fmt: skip

# Where they are. They bring JAX along, and some scikit-learn: the command line does without until it is understood.
LATER = {
    "ConfigError": "core",
    "DataError": "core",
    "Interrupted": "run.train",
    "MetaLearnedClassifier": "learned.estimators",
    "MetaLearnedRegressor": "learned.estimators",
    "load": "learned",
    "train": "command.from_python",
}


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(importlib.import_module(f"metarun.{LATER[name]}"), name)
    raise AttributeError(f"module 'metarun' has no attribute {name!r}")
