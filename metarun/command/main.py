"""The command line: `metarun [overrides]` and Hydra's flags; a bare word is a verb, the module of that name here."""

import contextlib
import importlib
import os
import re
import sys

import metarun
from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.config import GROUPS, choices, describe, nearest

VERBS = ("bench", "data", "replay", "report")


def main() -> None:
    """The console script."""
    code: int | str | None = 0
    try:
        command()
    except SystemExit as error:
        code = error.code
    loggers = sys.modules.get("metarun.run.loggers")
    if loggers is not None and loggers.abandoned:  # the interpreter's own end would wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else FAILED)
    sys.exit(code)


def command() -> None:
    """What the command line asks for. Heavy imports wait until it has been read."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        with contextlib.suppress(BrokenPipeError):  # metarun --help | head
            print(help_text(), flush=True)
    elif "--version" in arguments:
        print(f"metarun {metarun.__version__}")
    elif arguments and re.fullmatch(r"[a-z]+", arguments[0]):
        verb(arguments[0], arguments[1:])
    else:
        importlib.import_module("metarun.command.train").main(arguments)


def help_text() -> str:
    """The commands, and every config group with its choices."""
    lines = [
        "metarun: a config-driven meta-learning runner on JAX.",
        "",
        "  metarun learner=maml task=omniglot               train, then test; a setting is group=choice or key=value",
        "  metarun -m learner=maml,fomaml train.seed=0,1,2  every combination, a run each",
        "  metarun run.dir=DIR                              go on with a run that was stopped",
        "  metarun learner=maml --cfg job                   print the whole configuration, run nothing",
        "  metarun bench learner=maml task=omniglot         how fast it is here: JSON; --trace DIR writes a profile",
        "  metarun replay DIR                               a meta-step that was not finite once more, task by task",
        "  metarun report RUN...                            one page about runs: --out FILE.html, --csv, --markdown",
        "  metarun data omniglot                            find or fetch, check and prepare a data set",
    ]
    width = 1 + max(len(choice) for group in GROUPS for choice in choices(group))
    for group in GROUPS:
        lines += ["", f"{group}="]
        lines += [f"  {choice:<{width}}{describe(group, choice)}" for choice in choices(group)] or ["  (none yet)"]
    lines += ["", "All keys with their values: metarun --cfg job; of one group: metarun --cfg job --package learner"]
    return "\n".join(lines)


def verb(name: str, arguments: list[str]) -> None:
    """A command other than running: its name is a bare word, where a setting has an equals sign."""
    if name not in VERBS:
        fail(f"{name}: no such command; {nearest(name, VERBS)} A setting has an equals sign: learner=maml", MISTAKE)
    importlib.import_module(f"metarun.command.{name}").main(arguments)
