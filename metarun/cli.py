"""The command line: `metarun [overrides]`, Hydra's flags, and the verbs."""

import contextlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import metarun
from metarun.conf import GROUPS, choices, conf_dir, describe, nearest
from metarun.text import one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Exit codes: 0 done; 1 the run failed; 2 a mistake in the command; 75 stopped and saved: give the same command again.
FAILED, MISTAKE, STOPPED = 1, 2, 75


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


def fail(message: object, code: int) -> NoReturn:
    """Ends the program with one line on standard error."""
    print(f"metarun: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


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
    verbs = {"bench": bench, "data": data, "replay": replay, "report": report}
    if name not in verbs:
        fail(f"{name}: no such command; {nearest(name, verbs)} A setting has an equals sign: learner=maml", MISTAKE)
    verbs[name](arguments)


def bench(arguments: list[str]) -> None:
    """`metarun bench [--trace DIR] [overrides]`."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    trace = None
    if "--trace" in arguments:
        at = arguments.index("--trace")
        if at + 1 == len(arguments):
            fail("--trace: names no directory; give one: metarun bench --trace DIR", MISTAKE)
        trace = Path(arguments[at + 1])
        arguments = arguments[:at] + arguments[at + 2 :]
    overrides = [translate(argument, multirun=False) for argument in arguments]
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", overrides=["run.dir=null", f"run.name={' '.join(arguments)!r}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, arguments), MISTAKE)

    from metarun import bench, config
    from metarun.core import ConfigError, DataError

    try:
        resolved = config.resolve(cfg)
        resolved["run"]["dir"] = ""
        bench.tell(bench.bench(config.build_run(resolved), trace))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)


def data(arguments: list[str]) -> None:
    """`metarun data omniglot [data_dir=DIR]`."""
    from metarun.core import DataError
    from metarun.tasks import omniglot

    directory = os.environ.get("METARUN_DATA_DIR")
    for argument in arguments:
        if argument.startswith("data_dir="):
            directory = argument.removeprefix("data_dir=")
        elif argument not in ("omniglot", "task=omniglot"):
            fail(f"{argument}: no such data set; allowed: omniglot", MISTAKE)
    try:
        names, images = omniglot.load_drawings(directory)
    except DataError as error:
        fail(error, FAILED)
    print(f"omniglot: {len(names):,} characters, {images.shape[0] * images.shape[1]:,} drawings, ready")


def replay(arguments: list[str]) -> None:
    """`metarun replay DIR`."""
    from metarun import nonfinite
    from metarun.core import ConfigError, DataError

    if len(arguments) != 1:
        fail("replay: takes one directory, of a run that stopped at a meta-step that was not finite", MISTAKE)
    try:
        print(nonfinite.tell(nonfinite.replay(Path(arguments[0]))))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)


def report(arguments: list[str]) -> None:
    """`metarun report RUN... [--out FILE] [--csv FILE] [--markdown FILE]`."""
    from metarun.core import DataError
    from metarun.log import write_atomically
    from metarun.report import page, runs

    files = {"--out": Path("report.html")}
    paths: list[Path] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name not in ("--out", "--csv", "--markdown"):
            if argument.startswith("-"):
                fail(f"report {argument}: no such option; allowed: --out FILE, --csv FILE, --markdown FILE", MISTAKE)
            paths.append(Path(argument))
        elif equals or rest:
            files[name] = Path(value if equals else rest.pop(0))
        else:
            fail(f"report {name}: names no file; give one: metarun report RUN {name} FILE", MISTAKE)
    if not paths:
        fail("report: names no run; give a run's directory, or one that holds runs: metarun report runs", MISTAKE)
    try:
        found = runs.read(runs.find(paths))
        make = {"--out": page.html, "--csv": page.as_csv, "--markdown": page.as_markdown}
        for name, file in files.items():
            write_atomically(file, make[name](found))
            print(one_line(f"{file}: {len(found)} run{'s' if len(found) != 1 else ''}"))
    except DataError as error:
        fail(error, MISTAKE)
    except OSError as error:
        fail(f"report: {error.filename} cannot be written ({error.strerror})", FAILED)


def compose_and_run(arguments: list[str]) -> None:
    """Composes the configuration with Hydra and runs it, once or (with -m) for every combination."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's errors reach us, to be told in one line
    for argument in arguments:
        group, _, choice = argument.partition("=")
        if group in GROUPS[:-1] and choice in ("", "null"):
            fail(f"{argument}: choose one; allowed: {', '.join(choices(group))}", MISTAKE)
    multirun = "-m" in arguments or "--multirun" in arguments
    sys.argv[1:] = [translate(argument, multirun) for argument in arguments]
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


def translate(argument: str, multirun: bool) -> str:
    """Spares the user two of Hydra's subtleties."""
    if argument.startswith(("train.task.", "eval.task.", "eval.learner.")):
        return f"++{argument}"  # what training or evaluation overrides is not in the yaml until it is named
    if multirun and argument.startswith("run.dir="):
        return f"hydra.sweep.{argument.removeprefix('run.')}"  # one directory for all, with one inside for each
    return argument


def explain(error: Exception, arguments: list[str]) -> str:
    """A mistake in an override, in one line, with the nearest spelling."""
    from hydra.errors import OverrideParseException

    message = str(error)
    if found := re.search(r"Could not find '(\w+)/([^']+)'", message):
        group, choice = found.groups()
        return f"{group}={choice}: no such choice; {nearest(choice, choices(group))}"
    if found := re.search(r"Could not override '([^']+)'", message):
        *path, key = found[1].split(".")
        if found[1] in GROUPS:
            return no_such_choice(arguments)
        return f"{found[1]}: no such key; {nearest(key, keys_at(path, arguments))}"
    if message.startswith("Config group override must be"):  # a choice that reads as a number
        return no_such_choice(arguments)
    if isinstance(error, OverrideParseException):
        reason = message.splitlines()[-2] if message.startswith("Error parsing") else message.splitlines()[0]
        return f"{error.override}: cannot be read as group=choice or key=value ({reason})"
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


def job(cfg: "DictConfig") -> None:
    """One run: checks its configuration, trains or goes on, tests, and tells the result."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from metarun import config, results, train
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
    except train.NotFinite as error:
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
