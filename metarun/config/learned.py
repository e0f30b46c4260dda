"""A run's learner alone, without its data: what its configuration says of learner, model and inner loops."""

from typing import Any, NamedTuple

import flax.linen as nn

from metarun import engine, losses
from metarun.config.build import build, recipe
from metarun.config.conf import laid_over
from metarun.config.resume import as_it_was
from metarun.config.run import known
from metarun.core import ConfigError, Learner, Tasks
from metarun.gradients import Inner
from metarun.losses import Loss

# However many processes trained it, and whether or not its version knew of several: it is used in one.
ALONE = {"coordinator": None, "processes": "auto", "process": "auto", "join_seconds": 300.0}


class Parts(NamedTuple):
    """As `config.run.Run` has them."""

    learner: Learner  # evaluation's
    model: Any
    inner: Inner
    loss: Loss  # the tasks' own
    hardware: engine.Hardware


def parts(config: dict[str, Any], n_out: int, metric: str) -> Parts:
    """Of a resolved configuration whose tasks have `n_out` outputs and this metric. Raises ConfigError."""
    own, model = (as_it_was(part, config[part]) for part in ("learner", "model"))  # an earlier version may have kept it
    training = build("learner", own, kind=Learner)
    changes = known("eval.learner", config["eval"]["learner"], own)
    hardware = build("hardware", {**config["hardware"], **ALONE}, kind=engine.Hardware)
    return Parts(
        learner=build("eval.learner", laid_over(own, changes)),
        model=build("model", model, kind=nn.Module, n_out=training.width(n_out), dtype=hardware.dtype),
        inner=build("inner", config["inner"], Inner),
        loss=loss_of(config, metric),
        hardware=hardware,
    )


def loss_of(config: dict[str, Any], metric: str) -> Loss:
    """metarun's tasks have one of two; a user's may have one of its own, by its settings: evaluation's."""
    if config["task"]["_target_"].startswith("metarun."):
        return losses.cross_entropy if metric == "accuracy" else losses.squared_error
    return build("eval.task", laid_over(config["task"], config["eval"]["task"]), kind=Tasks).loss


def optimizer_of(config: dict[str, Any]) -> Any:
    """The outer optimizer (optax), as the run's programs have it."""
    made, numbers = recipe("optimizer", config["optimizer"])
    return engine.beside(learner_of(config), made(numbers))


def learner_of(config: dict[str, Any]) -> Learner:
    """The learner as it is trained."""
    return build("learner", as_it_was("learner", config["learner"]), kind=Learner)


def built(key: str, values: dict[str, Any]) -> Any:
    """A component of metarun by its `_target_` and fields."""
    if not str(values.get("_target_")).startswith("metarun."):
        raise ConfigError(f"{key}._target_", values.get("_target_"), "a component of metarun")
    return build(key, values)
