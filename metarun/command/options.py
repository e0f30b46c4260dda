"""What stands on the command line of `metarun [overrides]`: Hydra's options, and settings."""

import argparse
from pathlib import Path
from typing import NamedTuple, NoReturn

from metarun.command.exits import MISTAKE, fail
from metarun.config import GROUPS, choices, going_on, key_of, keys_named, nearest

OF_A_SWEEP = ("sweep.", "hydra/sweeper=", "hydra/launcher=", "hydra.sweeper.", "hydra.launcher.")
LONGEST_KEY = 200  # Hydra looks for a file of that name


class Command(NamedTuple):
    """A command line, read."""

    options: list[str]  # Hydra's, with their values
    settings: list[str]  # group=choice or key=value
    multirun: bool
    prints: bool  # a configuration, or about Hydra: nothing is run
    own: bool  # with a primary yaml of the user's own


def read(arguments: list[str]) -> Command:
    """The command line in its parts. Ends the program over what is no option of Hydra's."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        fail(f"{message.removeprefix('argument ')}; metarun --hydra-help tells of Hydra's options", MISTAKE)

    parser: argparse.ArgumentParser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.allow_abbrev = False
    found, unknown = parser.parse_known_intermixed_args(arguments)
    options = list(arguments)
    for setting in found.overrides:
        options.remove(setting)
    if unknown:
        no_such_option(unknown[0], arguments, [name for name in parser._option_string_actions if name.startswith("--")])
    return Command(
        options,
        found.overrides,
        found.multirun or "hydra.mode=MULTIRUN" in found.overrides,
        bool(found.cfg or found.info or found.hydra_help or found.shell_completion),
        bool(found.config_name or found.config_path),
    )


def no_such_option(option: str, arguments: list[str], known: list[str]) -> NoReturn:
    """Ends the program: `--seed 1` is meant to be `train.seed=1`."""
    name, _, value = option.partition("=")
    if (meant := nearest(name, known)).startswith("did"):
        fail(f"{name}: no such option; {meant}", MISTAKE)
    after = [*arguments, ""][arguments.index(option) + 1]
    value = value or ("VALUE" if after.startswith("-") or "=" in after or not after else after)
    key = name.lstrip("-").replace("-", "_")
    keys = [key] if key in GROUPS or "." in key else keys_named(key)
    how = " or ".join(f"{each}={value}" for each in keys) or f"KEY={value}; all keys: metarun --cfg job"
    fail(f"{name}: no such option; a setting has an equals sign and no dashes: {how}", MISTAKE)


def must_be_settings(command: Command) -> None:
    """Ends the program over a setting that is none, or names nothing, and over a command that names nothing to run."""
    for setting in command.settings:
        if (wrong := no_setting(setting, command.multirun)) is not None:
            fail(wrong, MISTAKE)
    if command.prints or command.own:
        return
    if command.multirun and all(setting.startswith("run.dir=") for setting in command.settings):
        fail("-m: wants a setting with several values: metarun -m learner=maml,fomaml train.seed=0,1,2", MISTAKE)
    if not command.settings:
        fail(f"{command.options[0]}: says nothing of what to run: metarun learner=maml task=omniglot, say", MISTAKE)


def no_setting(setting: str, multirun: bool = False) -> str | None:
    """What is wrong with one that is no setting, or names nothing, where Hydra would not tell; None: nothing is."""
    key, (_, equals, value) = key_of(setting), setting.partition("=")
    value = value.strip("'\" ")
    if not key:
        return f"{setting or repr(setting)}: names nothing; a setting is group=choice or key=value"
    if equals and len(key) > LONGEST_KEY:
        return f"{key[:40]}...: no such key; it has {len(key)} letters"
    if key in GROUPS[:-1] and equals and value in ("", "null", "[]"):
        return f"{setting}: choose one; allowed: {', '.join(choices(key))}"
    if key in ("run.dir", "hydra.run.dir") and equals and value in ("", "null"):
        return f"{setting}: names no directory; left out, a new one is made in runs/"
    if setting.startswith(OF_A_SWEEP) and not multirun:
        return f"{setting}: is of a sweep, which metarun -m makes: metarun -m train.seed=0,1,2 {setting}"
    if not equals and is_directory(setting):
        return f"{setting}: a setting has an equals sign; to go on with a run: {going_on(setting)}"
    return None


def is_directory(word: str) -> bool:
    try:
        return Path(word).is_dir()
    except OSError:  # no name of a file is as long as some settings
        return False
