"""The command line: `metarun [overrides]` and Hydra's flags; a bare word is one of metarun.verbs."""

import contextlib
import os
import re
import sys
import traceback
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import metarun
from metarun.conf import GROUPS, choices, conf_dir, describe, nearest
from metarun.exits import FAILED, MISTAKE, STOPPED, fail
from metarun.overrides import explain, translate
from metarun.text import one_line
from metarun.verbs import VERBS

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """The console script."""
    code: int | str | None = 0
    try:
        command()
    except SystemExit as error:
        code = error.code
    loggers = sys.modules.get("metarun.loggers")
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
        compose_and_run(arguments)


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
    VERBS[name](arguments)


def compose_and_run(arguments: list[str]) -> None:
    """Composes the configuration with Hydra and runs it, once or (with -m) for every combination."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's errors reach us, to be told in one line
    for before, argument in pairwise(["", *arguments]):
        group, _, choice = argument.partition("=")
        if group in GROUPS[:-1] and choice in ("", "null") and before not in ("-p", "--package"):
            fail(f"{argument}: choose one; allowed: {', '.join(choices(group))}", MISTAKE)
    sys.argv[1:] = translate(arguments)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, arguments), MISTAKE)
    except OSError as error:
        if error.filename is None:
            fail(f"run.dir: cannot be written ({error})", FAILED)
        fail(f"run.dir: {error.filename} cannot be made or written ({error.strerror})", MISTAKE)
    except Exception as error:
        if job.__code__ in [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]:
            raise  # a fault of metarun's own: the traceback is what mends it
        fail(explain(error, arguments), MISTAKE)  # Hydra and its parser raise other kinds, too


def job(cfg: "DictConfig") -> None:
    """One run: checks its configuration, trains or goes on, tests, and tells the result."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from metarun import config, nonfinite, results, train
    from metarun.chunks import OutOfMemory
    from metarun.core import ConfigError, DataError
    from metarun.stop import Interrupted

    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        directory = Path(os.path.relpath(directory)) if directory.is_relative_to(Path.cwd()) else directory
        cfg.run.dir = str(directory)
        resolved = config.resolve(cfg)
        overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("run.dir=")]
        if (directory / "config.yaml").exists():
            resolved = config.resume(directory, resolved, [o.lstrip("+~").split("=")[0] for o in overrides])
        elif HydraConfig.get().overrides.task and not overrides:
            raise ConfigError(
                "run.dir", directory, "holds no run to go on with; to start one there, add task= or learner="
            )
        run = config.build_run(resolved)
        results.tell(train.train(run), directory)
    except ConfigError as error:
        fail(error, MISTAKE)
    except nonfinite.NotFinite as error:
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            fail(error, FAILED)
        print(f"metarun: {one_line(error)}", file=sys.stderr)  # the other combinations of a sweep go on
    except DataError as error:
        fail(error, FAILED)
    except OutOfMemory as error:
        fail(f"even one task at a time needs too much memory ({error}); take fewer examples or a smaller model", FAILED)
    except train.NotWritten as error:
        if error.found is not None:
            results.tell(error.found, directory)
        fail(error, FAILED)
    except Interrupted as error:
        fail(error, STOPPED)
    finally:
        remove_if_empty(directory)


def remove_if_empty(directory: Path) -> None:
    """Hydra makes a run's directory before the run is known to be sound: takes an unused one away again."""
    try:
        for folder in (directory, *directory.parents[:2]):
            folder.rmdir()
    except OSError:
        pass  # not empty: something of the user's is in it
