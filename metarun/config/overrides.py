"""Settings as users write them: translated for Hydra, and what is wrong with them in one line."""

import re

from metarun.config.conf import GROUPS, choices, conf_dir, nearest


def translate(arguments: list[str]) -> list[str]:
    """Spares the user three of Hydra's subtleties."""
    multirun = "-m" in arguments or "--multirun" in arguments
    return [spared for argument in arguments for spared in spare(argument, multirun)]


def spare(argument: str, multirun: bool) -> list[str]:
    key, _, value = argument.partition("=")
    if key.startswith(("train.task.", "eval.task.", "eval.learner.")):
        return [f"++{argument}"]  # what training or evaluation overrides is not in the yaml until it is named
    if key.split(".")[0] in GROUPS and "." in key and value.startswith("{"):
        return [f"~{key}", f"+{argument}"]  # it takes the place of the yaml's; Hydra would add to that
    if multirun and key == "run.dir":
        return [f"hydra.sweep.{argument.removeprefix('run.')}"]  # one directory for all, with one inside for each
    return [argument]


def explain(error: Exception, arguments: list[str]) -> str:
    """A mistake in an override, in one line, with the nearest spelling."""
    from hydra.errors import OverrideParseException

    message = str(error)
    if found := re.search(r"Could not find '(\w+)/([^']+)'", message):
        group, choice = found.groups()
        return f"{group}={choice}: no such choice; {nearest(choice, choices(group))}"
    if found := re.search(r"(?:Could not override|Could not delete from config\.) '([^']+)'", message):
        *path, key = found[1].split(".")
        if found[1] in GROUPS:
            return no_such_choice(arguments)
        return f"{found[1]}: no such key; {nearest(key, keys_at(path, arguments))}"
    if found := re.match(r"Error merging override (.+)", message):
        return f"{found[1]}: cannot stand there; `metarun --cfg job` shows what does"
    if message.startswith("Config group override must be"):  # a choice that reads as a number
        return no_such_choice(arguments)
    if isinstance(error, OverrideParseException):
        reason = message.splitlines()[-2] if message.startswith("Error parsing") else message.splitlines()[0]
        given = error.override if error.override in arguments else error.override.lstrip("+")  # `spare` adds one
        return f"{given}: cannot be read as group=choice or key=value ({reason})"
    return message.splitlines()[0] if message else type(error).__name__


def no_such_choice(arguments: list[str]) -> str:
    """The first argument that names a group and no choice of it, in one line."""
    given = [argument.partition("=") for argument in arguments]
    group, choice = next((g, c) for g, _, c in given if g in GROUPS and c not in choices(g))
    return f"{group}={choice}: no such choice; {nearest(choice, choices(group))}"


def keys_at(path: list[str], arguments: list[str]) -> list[str]:
    """The keys under `path` in the configuration that the command's choices of groups give."""
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig, OmegaConf

    given = [argument.partition("=") for argument in arguments]
    chosen = [f"{group}={choice}" for group, _, choice in given if group in GROUPS and choice in choices(group)]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("config", overrides=chosen)
    found = OmegaConf.select(node, ".".join(path)) if path else node
    return [str(key) for key in found] if isinstance(found, DictConfig) else []
