"""The begin of a run's process: data, devices, the state to go on from, and the files it will write."""

import json
import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jax.sharding import Mesh

from metarun import engine
from metarun.config import going_on
from metarun.config.run import Run
from metarun.core import ConfigError, Key, PyTree, State, Tasks, Tracked, Tracker
from metarun.files import write_atomically
from metarun.run import display, domains, earlier, purpose, separation
from metarun.run.announce import announce
from metarun.run.checkpoint import Checkpoints
from metarun.run.clock import Clock
from metarun.run.domains import Domain
from metarun.run.log import MetricsFile, open_log
from metarun.run.loggers import Trackers, without_key
from metarun.run.no_checkpoints import NoCheckpoints
from metarun.run.provenance import gone_on, of_two_precisions
from metarun.run.status import Status
from metarun.run.stop import Stop
from metarun.run.transfer import Transfer, must_have_a_source, source_of
from metarun.run.watch import Watch

log = logging.getLogger("metarun")

COMMAND = "command.json"  # beside config.yaml: it tells how the run was begun, before anything is saved


class Loaded(NamedTuple):
    """A run's data, on the host."""

    data: dict[str, PyTree]  # to train on ("train"), to select by ("val"), to test on ("eval")
    separation: dict[str, Any] | None  # see separation.check
    domains: dict[str, Domain]  # others to test on


class Shared(NamedTuple):
    """What is of no one run, but of all that share their programs."""

    mesh: Mesh
    data: dict[str, PyTree]  # those of Loaded, as `engine.held`
    separation: dict[str, Any] | None
    domains: dict[str, Domain]
    eval_chunk: int


class Opened(NamedTuple):
    """A run's directory, in which its configuration stands, and what the run goes on from, on the host."""

    directory: Path
    command: str  # that began the run, or made it longer
    checkpoints: Checkpoints | NoCheckpoints
    saved: tuple[State, dict[str, Any]] | None  # the newest state; None: it begins
    source: Transfer | None  # what it then takes of another run


class Begun(NamedTuple):
    """All that is there before this process makes its first meta-step."""

    opened: Opened
    shared: Shared
    parts: engine.Source  # of the data to train on, for the meta-steps
    k_train: Key
    k_eval: dict[str, Key]  # of "val" and of "eval"
    state: State
    host: dict[str, Any]  # what is saved beside the state
    task_chunk: int
    metrics_file: MetricsFile
    tracker: Tracker


def begin(run: Run, stop: Stop, watch: Watch, status: Status, clock: Clock) -> Begun:
    """Loads and checks, and places the run's newest state, or its first one, on the devices.

    Raises ConfigError and DataError, before there is anything of the run but for checkpoints that are damaged.
    """
    directory = Path(run.info.dir)
    must_have_a_source(run)
    status.at("loading the data")
    loaded = load(run)
    mesh = run.hardware.set_up(run.train.meta_batch)
    source = source_of(run, mesh, loaded.data["train"])
    open_log(directory)
    status.opened()
    opened = open_directory(run, mesh, loaded, source)
    stop.how_to_go_on = going_on(directory)
    watch.saved = lambda: saved_in_words(run, directory, opened.checkpoints.on_disk())

    watch.at("placing the data on the devices")
    shared = place(run, loaded, mesh)
    watch.at("the first state")
    status.at("preparing the first state")

    def task_chunk(state: State, parts: engine.Source, k_train: Key) -> int:
        clock.started()
        watch.at("measuring how many tasks at once are fastest")
        status.at("compiling and timing meta-steps")
        step = int(state.step)
        training = engine.Training(state, parts.at(step)[0], run.numbers, k_train)
        return engine.choose_chunk(run.shape, mesh, run.hardware, training, run.train.steps - step, run.shaping)

    begun = go_on(run, opened, shared, status, task_chunk)
    announce(run, mesh, begun.task_chunk, begun.state.params, separations(shared), shared.data["train"])
    return begun


def place(run: Run, loaded: Loaded, mesh: Mesh) -> Shared:
    """What `load` has found, on the devices."""
    size, platform = engine.episode_size(run.eval_tasks, loaded.data["eval"]), mesh.devices.flat[0].platform
    held = engine.held(run.hardware.data, with_tasks(run, loaded.data), mesh)
    engine.must_be_whole(run.shape.selection, held["train"], run.hardware.data)
    if run.private.users is not None and engine.is_on_host(held["train"]):
        allowed = "leaves data of this size on the host, and private users are drawn from them on the device: device"
        raise ConfigError("hardware.data", run.hardware.data, allowed)
    return Shared(
        mesh=mesh,
        data=held,
        separation=loaded.separation,
        domains=loaded.domains,
        eval_chunk=run.hardware.chunk_of_evaluation(run.train.meta_batch // mesh.size, size, platform),
    )


def go_on(
    run: Run,
    opened: Opened,
    shared: Shared,
    status: Status,
    task_chunk: Callable[[State, engine.Source, Key], int],
) -> Begun:
    """The run's newest state, or its first one, on the devices, and its files open.

    `task_chunk` is asked how many tasks a device takes at once.
    """
    state, host = first_or_saved(run, shared.mesh, shared.data["train"], opened)
    k_train = engine.stream(run.train.seed, engine.TRAIN)
    k_eval = {"val": engine.stream(run.eval.seed, engine.VAL), "eval": engine.stream(run.eval.seed, engine.EVAL)}
    of_steps = (engine.of_meta_step, k_train, run.train.meta_batch, run.train.steps)
    parts = engine.in_parts(run.tasks, shared.data["train"], *of_steps)
    chunk = task_chunk(state, parts, k_train)
    unfinished = "val" if host["unvalidated"] else None
    status.at("opening the logger")
    return Begun(
        opened=opened,
        shared=shared,
        parts=parts,
        k_train=k_train,
        k_eval=k_eval,
        state=state,
        host=host,
        task_chunk=chunk,
        metrics_file=MetricsFile(opened.directory / "metrics.jsonl", int(state.step), unfinished),
        tracker=Trackers(run.loggers, tracked(run, host["command"], int(state.step))),
    )


def separations(shared: Shared) -> list[dict[str, Any] | None]:
    """How the splits are separate, and other domains from training."""
    return [shared.separation, *(domain.separation for domain in shared.domains.values())]


def tracked(run: Run, command: str, step: int) -> Tracked:
    """What the run's trackers are told of it, which has so many meta-steps behind it."""
    directory, name, tags = Path(run.info.dir), run.info.name, run.info.tags
    settings, sweep = display.of_this_job() if run.settings is None else (run.settings, run.sweep)
    return Tracked(directory, run.config, name, tags, run.tasks.metric, command, step, settings, sweep)


def load(run: Run) -> Loaded:
    """All of it, compared and checked. Raises DataError, and ConfigError for a model that does not fit the data."""
    data = {"train": run.tasks.load("train"), "val": run.eval_tasks.load("val"), "test": run.eval_tasks.load("test")}
    separate = separation.check({"train": run.tasks, "val": run.eval_tasks, "test": run.eval_tasks}, data)
    shapes = engine.check_shapes(run.learner, engine.nets(run.shape)[0], run.tasks, data["train"])
    domains.must_be_taken(run, domains.OWN, data["train"], data[run.eval.split], shapes)
    others = domains.load(run, data, shapes)
    found = {"train": data["train"], "val": data["val"], "eval": data[run.eval.split]}
    elsewhere = {name: (run.domains[name], domain.data) for name, domain in others.items()}
    engine.must_have_examples(run.hardware.data, with_tasks(run, found) | elsewhere)
    return Loaded(found, separate, others)


def with_tasks(run: Run, data: dict[str, PyTree]) -> dict[str, tuple[Tasks, PyTree]]:
    """Each split's data with the tasks that are drawn from them."""
    return {split: (run.tasks if split == "train" else run.eval_tasks, data[split]) for split in data}


def open_directory(run: Run, mesh: Mesh, loaded: Loaded, source: Transfer | None) -> Opened:
    """The configuration that runs it again, and what it is for; results of another test, or of fewer steps, step aside.

    Nothing is written before all that there is has been read and checked. Raises DataError if nothing saved is whole,
    or if a run that has begun would go on with other data.
    """
    directory, train = Path(run.info.dir), loaded.data["train"]
    checkpoints = Checkpoints(directory / "checkpoints") if engine.hosts.is_first() else NoCheckpoints()
    saved = None
    if not checkpoints.is_empty():
        saved = checkpoints.restore(engine.shapes_of_first_state(run.shape, mesh, train, run.numbers))
    trained = saved is not None and int(saved[0].step) == run.train.steps and not saved[1].get("unvalidated", False)
    here = purpose.here(run.tasks, train, loaded.separation, run.eval_tasks)
    there = purpose.told(directory) if saved is not None else None
    changed = (purpose.must_be_learned_from if trained else purpose.must_be_as_before)(there, here)
    if changed:
        log.info(changed)
    command = command_of(run, directory, None if saved is None else saved[1])
    earlier.set_aside(directory, run.config, trained)
    write_atomically(directory / COMMAND, json.dumps({"command": command}) + "\n")
    write_atomically(directory / "config.yaml", yaml.safe_dump(run.config, sort_keys=False))
    if there is None or there.get("data") is None:  # validation may be another in a test of its own
        of_train = here._replace(data={"train": here.data["train"]}) if trained and here.data else here
        purpose.keep(directory, of_train)
    return Opened(directory, command, checkpoints, saved, source)


def command_of(run: Run, directory: Path, saved: dict[str, Any] | None) -> str:
    """The command that began the run, or that made it longer; `saved` is what the host knew at the newest save."""
    before = earlier.asked_for(directory)
    command: str = without_key(run.command or shlex.join(["metarun", *sys.argv[1:]]))
    if saved is not None:  # an earlier version kept it there alone
        command = saved.get("command", command)
    if before is None:
        return command
    with suppress(OSError, ValueError, KeyError, TypeError):
        command = str(json.loads((directory / COMMAND).read_text())["command"])
    return command if before[0] == run.train.steps else earlier.made_longer(command, run.train.steps)


def first_or_saved(run: Run, mesh: Mesh, data: PyTree, opened: Opened) -> tuple[State, dict[str, Any]]:
    """The newest saved state; with none the first one, or the one that another run left (`train.init_from`).

    And what the host knows of it.
    """
    state = engine.first_state(run.shape, mesh, data, run.numbers, run.train.seed)
    host: dict[str, Any] = {
        "best": None,
        "seconds": 0.0,
        "unvalidated": False,  # whether the validation due at this meta-step was cut short
        "logged": None,  # the meta-step of the newest row of training
        "steps_per_s": None,  # how fast meta-steps were, in the process that made the last ones
        "gflop_per_meta_step": None,  # of matrix products, in the process that made the last ones
        "stretches": [],  # which meta-steps were made where: see provenance.gone_on
    }
    if opened.source is not None:
        log.info(f"from {run.train.init_from}: {opened.source.in_words}")
        state = engine.placed(state._replace(params=opened.source.over(state.params)), mesh)
    if opened.saved is not None:
        saved = opened.saved
        state, host = engine.placed(saved[0], mesh), host | saved[1]
        log.info(f"going on from meta-step {int(state.step)} of {run.info.dir}")
    host["command"] = opened.command
    if engine.hosts.are_several():
        state, host = engine.placed(engine.hosts.of_process_0(state), mesh), engine.hosts.agreed(host)
    if host["logged"] is None:  # of an earlier version
        host["logged"] = int(state.step) - int(state.summed)
    if int(state.step) < run.train.steps:
        host["stretches"] = gone_on(host["stretches"], int(state.step), mesh, run.hardware.precision)
        if told := of_two_precisions(host["stretches"]):
            log.warning(told)
    return state, host


def saved_in_words(run: Run, directory: Path, newest: int | None) -> str:
    """The newest meta-step that is saved, and the command that goes on from there."""
    saved = "nothing is saved" if newest is None else f"saved is meta-step {newest} of {run.train.steps}"
    return f"{saved}; go on with: {going_on(directory)}"
