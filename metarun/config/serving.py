"""Which learners serve given tasks: each of conf/learner is asked, so that a new one need not be named anywhere."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from metarun.config.build import build
from metarun.config.conf import choices, conf_dir
from metarun.core import Collecting, ConfigError, Learner, Tasks
from metarun.files import read_yaml


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
        whole["learner"] = OmegaConf.merge(*settings_of(name))
        values: Any = OmegaConf.to_container(whole["learner"], resolve=True)
        try:
            build("learner", values, kind=Learner).check(tasks)
        except ConfigError:
            continue
        found.append(name)
    return found


def settings_of(name: str) -> list[dict[str, Any]]:
    """What a learner's yaml says of it, after what those say that it is laid over. Hydra would take 70 ms."""
    values = read_yaml(conf_dir() / "learner" / f"{name}.yaml")
    bases = [base for base in values.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    own = values if "_target_" in values or "learner" not in values else values["learner"]
    return [*(part for base in bases for part in settings_of(base)), own]
