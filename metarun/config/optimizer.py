"""Whether an outer optimizer fits what it moves, a learner's parameters, and the meta-steps that tell it how."""

from typing import Any

import optax

from metarun import engine, recorded
from metarun.config.build import build
from metarun.config.settings import Train
from metarun.core import ConfigError, Learner, Tasks
from metarun.recorded import SeesTasks


def check_kept(kept: tuple[str, ...], optimizer: dict[str, Any], private: engine.Private) -> None:
    """Raises ConfigError where what a learner keeps would not be kept as it is."""
    if not kept:
        return
    what = f"with a learner that keeps something ({', '.join(kept)}) from task to task"
    if private.clip is not None:
        raise ConfigError("train.private.clip", private.clip, f"null {what}: noise would be added to it")
    if isinstance(build("optimizer", optimizer), SeesTasks):
        raise ConfigError("optimizer._target_", optimizer["_target_"], f"an optimizer of optax {what}")


def check_optimizer(
    settings: dict[str, Any], learner: Learner, tasks: Tasks, train: Train, private: engine.Private
) -> None:
    """Raises ConfigError unless it is an optimizer, and one for such meta-steps."""
    outer = build("optimizer", settings)
    if isinstance(outer, SeesTasks):
        recorded.check(outer, learner, tasks)
        try:
            outer.must_fit(train.meta_batch)
        except ConfigError as error:
            raise error.under("optimizer") from error
        bounds = {"private.clip": private.clip, "clip_value": train.clip_value, "clip_norm": train.clip_norm}
        for bound, value in bounds.items():
            if value is not None:
                allowed = f"null with optimizer={outer.name}, which looks at the tasks themselves; use adam or sgd"
                raise ConfigError(f"train.{bound}", value, allowed)
    elif not isinstance(outer, optax.GradientTransformation):
        raise ConfigError("optimizer._target_", settings["_target_"], "an optimizer of optax, e.g. optax.adam")
