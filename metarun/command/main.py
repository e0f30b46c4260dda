"""The command line: `metarun [overrides]` and Hydra's flags; a bare word is a verb, the module of that name here."""

import errno
import importlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import metarun
from metarun import stderr
from metarun.command.exits import FAILED, MISTAKE, STOPPED, fail, is_of_standard_output
from metarun.config import GROUPS, choices, describe, going_on, nearest

VERBS = ("adapt", "bench", "data", "eval", "export", "predict", "ready", "replay", "report", "serve", "sweep")


def main() -> None:
    """The console script."""
    code: int | str | None = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as some daemons start programs
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process is there)
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error: what its encoding lacks, ± in ASCII, is spelt
        sys.stdout.reconfigure(errors="backslashreplace")
    lost: OSError | None = None
    try:
        command()
    except SystemExit as error:
        code = error.code
    except OSError as error:
        if not is_of_standard_output(error):
            raise
        lost = error
    except KeyboardInterrupt:  # by either signal, before a command hears of them, or of bench --against
        stderr.say("metarun: stopped\n")
        code = STOPPED
    if lost := lost or not_told():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(lost, BrokenPipeError):  # metarun --help | head: who reads has enough
            stderr.say(f"metarun: standard output cannot be written ({lost.strerror})\n")
            code = code or FAILED
    stderr.say("")
    for number in (signal.SIGINT, signal.SIGTERM):  # all is done and told; the interpreter's own end takes its time
        signal.signal(number, signal.SIG_IGN)
    names = ("run.to_wandb", "engine.compiled", "engine.hosts")
    to_wandb, compiled, hosts = (sys.modules.get(f"metarun.{name}") for name in names)
    # The interpreter's own end would wait for them, or break in the middle of XLA.
    if (
        (to_wandb is not None and (to_wandb.abandoned or to_wandb.held))
        or (compiled is not None and compiled.compiling_ahead())
        or (hosts is not None and hosts.are_several())
    ):
        os._exit(code if isinstance(code, int) else FAILED)
    sys.exit(code)


def not_told() -> OSError | None:
    """Why standard output has not taken all that was told; None: it has."""
    terminal = sys.modules.get("metarun.run.terminal")
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None if terminal is None else terminal.console.lost


def command() -> None:
    """What the command line asks for."""
    try:
        obey(sys.argv[1:])
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            fail(f"{error.filename}: no file can have so long a name", MISTAKE)
        if isinstance(error, PermissionError) and error.filename is not None:
            fail(f"{error.filename} cannot be read or written ({error.strerror})", MISTAKE)
        raise


def obey(arguments: list[str]) -> None:
    """What `command` does. Heavy imports wait until the arguments have been read."""
    first = arguments[0] if arguments else "help"
    if "--help" in arguments or "-h" in arguments or first == "help":
        about = next((word for word in arguments[:2] if word in VERBS), None)
        print(verb(about).HELP.strip() if about else help_text())
    elif "--version" in arguments:
        print(f"metarun {metarun.__version__}")
    elif is_gone():
        fail("the directory that this command was given in is there no more; go to another: cd", MISTAKE)
    elif first in VERBS:
        heard(verb(first).main, arguments[1:])
    elif re.fullmatch(r"[a-z]+", first):
        no_such_command(first)
    elif late := next((word for word in arguments if word in VERBS), ""):
        rest = shlex.join(word for word in arguments if word != late)
        fail(f"{late}: a command comes first: metarun {late} {rest}", MISTAKE)
    else:
        heard(verb("train").main, arguments)


def heard(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """A command, which a signal ends at once: by a thread that hears it.

    What a KeyboardInterrupt would become in the middle of an import nobody knows; and one that comes in a callback of
    jax's is told of and goes no further.
    """
    from metarun.run.stop import leave_on_signals

    with leave_on_signals():
        main(arguments)


def is_gone() -> bool:
    """Whether the working directory was deleted under the shell that stands in it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def verb(name: str) -> Any:
    """The module of a command: its `main` takes the arguments, its `HELP` is what --help prints."""
    return importlib.import_module(f"metarun.command.{name}")


def no_such_command(name: str) -> NoReturn:
    """Ends the program over a bare word that is no verb, and says what it may have meant."""
    if name in ("train", "run"):
        fail(f"{name}: no such command, and none is needed to train: metarun learner=maml task=omniglot", MISTAKE)
    choice = [f"{name}={choices(name)[0]}"] if name in GROUPS else [f"{g}={name}" for g in GROUPS if name in choices(g)]
    if choice:
        fail(
            f"{name}: no such command; a setting has an equals sign, and no spaces: metarun {' or '.join(choice)}",
            MISTAKE,
        )
    if Path(name).is_dir():
        fail(f"{name}: no such command; to go on with a run: {going_on(name)}", MISTAKE)
    near = nearest(name, VERBS)
    a_setting = " A setting" if near.endswith("?") else "; a setting"
    fail(f"{name}: no such command; {near}{a_setting} has an equals sign: learner=maml", MISTAKE)


def help_text() -> str:
    """The commands, and every config group with its choices."""
    lines = [
        "metarun: a config-driven meta-learning runner on JAX.",
        "",
        "  metarun learner=maml task=omniglot               train, then test; a setting is group=choice or key=value",
        "  metarun -m learner=maml,fomaml train.seed=0,1,2  every combination, a run each",
        "  metarun learner=maml train.seeds=8               many seeds in one program, a run each",
        "  metarun -m run.dir=DIR                           go on with a sweep that was stopped",
        "  metarun sweep DIR                                how a sweep stands: best on validation first, what failed",
        "  metarun run.dir=DIR                              go on with a run that was stopped",
        "  metarun run.dir=DIR train.steps=6000             make a run longer",
        "  metarun run.dir=DIR eval.episodes=2000           test a finished run again, in another way",
        "  metarun eval RUN... eval.task.ways=20            test runs under another protocol, with nothing touched",
        "  metarun adapt RUN --support DIR --query DIR      what a run has learned, on a task of your own",
        "  metarun serve RUN                                a page to try it: draw or write a few examples, and ask",
        "  metarun export RUN --out FILE                    what it learned as a program that runs with jax alone",
        "  metarun ready                                    the learners that come with metarun, trained already",
        "  metarun learner=maml --cfg job                   print the whole configuration, run nothing",
        "  metarun bench learner=maml task=omniglot         how fast it is here: JSON; --trace DIR writes a profile",
        "  metarun replay DIR                               a meta-step that was not finite once more, task by task",
        "  metarun report RUN...                            one page about runs: --out FILE.html, --csv, --markdown",
        "  metarun data omniglot                            find or fetch, check and prepare a data set; what is in it",
        "  metarun data task=folder task.path=DIR           what is in your own data, and two episodes to look at",
        "  metarun bench --help                             more about a command",
    ]
    width = 1 + max(len(choice) for group in GROUPS for choice in choices(group))
    for group in GROUPS:
        lines += ["", f"{group}="]
        lines += [f"  {choice:<{width}}{describe(group, choice)}" for choice in choices(group)]
    lines += ["", "All keys with their values: metarun --cfg job; of one group: metarun --cfg job --package learner"]
    return "\n".join(lines)
