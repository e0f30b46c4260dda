"""What a private run's noise has of the run: with one seed, runs that may learn something else share no noise.

Two that shared it would tell by their difference what noise hides in each.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarun.config.conf import flat
from metarun.core import OfGroups, Tasks

# Not what a run that goes on may change (see config.resume): it goes on with the same noise.
LEARNED_BY = (
    "task.", "learner.", "model.", "optimizer.", "inner.clip", "train.task.", "train.meta_batch", "train.init_from",
    "train.private.",
)  # fmt: skip


def noise_number(config: Mapping[str, Any], tasks: Tasks) -> np.uint32:
    """A number of what the run is to learn, and from which groups: the same for the same command and the same users."""
    told = {key: value for key, value in flat(config).items() if key.startswith(LEARNED_BY)}
    told = {key: value for key, value in told.items() if not key.endswith("data_dir")}
    groups = tasks.digest("train") if isinstance(tasks, OfGroups) and tasks.n_groups("train") is not None else None
    text = json.dumps([told, groups], sort_keys=True, default=str)
    return np.uint32(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]))
