"""`metarun.train(...)`: what `metarun [overrides]` does, in a process that is not metarun's own."""

import atexit
import dataclasses
import json
import os
import shlex
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from metarun.command.options import no_setting
from metarun.command.train import must_hold_no_sweep, remove_if_empty
from metarun.config import conf_dir, explain, of_place, translate, written
from metarun.config.aside import hydra_aside
from metarun.config.composed import as_given, as_users_write, checked
from metarun.config.run import Run
from metarun.core import ConfigError
from metarun.data import read_anew
from metarun.engine import compiling_ahead
from metarun.run import results
from metarun.run import train as run_train
from metarun.run.record import let_go, made, taken_anew

one_at_a_time = threading.Lock()  # Hydra's state, the log and the way to the devices are of the process


def train(overrides: Iterable[str] = (), **sections: Any) -> dict[str, Any]:
    """Trains and tests a run, as `metarun OVERRIDES` does: the content of its results.json, and its `run_dir`.

    `overrides` are written as on the command line. `sections` are the same as values: `train={"steps": 10}` is
    `train.steps=10`, and `learner="maml"` is `learner=maml`; they come after the overrides. A `run.dir` that holds a
    run goes on with it. Your own files are read anew in each call. Lines go to the standard output. A call in a second
    thread waits until the first is done.

    Raises ConfigError and DataError in one line each. Ctrl-C saves, and raises Interrupted, which says how to go on; a
    second one raises KeyboardInterrupt at once. In a thread that is not the main one run.max_minutes alone stops a run.
    Raises NotFinite, NotWritten (metarun.run.train) and OutOfMemory (metarun.engine), as the command ends with them.
    """
    if isinstance(overrides, str):
        raise ConfigError("overrides", overrides, f"must be a list: [{overrides!r}]")
    settings = [*overrides, *written(sections)]
    with one_at_a_time, as_before():
        read_anew()
        run = run_of(settings)
        directory = Path(run.info.dir)
        try:
            found = run_train.train(run, run_train.raising_on_interrupt)
        except run_train.Interrupted as error:
            raise run_train.Interrupted(in_python(str(error), directory)) from None
        finally:
            run_train.close_log()
            remove_if_unused(directory)
        results.tell(found, directory)
        return {**found, "run_dir": str(directory)}


@contextmanager
def as_before() -> Iterator[None]:
    """How precisely jax multiplies, and whether W&B is quiet, is the caller's again after a run."""
    precision, silent = jax.config.values["jax_default_matmul_precision"], os.environ.get("WANDB_SILENT")
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", precision)
        if silent is None:
            os.environ.pop("WANDB_SILENT", None)


def in_python(message: str, directory: Path) -> str:
    """What to say of a stop: it ends in the command that goes on, where there is something to go on with."""
    again = of_place(directory)
    return f"{message}, or metarun.train([{json.dumps(again)}])" if shlex.quote(again) in message else message


def in_place(cfg: Any, directory: Path) -> Run:
    """The run that is asked for in a directory, of which nothing is left if it cannot be."""
    try:
        return checked(cfg, directory)
    except BaseException:
        remove_if_unused(directory)
        raise


def remove_if_unused(directory: Path) -> None:
    let_go(directory)
    remove_if_empty(directory)


@hydra_aside()
def run_of(settings: list[str]) -> Run:
    """The run that the settings ask for, checked. Raises ConfigError."""
    must_be_settings(settings)
    translated = translate(settings)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", overrides=translated, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        place = OmegaConf.select(cfg, "run.dir")
    except Exception as error:  # Hydra and its parser raise other kinds than their own, too
        raise as_config_error(explain(error, settings), settings) from error
    given = tuple(setting.lstrip("+~") for setting in as_given(cfg))
    with open_dict(cfg):
        del cfg["hydra"]
    directory = directory_of(place)
    if not any(setting.lstrip("+").startswith("run.dir=") for setting in translated):
        directory = taken_anew(directory)  # names that end in seconds are too few for a process of many runs
    made(directory)
    must_hold_no_sweep(directory)
    try:
        run = in_place(cfg, directory)
    except (HydraException, OmegaConfBaseException) as error:
        raise as_config_error(explain(error, settings), settings) from error
    return dataclasses.replace(run, command=shlex.join(["metarun", *settings]), settings=given)


def must_be_settings(settings: list[Any]) -> None:
    """Raises ConfigError over a setting that is none, or names nothing."""
    for setting in settings:
        if not isinstance(setting, str):
            raise ConfigError("overrides", repr(setting), "must be text, as on the command line: 'train.steps=10'")
        if (wrong := no_setting(setting)) is not None:
            raise as_config_error(wrong, [setting])


def directory_of(place: Any) -> Path:
    """The directory that run.dir names. Raises ConfigError."""
    if place is None or OmegaConf.is_config(place) or not str(place).strip():
        raise ConfigError("run.dir", place, "names no directory; left out, a new one is made in runs/")
    return as_users_write(Path(os.path.expanduser(str(place))).absolute())


def as_config_error(line: str, settings: list[str]) -> ConfigError:
    """What `explain` says, as an error: `train.stes=3: no such key; ...`"""
    setting, _, allowed = line.partition(": ")
    key, equals, given = setting.partition("=")
    if " " in key:  # of a file, or what Hydra says of all
        return ConfigError("overrides", "(these)", line)
    if not equals:
        values = [one.partition("=")[2] for one in settings if one.lstrip("+~").partition("=")[0] == key]
        given = values[-1] if values else "(nothing)"
    return ConfigError(key, given, allowed)


@atexit.register
def wait_for_compilation() -> None:
    """An interpreter that ends in the middle of a compilation, as after Ctrl-C, ends badly."""
    while compiling_ahead():
        time.sleep(0.05)
