"""`metarun [overrides]`: trains and tests one run or, with -m, one for every combination."""

import errno
import os
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from metarun import stderr
from metarun.command import options
from metarun.command.exits import FAILED, MISTAKE, STOPPED, fail, is_of_standard_output
from metarun.config import allowed, conf_dir, explain, going_on, of_place, translate, without_hydras_quotes
from metarun.files import FULL
from metarun.run.stop import leave, leave_on_signals, stop_on_signals, stop_without_parent
from metarun.text import first_line, one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

SWEEPS = Path("runs/multirun")  # where conf/config.yaml has them
LIMITS = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)  # of memory, threads and open files: no disk's fault
OF_THE_SWEEP = ("run.dir=", *options.OF_A_SWEEP)  # not of its runs


def main(arguments: list[str]) -> None:
    """Composes the configuration with Hydra and runs it, once or (with -m) for every combination."""
    command = options.read(arguments)
    if command.multirun:
        command = gone_on_with(command)
    options.must_be_settings(command)
    stop_without_parent()
    compose_and_run(command)


def gone_on_with(command: options.Command) -> options.Command:
    """Of a sweep that run.dir alone names, its own command; of a command that was broken off, with its directory."""
    from metarun import sweep
    from metarun.core import ConfigError
    from metarun.run.terminal import say

    places = [setting.partition("=")[2] for setting in command.settings if setting.startswith("run.dir=")]
    others = [setting for setting in command.settings if not setting.startswith(OF_THE_SWEEP)]
    try:
        if places and not others:
            found = sweep.read(Path(without_hydras_quotes(places[-1])))
            return command._replace(
                options=[*found.options, *command.options], settings=[*found.again(command.settings), *command.settings]
            )
    except ConfigError as error:
        fail(error, MISTAKE)
    plain = [option for option in command.options if option not in ("-m", "--multirun")]
    settings, hydras = translate(others, multirun=True), translate(command.settings, multirun=True)
    if not places and (place := sweep.unfinished(SWEEPS, plain, settings, hydras)):
        say(f"going on with the sweep in {place}; another directory, run.dir=DIR, would begin anew")
        return command._replace(settings=[*command.settings, of_place(place)])
    return command


def compose_and_run(command: options.Command) -> None:
    """What `main` does, where a signal ends the process until there is something to save."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's errors reach us, to be told in one line
    sys.argv[1:] = [*command.options, *translate(command.settings, command.multirun)]
    if command.multirun:
        from metarun import sweep

        sweep.register()
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, command.settings), MISTAKE)
    except OSError as error:
        if is_of_standard_output(error):
            raise
        fail(*of_the_disk(error))
    except Exception as error:
        if job.__code__ in [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]:
            if (place := in_users_code(error)) is None:
                raise  # a fault of metarun's own: the traceback is what mends it
            stderr.say(traceback.format_exc())
            fail(f"{type(error).__name__} in your own code, {place}: {first_line(error)}", FAILED)
        fail(explain(error, command.settings), MISTAKE)  # Hydra and its parser raise other kinds, too


def job(cfg: "DictConfig") -> str | None:
    """One run: checks its configuration, trains or goes on, tests, and tells the result.

    Ends the program if the run fails. In a sweep it returns why, so that the other combinations go on.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    slow = threading.Timer(2.0, tell_of_jax)  # it takes 10 seconds, on a machine just started
    slow.daemon = True
    slow.start()

    from metarun.config.composed import as_given, as_users_write, checked, is_named_by_time
    from metarun.config.population import is_asked_for
    from metarun.core import ConfigError, DataError
    from metarun.engine import OutOfMemory
    from metarun.run import results, train
    from metarun.run.record import let_go, taken_anew
    from metarun.sweep import are_together

    slow.cancel()
    directory = as_users_write(Path(HydraConfig.get().runtime.output_dir))
    sweep, of_all = HydraConfig.get().mode is RunMode.MULTIRUN, HydraConfig.get().sweep.dir
    rest = f"; with the sweep: {going_on(as_users_write(Path(of_all).absolute()), '-m')}" if sweep else ""

    own = not sweep and is_named_by_time(cfg.run, "run.dir", as_given(HydraConfig.instance().cfg))

    def remove_if_unused() -> None:
        if own:
            let_go(directory)
        remove_if_empty(directory)

    def end() -> None:
        remove_if_unused()
        leave("stopped")

    try:
        if own:  # another command of the same second may have made one of that name
            directory = taken_anew(directory)
        with leave_on_signals(end):
            if not sweep and (is_asked_for(cfg) or are_together(directory)):
                many(cfg, directory)
                return None
            if not sweep:
                must_hold_no_sweep(directory)
            results.tell(train.train(checked(cfg, directory), partial(stop_on_signals, then=rest)), directory)
        return None
    except ConfigError as error:
        why, code = str(error), MISTAKE
    except (train.NotFinite, DataError) as error:
        why, code = str(error), FAILED
    except OutOfMemory as error:
        why = f"needs too much memory, even with one task at a time ({error}); take fewer examples or a smaller model"
        code = FAILED
    except train.NotWritten as error:
        if error.found is not None:
            results.tell(error.found, directory)
        why, code = str(error), FAILED
    except train.Interrupted as error:
        fail(f"{error}{rest}", STOPPED)
    except OSError as error:
        if is_of_standard_output(error):
            raise
        why, code = of_the_disk(error)
    except Exception as error:  # a fault of metarun's own: the traceback is what mends it
        if not sweep:
            raise
        stderr.say(traceback.format_exc())
        place = in_users_code(error)
        why, code = f"{type(error).__name__}{f' in your own code, {place}' if place else ''}: {error}", FAILED
    finally:
        remove_if_unused()
    if not sweep:
        fail(why, code)
    stderr.say(f"metarun: {one_line(why)}\n")
    return one_line(why)


def tell_of_jax() -> None:
    with suppress(OSError):  # it will be told of what comes next
        print("loading JAX", flush=True)


def must_hold_no_sweep(directory: Path) -> None:
    """Raises ConfigError if there is a sweep in the directory that a run is to have."""
    from metarun.core import ConfigError
    from metarun.sweep import how_to_go_on, is_sweep

    if is_sweep(directory):
        how = f"holds a sweep; go on with it by {how_to_go_on(directory)}, or name one of its runs"
        raise ConfigError("run.dir", directory, how)


def in_users_code(error: Exception) -> str | None:
    """Where in a package that METARUN_ALLOW names it was, innermost: `mine.py, line 12, in predict`; None: nowhere."""
    packages = {name.partition(".")[0] for name in allowed()}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
            return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
    return None


def many(cfg: "DictConfig", directory: Path) -> None:
    """Trains several runs in one program, and tells what they have come to. Ends the program if one has failed."""
    from metarun import sweep

    found, failed = sweep.train_together(cfg, directory)
    sweep.tell(found)
    if failed:
        fail(f"{len(failed)} of {len(found.jobs)} runs failed: {next(iter(failed.values()))}", FAILED)


def of_the_disk(error: OSError) -> tuple[str, int]:
    """What to say of a run's directory that cannot be written, and the exit code."""
    if error.errno in LIMITS:
        return f"the machine, or a limit of it (ulimit -a), gives this process no more: {error.strerror}", FAILED
    if error.filename is None and error.errno is None:
        return f"{type(error).__name__}: {first_line(error)}", FAILED  # of no disk: a download, say
    if error.filename is None:
        return f"run.dir: cannot be written ({error})", FAILED
    code = FAILED if error.errno in FULL else MISTAKE
    return f"run.dir: {error.filename} cannot be made or written ({error.strerror})", code


def remove_if_empty(directory: Path) -> None:
    """Hydra makes a run's directory before the run is known to be sound: takes an unused one away again."""
    try:
        for folder in (directory, *directory.parents[:2]):
            folder.rmdir()
    except OSError:
        pass  # not empty: something of the user's is in it
