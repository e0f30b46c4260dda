"""Which learners serve given tasks: each of conf/learner is asked, so that a new one need not be named anywhere."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from metarun.config.build import build
from metarun.config.conf import choices, settings_of
from metarun.core import Collecting, ConfigError, Learner, Tasks


def check(learner: Learner, tasks: Tasks, config: Mapping[str, Any]) -> None:
    """`learner.check`; where one does not act, its error goes on with those that do."""
    try:
        learner.check(tasks)
    except ConfigError as error:
        if error.key != "learner" or not isinstance(tasks, Collecting):
            raise
        allowed = f"{error.allowed}; use {', '.join(learners_for(tasks, config))}"
        raise ConfigError(error.key, error.given, allowed) from error


def learners_for(tasks: Tasks, config: Mapping[str, Any]) -> list[str]:
    """The names of the learners that serve the tasks, each with its own settings; `config` has what these refer to."""
    found = []
    whole = OmegaConf.create(dict(config))
    for name in choices("learner"):
        whole["learner"] = settings_of("learner", name)
        values: Any = OmegaConf.to_container(whole["learner"], resolve=True)
        try:
            build("learner", values, kind=Learner).check(tasks)
        except ConfigError:
            continue
        found.append(name)
    return found
