"""Settings as users write them: translated for Hydra, and what is wrong with them in one line."""

import re
import shlex
from pathlib import Path
from typing import Any

from metarun.config.conf import GROUPS, choices, conf_dir, flat, nearest

PLUGINS = "; what Hydra's plugins add to that (hydra-optuna-sweeper, say) is there once they are installed"
OF_A_SEARCH = ("trials", "sampler", "seed", "objective", "direction", "pruner")  # sweep.KEY: what a grid has not
PLACE = "task.path"  # of data of one's own: of a run that is there, when they have moved
LAID_OVER = ("train.task", "eval.task", "eval.tasks", "eval.learner")  # not in the yaml until they are named

WITHIN = ("augment", "encoder")  # chosen by name within a task


def translate(settings: list[str], multirun: bool = False) -> list[str]:
    """Spares the user some of Hydra's subtleties."""
    spared = [one for setting in settings for one in spare(setting, multirun)]
    if any(one.startswith("hydra.launcher.jobs=") for one in spared) and not any(map(is_launcher, spared)):
        return ["hydra/launcher=processes", *spared]
    return spared


def is_launcher(setting: str) -> bool:
    return setting.startswith("hydra/launcher=")


def spare(setting: str, multirun: bool) -> list[str]:
    key, _, value = setting.partition("=")
    if setting == "experiment=null":
        return []  # as it is by default
    if key.lstrip("+") == "hydra.run.dir":
        return spare(f"run.dir={value}", multirun)  # Hydra's directory is the run's
    laid_over = key.startswith(tuple(f"{group}." for group in LAID_OVER))
    if key == PLACE or laid_over or (key in LAID_OVER and value.startswith("{")):
        return [f"++{setting}"]
    if key.split(".")[0] in GROUPS and "." in key and value.startswith("{"):
        return [f"~{key}", f"+{setting}"]  # it takes the place of the yaml's; Hydra would add to that
    if key == "logger" and (names := in_brackets(value)):  # Hydra merges what has one name: each gets its own
        return (
            ["~logger", *(f"+logger@logger.{name}={name}" for name in names)]
            if len(names) > 1
            else [f"logger={names[0]}"]
        )
    if key == "train.population" and value[:1] not in ("", "'", '"') and value != "null":
        return [f"{key}={in_hydras_quotes(value)}"]  # it has settings within
    for group in WITHIN:
        if group in key.split(".")[1:] and value in choices(group):
            return [f"{group}@{setting}"]  # task.encoder=wordllama
    if multirun and key == "run.dir":
        return [f"hydra.sweep.{setting.removeprefix('run.')}"]  # one directory for all, with one inside for each
    if multirun and key == "sweep.jobs":
        return [f"hydra.launcher.jobs={value}"]
    if multirun and key.startswith("sweep."):
        chosen = ["hydra/sweeper=optuna"] if key.removeprefix("sweep.") in OF_A_SEARCH else []
        return [*chosen, f"hydra.sweeper.{setting.removeprefix('sweep.')}"]
    return [setting]


def in_brackets(value: str) -> list[str]:
    """`[wandb, tensorboard]` as its words; none of what is no such list."""
    found = re.fullmatch(r"\[([^][{}]+)\]", value.strip())
    return list(dict.fromkeys(filter(None, map(str.strip, found[1].split(","))))) if found else []


def explain(error: Exception, settings: list[str]) -> str:
    """A mistake in a setting, or in a yaml of the user's own, in one line, with the nearest spelling."""
    from hydra.errors import OverrideParseException
    from yaml import MarkedYAMLError

    message = str(error)
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: is no yaml ({error.problem})"
    if isinstance(error, UnicodeDecodeError):
        return f"a yaml file is no text in UTF-8 ({message})"
    if found := re.search(r"Could not find '(\S+)/([^'/]+)'", message):
        group, choice = found.groups()
        there = re.search(r"Available options in '.*':\n((?:\t.*\n?)*)", message)
        known = nearest(choice, there[1].split() if there else choices(group))
        return f"{group}={choice}: no such choice; {known}{PLUGINS if group.startswith('hydra/') else ''}"
    if found := re.search(r"(?:Could not override|Could not delete from config\.) '([^']+)'", message):
        return no_such_choice(settings) if found[1] in GROUPS else no_such_key(found[1], settings)
    if found := re.match(r"Could not append to config\. An item is already at '(.+)'", message):
        return f"+{found[1]}: is there already; without the plus it is set"
    if found := re.match(r"Error merging override (.+)", message):
        return f"{found[1]}: cannot stand there; `metarun --cfg job` shows what does"
    if found := re.match(r"Ambiguous value for argument '(.+)'", message):
        key, _, value = found[1].partition("=")
        text = "" if key in GROUPS else f"; a list has brackets, [{value}], and text with a comma has quotes"
        text = f"; several loggers of one run have brackets, logger=[{value}]" if key == "logger" else text
        return f"{found[1]}: several values are several runs, which metarun -m makes{text}"
    if found := re.match(r"Sweep parameters '(.+)' requires", message):
        return f"{found[1]}: several values are several runs, which metarun -m makes"
    if message.startswith("Sweeping over Hydra's configuration") and "hydra.sweep.dir=" in message:
        return "run.dir: a sweep has one directory, with one inside for each of its runs; name one"
    if message.startswith("Config group override must be"):  # a choice that reads as a number
        return no_such_choice(settings)
    if isinstance(error, OverrideParseException):
        return unreadable(error.override, message, settings)
    if found := re.match(r"Additional config directory '(.+)' not found", message):
        return f"--config-dir={found[1]}: is no directory; it is to hold yaml files, learner/mine.yaml say"
    if found := re.match(r"Interpolation key '(.+)' not found", message):
        setting = next((setting for setting in settings if f"${{{found[1]}}}" in setting), "a yaml file")
        return f"{setting}: there is no key {found[1]}"
    return message.splitlines()[0] if message else type(error).__name__


def unreadable(override: str, message: str, settings: list[str]) -> str:
    """A setting that Hydra's grammar does not know, and how it can be written."""
    reason = message.splitlines()[-2] if message.startswith("Error parsing") else message.splitlines()[0]
    reason = reason.partition(" expecting {")[0]
    given = override if override in settings else override.lstrip("+")  # `spare` adds one
    key, equals, value = given.partition("=")
    how = ""
    if not equals and "/" in given:
        how = f"; to go on with a run: {going_on(given)}"
    elif key in GROUPS:
        how = f"; {key} is one of {', '.join(choices(key))}" if key != "experiment" else ""
    elif equals and any(value.count(one) != value.count(other) for one, other in ("[]", "{}")):
        how = "; a list or group with spaces in it wants quotes around the whole: 'key=[1, 2]'"
        how += "" if value[-1:] in ",:[{" else f"; text with such signs, quotes of its own: {in_quotes(key, value)}"
    elif equals and value[:1] not in ("", "'", '"', "[", "{", "$"):
        how = f"; a value with such signs wants quotes: {in_quotes(key, value)}"
    why = "" if "Exception" in reason else f" ({reason})"
    return f"{given}: cannot be read as group=choice or key=value{why}{how}"


def in_quotes(key: str, value: str) -> str:
    """A setting whose value is text, whatever its signs: Hydra's quotes within the shell's."""
    return shlex.quote(f"{key}={in_hydras_quotes(value)}")


def in_hydras_quotes(value: str) -> str:
    """A text as Hydra reads it, whatever its signs. A backslash is one but before a quote."""
    return '"{}"'.format(re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), value))


def of_place(directory: Path | str) -> str:
    """The setting `run.dir=DIR`, in Hydra's quotes where it would read the name as something else."""
    text = str(directory)
    plain = re.fullmatch(PLAIN, text) and not re.fullmatch(A_VALUE, text)
    return f"run.dir={text if plain else in_hydras_quotes(text)}"


def going_on(directory: Path | str, *options: str) -> str:
    """The command that goes on with what is in a directory, to be pasted: `metarun run.dir=DIR`."""
    return shlex.join(["metarun", *options, of_place(directory)])


def words_of(command: str) -> list[str]:
    """A command's words; none of an older run, which did not quote them."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def key_of(setting: str) -> str:
    """`+a.b=1` -> `a.b`, and of what is chosen by its name within another group, `a@b.c=a`, its place `b.c`."""
    return setting.lstrip("+~").partition("=")[0].split("@")[-1]


PLAIN = r"[a-zA-Z0-9_/.:%+@-]+"  # of the letters, Hydra's grammar has these
A_VALUE = r"(?i)true|false|null|[-+]?(nan|inf|[\d_.]*\d[\d_.]*(e[-+]?[\d_]+)?)"


def without_hydras_quotes(value: str) -> str:
    """A text as it is meant: the reverse of `in_hydras_quotes`."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return value
    return re.sub(rf"(\\*)\\({value[0]}|\Z)", lambda found: found[1][::2] + found[2], value[1:-1])


def no_such_choice(settings: list[str]) -> str:
    """The first setting that names a group and no choice of it, in one line."""
    given = [setting.partition("=") for setting in settings]
    group, choice = next(((g, c) for g, _, c in given if g in GROUPS and c not in choices(g)), given[0][::2])
    return f"{group}={choice}: no such choice; {nearest(choice, choices(group))}"


def no_such_key(key: str, settings: list[str]) -> str:
    """A key that is not there: the nearest of those beside it, or the same elsewhere (`seed` is `train.seed`)."""
    here, path = composed(settings), key.split(".")
    elsewhere = [full for full in flat(here) if full.split(".")[-1] == path[-1]]
    while len(path) > 1 and isinstance(here.get(path[0]), dict):
        here = here[path.pop(0)]
    beside = nearest(".".join(path), map(str, here))
    if elsewhere and ("." not in key or beside.startswith("allowed")):
        beside = f"did you mean {' or '.join(elsewhere)}?"
    return f"{key}: no such key; {beside}"


def keys_named(name: str) -> list[str]:
    """All keys of the configuration that end in `name`: train.seed and eval.seed for seed; else in one like it."""
    keys = list(flat(composed([])))
    last = [key.split(".")[-1] for key in keys]
    meant = re.sub(r"did you mean (.+)\?|.*", r"\1", nearest(name, last))
    return [key for key, its in zip(keys, last, strict=True) if its in (name, meant)]


def composed(settings: list[str]) -> dict[str, Any]:
    """The configuration that the choices of groups among `settings` give, not resolved."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    given = [setting.partition("=") for setting in settings]
    chosen = [f"{group}={choice}" for group, _, choice in given if group in GROUPS and choice in choices(group)]
    loggers = [name for group, _, names in given if group == "logger" for name in in_brackets(names)]
    if loggers and set(loggers) <= set(choices("logger")):
        chosen += spare(f"logger=[{','.join(loggers)}]", multirun=False)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=chosen))  # type: ignore[return-value]
