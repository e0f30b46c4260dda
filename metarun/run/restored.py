"""What a run has learned, to be used elsewhere: read, with nothing of the run touched, also while it goes on."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import jax

from metarun.config import conf_dir
from metarun.config.learned import optimizer_of
from metarun.config.resume import read
from metarun.core import ConfigError, DataError, PyTree, State
from metarun.files import read_yaml
from metarun.run.checkpoint import digest, on_host, restore_tree, sign
from metarun.run.series import newest_in, steps_in
from metarun.text import first_line

log = logging.getLogger("metarun")

STATES = ("best", "last")
TRIES = 3  # a run that is at work drops what it has saved before


def stored(directory: Path) -> dict[str, Any]:
    """The configuration of the run in `directory`, of whatever version, as today's. Raises ConfigError."""
    if not (directory / "config.yaml").is_file():
        what = "holds no run (no config.yaml)" if directory.is_dir() else "no such directory"
        raise ConfigError("run", directory, f"{what}; name a run's directory")
    ours = read_yaml(conf_dir() / "config.yaml")
    hardware = read_yaml(conf_dir() / "hardware" / "auto.yaml")
    found = read(directory, {"run": {**ours["run"], "name": directory.name}, "hardware": hardware})
    return {**found, "run": {**found["run"], "dir": str(directory)}}


def saved(config: dict[str, Any], directory: Path, state: Literal["best", "last"]) -> tuple[PyTree, dict[str, Any]]:
    """The parameters (on the host) of the newest whole state that tells of them, and which state that is.

    That is as results.json has it: {"state": "best", "step": ...}. A newer one that is not whole is named. Raises
    ConfigError where nothing is saved yet, DataError if what is saved is damaged.
    """
    if state not in STATES:
        raise ConfigError("state", state, f"must be one of: {', '.join(STATES)}")
    series = directory / "checkpoints"
    for _ in range(TRIES):
        damaged = ""
        if not (steps := steps_in(series / "last")):
            raise ConfigError("run", directory, "has saved nothing yet (checkpoints/last is empty); wait, or train it")
        for step in reversed(steps):
            try:
                found = at(config, series, step, state)
            except Exception as error:  # a damaged file may raise anything, and so does one that is dropped meanwhile
                damaged = damaged or f"{series / 'last' / str(step)} ({first_line(error)})"
                continue
            if damaged:
                log.warning(f"passed over: {damaged}; taken is what was learned by meta-step {step}")
            return found
    raise DataError(f"{directory} holds no whole checkpoint: {damaged}; restore it from a copy")


def at(
    config: dict[str, Any], series: Path, step: int, state: Literal["best", "last"]
) -> tuple[PyTree, dict[str, Any]]:
    """What was learned by the meta-step `step`. Raises anything if it is not whole."""
    host = json.loads((series / "last" / str(step) / "host" / "metadata").read_text())
    if sign(host) != host:
        raise ValueError("its digest is not that of its content")
    best = host["best"]
    if state == "best" and best is not None:
        folder = series / "best" / str(best["step"])
        try:
            params = on_host(folder / "default").get("params", {})
            must_be(params, best["digest"])
        except Exception as error:  # as in `saved`
            wrong = f"is damaged: {first_line(error)}" if folder.exists() else "is missing"
            raise ValueError(f"{folder} {wrong}") from error
        return params, {"state": "best", **best}
    found = whole_state(config, series / "last" / str(step) / "state")
    must_be(found, host["digest"])
    return jax.device_get(found.params), {"state": "last", "step": step}


def files_of_best(directory: Path) -> list[Path]:
    """The files of a run's directory that its best state takes, to be used elsewhere; none if there is no such state.

    They may be copied to another directory: it can be loaded, tested again and started from.
    """
    series = directory / "checkpoints"
    newest = newest_in(series / "last")
    host = series / "last" / str(newest) / "host"
    best = json.loads((host / "metadata").read_text())["best"] if newest is not None else None
    if best is None:
        return []
    told = [directory / name for name in ("config.yaml", "purpose.json", "results.json")]
    of_state = [file for folder in (host, series / "best" / str(best["step"])) for file in sorted(folder.rglob("*"))]
    return [file for file in (*told, *of_state) if file.is_file()]


def whole_state(config: dict[str, Any], path: Path) -> State:
    """A saved state in the structure that it was saved from, which orbax does not keep of an optimizer's."""
    tree = {"params": {}, "sums": {}, **on_host(path)}
    like = State(**{**tree, "opt_state": jax.eval_shape(optimizer_of(config).init, tree["params"])})
    return State(*restore_tree(path, like))


def must_be(tree: PyTree, known: str) -> None:
    """Raises ValueError unless the tree has this digest."""
    if digest(tree) != known:
        raise ValueError("its digest is not that of its content")
