"""metarun: a config-driven meta-learning runner on JAX.

`load(run)` gives what a run has learned, to adapt it to a task of one's own; `MetaLearnedClassifier(run)` and
`MetaLearnedRegressor(run)` are the same as estimators of scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarun.learned import load
    from metarun.learned.estimators import MetaLearnedClassifier, MetaLearnedRegressor

__version__ = "0.1.0"
__all__ = ["MetaLearnedClassifier", "MetaLearnedRegressor", "__version__", "load"]

# Where they are: they bring JAX along, or scikit-learn, which the command line does without until it is understood.
LATER = {
    "MetaLearnedClassifier": "metarun.learned.estimators",
    "MetaLearnedRegressor": "metarun.learned.estimators",
    "load": "metarun.learned",
}


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module 'metarun' has no attribute {name!r}")
