"""Going on with a run: its own configuration, and what of it a command may change."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from metarun.config.build import is_component, locate
from metarun.config.conf import choices, conf_dir, flat, settings_of
from metarun.config.domains import OF_AN_EPISODE, complete
from metarun.config.loggers import is_several
from metarun.config.overrides import PLACE
from metarun.config.run import SECTIONS
from metarun.config.settings import Eval
from metarun.core import ConfigError
from metarun.files import read_yaml

# What changes no result, or as hardware.precision is told with the meta-steps that it is of: see run.provenance.
MAY_CHANGE = (
    "run.", "paper", "inner.mode", "inner.unroll", "inner.remat", "hardware.", "logger.", "data_dir", "task.data_dir",
    "train.on_nonfinite", "train.skip_at_most",
)  # fmt: skip
# What changes nothing but the final test; the rest of `eval` changes validations, too, which choose the best state.
OF_THE_TEST = (
    "eval.split", "eval.state", "eval.episodes", "eval.inner_steps", "eval.shots", "eval.inductive", "eval.tail",
    "eval.tasks",
)  # fmt: skip
# What a test of its own may set of a run (`metarun eval`): how it is tested, where, and how fast.
OF_A_TEST = ("eval.", "hardware.", "data_dir.", f"{PLACE}.", "inner.mode.", "inner.unroll.", "inner.remat.")
ALLOWED = f"eval.*, hardware.*, data_dir, {PLACE}, inner.mode, inner.unroll, inner.remat"
PERIODS = ("train.log_every", "train.eval_every", "train.save_every")
# A command that chooses one of these tells of a whole run; one that does not, of changes to the run that is there.
WHOLE = {"task", "learner", "model", "optimizer", "experiment"}


def resume(directory: Path, config: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    """The configuration with which to go on with the run in `directory`; `named` are the command's keys but run.dir.

    A command without a choice of what is trained (WHOLE) is about the run that is there: its configuration with these
    keys of `config`, of which one may say where its data are now: that they are the same is seen when they are read.
    With such a choice `config` must be the run's. Either may change what changes no result; make the run longer, by
    train.steps; and test a finished run again, by eval. Raises ConfigError for all other changes.
    """
    stored = read(directory, config)
    if not WHOLE & set(named):
        config = changed(stored, config, ["run.dir", *named])
        config = at_new_place(config, stored["data_dir"]) if "data_dir" in named else config
        stored = changed(stored, config, [PLACE]) if PLACE in named and PLACE in flat(stored) else stored
    config = complete(config)
    before, now = flat(stored), flat(config)
    differing = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    differing = {key for key in differing if not key.startswith(MAY_CHANGE) and not is_domains_place(key)}
    asked = {key for key in differing if is_named(key, named)}  # not what a default, or an experiment, brings along
    longer = "train.steps" in asked
    if longer:
        must_go_on_as_begun(directory, before, now, named)
        must_be_validated_as_before(directory, stored, config)
    trained = longer or is_trained(directory, before["train.steps"])
    for key in sorted(asked):
        if of_validation(key) and not trained:
            raise ConfigError(key, now.get(key), f"validation uses it ({before.get(key)} there); finish the run first")
    allowed = {key for key in asked if key.startswith("eval.") or (longer and key in ("train.steps", *PERIODS))}
    if wrong := sorted(differing - allowed):
        raise another(directory, wrong, before, named)
    return config


def is_trained(directory: Path, steps: int) -> bool:
    """Whether the run's saved state has all of its meta-steps behind it, and was validated: what is left is the test.

    Whether it was tested is another question: that may have been broken off, and asked for in another way.
    """
    try:
        host = json.loads((directory / "checkpoints" / "last" / str(steps) / "host" / "metadata").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(host, dict) and not host.get("unvalidated", False)


def read(directory: Path, config: dict[str, Any], file: str = "config.yaml") -> dict[str, Any]:
    """The configuration of the run in `directory`, of whatever version. Raises ConfigError."""
    try:
        stored = read_yaml(directory / file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("run.dir", directory, f"its {file} cannot be read ({type(error).__name__})") from error
    groups = set(SECTIONS) - {"data_dir", "suggested", "paper"}
    if not isinstance(stored, dict) or not all(isinstance(stored.get(group), dict) for group in groups):
        raise ConfigError("run.dir", directory, f"its {file} is not a metarun run's; name another directory")
    return as_today(stored, config)


def as_today(stored: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run of an earlier version as today's; `config` is another one of today's."""
    # What a run of an earlier version has no key for was as it is by default; what changes no result is as it is now.
    defaults = read_yaml(conf_dir() / "config.yaml")
    stored = {"data_dir": None, "suggested": {}, "paper": None, **stored}
    for filling, sections in ((defaults, ("train", "eval", "inner")), (config, ("hardware", "run"))):
        stored |= {section: {**filling[section], **stored[section]} for section in sections}
    components = {group: as_it_was(group, stored[group]) for group in ("task", "learner", "model", "optimizer")}
    of_loggers = stored["logger"]
    if is_several(of_loggers):
        components["logger"] = {name: as_it_was("logger", one) for name, one in of_loggers.items()}
    else:
        components["logger"] = as_it_was("logger", of_loggers)
    return {**stored, **components, "eval": up_to_date(stored["eval"])}


def as_it_was(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """A component's settings, with its class's own default for a key that an earlier version did not have.

    Likewise of the components among them.
    """
    try:
        fields = dataclasses.fields(locate(f"{group}._target_", values.get("_target_", "")))  # type: ignore[arg-type]
    except (ConfigError, TypeError):
        return values  # which `build` tells of, or an optimizer of optax
    # flax's own, and what the runner sets.
    not_in_yaml = ("parent", "name", "n_out", "dtype") if group == "model" else ()
    had = {
        field.name: field.default
        for field in fields
        if field.default is not dataclasses.MISSING
        and field.name not in not_in_yaml
        and "program" not in field.metadata
    }
    as_in_yaml = {name: list(value) if isinstance(value, tuple) else value for name, value in had.items()}
    own = {key: as_it_was(f"{group}.{key}", value) if is_component(value) else value for key, value in values.items()}
    return {**as_in_yaml, **own}


def up_to_date(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The section `eval` of an earlier version's run, in today's words: inductive figures were asked for or not."""
    words = {True: "main", False: "none"}
    given = evaluation.get("inductive")
    return {**evaluation, "inductive": words[given]} if isinstance(given, bool) else evaluation


def changed(stored: dict[str, Any], config: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """`stored` with the values that `keys` have in `config`; a key that `config` lacks was deleted."""
    result = dict(stored)
    for key in keys:
        *path, last = key.split(".")
        group, new = result, config
        for part in path:
            group[part] = dict(group[part]) if isinstance(group.get(part), dict) else {}
            group, new = group[part], new.get(part, {})
        group.pop(last, None)
        if last in new:
            group[last] = new[last]
    return result


def must_be_of_a_test(settings: Collection[str]) -> list[str]:
    """The keys of these settings, as they are written. Raises ConfigError for one that a test cannot set."""
    keys = []
    for setting in settings:
        key, _, value = setting.lstrip("+~").partition("=")
        if key == "eval" or not f"{key}.".startswith(OF_A_TEST):
            if key in {field.name for field in dataclasses.fields(Eval)} - {*SECTIONS}:
                raise ConfigError(key, value, f"no such key; use eval.{key}={value}")
            meant = f"task.{key}" if key in OF_AN_EPISODE else key
            hint = f"; to test so, eval.{meant}={value}" if meant.startswith(("task.", "learner.")) else ""
            hint = f"; on other data, 'eval.tasks={{{value}: {{}}}}'" if key == "task" else hint
            raise ConfigError(key, value, f"is the run's, and stays as it is; a test may set {ALLOWED}{hint}")
        keys.append(key)
    return keys


def tested_otherwise(stored: dict[str, Any], config: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    """The stored configuration of a run with what `config` has for `named`, keys that a test may set.

    Data that were in its data_dir are in the new one. Raises ConfigError.
    """
    found = changed(stored, config, named)
    if PLACE in named and PLACE not in flat(stored):
        raise ConfigError(PLACE, config["task"]["path"], "is no key of the run's task, whose data are of no path")
    return complete(at_new_place(found, stored["data_dir"]) if "data_dir" in named else found)


def at_new_place(config: dict[str, Any], before: str | None) -> dict[str, Any]:
    """A configuration whose data_dir was `before`: what is read from there, in training or in a test, is in the new."""
    evaluation = config["eval"]
    tasks = {name: moved(values, before, config) for name, values in evaluation["tasks"].items()}
    return {**config, "task": moved(config["task"], before, config), "eval": {**evaluation, "tasks": tasks}}


def moved(task: Any, before: str | None, config: dict[str, Any]) -> Any:
    """A task's settings, its data_dir that of `config` if it was the one `before`."""
    if not isinstance(task, dict) or "data_dir" not in task or task["data_dir"] != before:
        return task
    return {**task, "data_dir": config["data_dir"]}


def is_domains_place(key: str) -> bool:
    """Whether the key says where a domain's data are: eval.tasks.omniglot.data_dir"""
    return key.startswith("eval.tasks.") and key.endswith(".data_dir")


def is_named(key: str, named: Collection[str]) -> bool:
    """Whether the command names the key, or a group that it is of; a key of a domain brings all of the domain along."""
    groups = [".".join(one.split(".")[:3]) if one.startswith("eval.tasks.") else one for one in named]
    return any(f"{key}.".startswith(f"{one}.") for one in groups)


def must_go_on_as_begun(directory: Path, before: dict[str, Any], now: dict[str, Any], named: Collection[str]) -> None:
    """Raises ConfigError unless a run of so many steps would have begun with the meta-steps that are done.

    A schedule that ends with the run would not. What follows train.steps is known by its value, as a configuration is
    kept resolved; one that is named is as it shall be, and a number in the learner's yaml follows nothing.
    """
    old, new = before["train.steps"], now["train.steps"]
    if not isinstance(new, int) or not isinstance(old, int):
        return  # it is refused by its type
    if new < old:
        raise ConfigError("train.steps", new, f"at least {old}, as the run began with; for less name a new directory")
    if before.get("train.selection") == "curriculum" and before.get("train.hardest_at") is None:
        raise ConfigError(
            "train.steps",
            new,
            f"{directory} cannot be made longer, as its curriculum ends with the run: a run of {new} would have begun "
            f"otherwise; name a new run.dir, and train.hardest_at, with which a curriculum ends where it says",
        )
    for key, value in sorted(before.items()):
        kept = (key in named and now.get(key) == value) or key in learners_numbers(before, value)
        if key.startswith(("optimizer.", "learner.")) and value == old and type(value) is int and not kept:
            raise ConfigError(
                "train.steps",
                new,
                f"{directory} cannot be made longer, as its {key}={value} is its train.steps: a run of {new} would "
                f"have begun otherwise; name a new run.dir, or give the whole command with {key}={value} to keep that",
            )


def must_be_validated_as_before(directory: Path, stored: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises ConfigError if validations would go on in another way than they began: what is best would mean nothing.

    They may, after the run was tested again in another way. The configuration before that was set aside (run.earlier).
    """
    first = directory / "config-1.yaml"
    began = read(directory, config, first.name) if first.exists() else stored
    before, now = flat({"eval": began["eval"]}), flat({"eval": config["eval"]})
    for key in sorted(key for key in before.keys() | now.keys() if of_validation(key)):
        if before.get(key) != now.get(key):
            part = key.split(".")[1]
            value = began["eval"].get(part)
            if isinstance(value, dict):
                value = f"{{{','.join(f'{name}:{setting}' for name, setting in value.items())}}}"
            raise ConfigError(
                key, now.get(key), f"validation uses it; to make the run longer add 'eval.{part}={value}'"
            )


def of_validation(key: str) -> bool:
    return key.startswith("eval.") and not key.startswith(OF_THE_TEST)


def learners_numbers(config: dict[str, Any], number: Any) -> list[str]:
    """The keys that have this number in the yaml of the configuration's learner, if it is one of metarun's."""
    package, _, name = str(config.get("learner._target_")).rpartition(".")[0].rpartition(".")
    if package != "metarun.learners" or name not in choices("learner"):
        return []
    return [f"learner.{key}" for key, value in flat(settings_of("learner", name)).items() if value == number]


def another(directory: Path, wrong: list[str], before: dict[str, Any], named: Collection[str]) -> ConfigError:
    """The refusal of a command that tells of another run: with what it names or, if that agrees, with what it omits."""
    asked = [key for key in wrong if is_named(key, named) or "experiment" in named]
    shown = asked or wrong
    keys = ", ".join(f"{key} ({before.get(key)} there)" for key in shown[:5])
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    than = "another" if asked else "what this command leaves out:"
    return ConfigError(
        "run.dir",
        directory,
        f"holds a run with {than} {keys}{more}; go on with it by run.dir alone, or name a new directory",
    )
