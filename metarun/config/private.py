"""What of `train.private` depends on all that a run learns by: who its users are, and which noise is its own."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarun import engine
from metarun.config.conf import flat
from metarun.config.settings import Train
from metarun.core import ConfigError, OfGroups, Tasks

# Not what a run that goes on may change (see config.resume): it goes on with the same noise.
LEARNED_BY = (
    "task.", "learner.", "model.", "optimizer.", "inner.clip", "train.task.", "train.meta_batch", "train.init_from",
    "train.private.",
)  # fmt: skip


def noise_number(config: Mapping[str, Any], tasks: Tasks) -> np.uint32:
    """A number of what the run is to learn, and from which groups: the same for the same command and the same users.

    With one seed, runs that may learn something else share no noise: two that did would tell by their difference what
    noise hides in each.
    """
    told = {key: value for key, value in flat(config).items() if key.startswith(LEARNED_BY)}
    told = {key: value for key, value in told.items() if not key.endswith("data_dir")}
    groups = tasks.digest("train") if isinstance(tasks, OfGroups) and tasks.n_groups("train") is not None else None
    text = json.dumps([told, groups], sort_keys=True, default=str)
    return np.uint32(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]))


def among_users(private: engine.Private, tasks: Tasks, train: Train, hardware: engine.Hardware) -> engine.Private:
    """With the users that such tasks have. Raises ConfigError unless meta-steps can draw them."""
    try:
        private = engine.among(private, tasks)
    except ConfigError as error:
        raise error.under("train.private") from error
    private.must_fit(train.meta_batch)
    if private.users is not None and hardware.data == "host":
        allowed = "auto or device, as which users a meta-step has is decided on the device"
        raise ConfigError("hardware.data", hardware.data, allowed)
    return private
