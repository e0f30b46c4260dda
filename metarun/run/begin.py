"""The begin of a run's process: data, devices, the state to go on from, and the files it will write."""

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jax.sharding import Mesh

from metarun import engine
from metarun.config.run import Run
from metarun.core import ConfigError, Key, PyTree, State, Tasks, Tracked, Tracker
from metarun.files import write_atomically
from metarun.run import domains, earlier, purpose, separation
from metarun.run.announce import announce
from metarun.run.checkpoint import Checkpoints
from metarun.run.clock import Clock
from metarun.run.domains import Domain
from metarun.run.log import MetricsFile, open_log
from metarun.run.loggers import Trackers, without_key
from metarun.run.no_checkpoints import NoCheckpoints
from metarun.run.provenance import gone_on
from metarun.run.status import Status
from metarun.run.stop import Stop
from metarun.run.transfer import no_run, start_from
from metarun.run.watch import Watch

log = logging.getLogger("metarun")


class Begun(NamedTuple):
    """All that is there before this process makes its first meta-step."""

    directory: Path
    mesh: Mesh
    data: dict[str, PyTree]  # to train on ("train"), to select by ("val"), to test on ("eval"): as `engine.held`
    parts: engine.Source  # of the first of them, for the meta-steps
    separation: dict[str, Any] | None  # see separation.check
    domains: dict[str, Domain]  # others to test on
    k_train: Key
    k_eval: dict[str, Key]  # of "val" and of "eval"
    checkpoints: Checkpoints | NoCheckpoints
    state: State
    host: dict[str, Any]  # what is saved beside the state
    task_chunk: int
    eval_chunk: int
    metrics_file: MetricsFile
    tracker: Tracker


class Shared(NamedTuple):
    """What is of no one run, but of all that share their programs."""

    mesh: Mesh
    data: dict[str, PyTree]  # as in Begun
    separation: dict[str, Any] | None
    domains: dict[str, Domain]
    eval_chunk: int


class Opened(NamedTuple):
    """A run's directory, in which its configuration stands."""

    directory: Path
    longer: bool  # the run has become longer
    checkpoints: Checkpoints | NoCheckpoints


def begin(run: Run, stop: Stop, watch: Watch, status: Status, clock: Clock) -> Begun:
    """Loads and checks, and places the run's newest state, or its first one, on the devices.

    Raises ConfigError and DataError, before there is anything of the run but for checkpoints that are damaged.
    """
    directory = Path(run.info.dir)
    must_have_a_source(run, directory)
    status.at("loading the data")
    loaded = load(run)
    mesh = run.hardware.set_up(run.train.meta_batch)
    stop.how_to_go_on = f"metarun run.dir={directory}"
    open_log(directory)
    status.opened()
    opened = open_directory(run, loaded[0]["train"], loaded[1])
    watch.saved = lambda: saved_in_words(run, directory, opened.checkpoints)

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
    announce(run, mesh, begun.task_chunk, begun.state.params, separations(shared))
    return begun


def place(run: Run, loaded: tuple[dict[str, PyTree], dict[str, Any] | None, dict[str, Domain]], mesh: Mesh) -> Shared:
    """What `load` has found, on the devices."""
    data, separate, others = loaded
    size, platform = engine.episode_size(run.eval_tasks, data["eval"]), mesh.devices.flat[0].platform
    held = engine.held(run.hardware.data, with_tasks(run, data), mesh)
    engine.must_be_whole(run.shape.selection, held["train"], run.hardware.data)
    if run.private.users is not None and engine.is_on_host(held["train"]):
        allowed = "leaves data of this size on the host, and train.private.users needs them on the device: device"
        raise ConfigError("hardware.data", run.hardware.data, allowed)
    return Shared(
        mesh=mesh,
        data=held,
        separation=separate,
        domains=others,
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
    state, host = first_or_saved(run, shared.mesh, shared.data["train"], opened.checkpoints, opened.longer)
    k_train = engine.stream(run.train.seed, engine.TRAIN)
    k_eval = {"val": engine.stream(run.eval.seed, engine.VAL), "eval": engine.stream(run.eval.seed, engine.EVAL)}
    of_steps = (engine.of_meta_step, k_train, run.train.meta_batch, run.train.steps)
    parts = engine.in_parts(run.tasks, shared.data["train"], *of_steps)
    chunk = task_chunk(state, parts, k_train)
    unfinished = "val" if host["unvalidated"] else None
    status.at("opening the logger")
    return Begun(
        directory=opened.directory,
        mesh=shared.mesh,
        data=shared.data,
        parts=parts,
        separation=shared.separation,
        domains=shared.domains,
        k_train=k_train,
        k_eval=k_eval,
        checkpoints=opened.checkpoints,
        state=state,
        host=host,
        task_chunk=chunk,
        eval_chunk=shared.eval_chunk,
        metrics_file=MetricsFile(opened.directory / "metrics.jsonl", int(state.step), unfinished),
        tracker=Trackers(run.loggers, tracked(run, host["command"], int(state.step))),
    )


def separations(shared: Shared) -> list[dict[str, Any] | None]:
    """How the splits are separate, and other domains from training."""
    return [shared.separation, *(domain.separation for domain in shared.domains.values())]


def tracked(run: Run, command: str, step: int) -> Tracked:
    """What the run's trackers are told of it, which has so many meta-steps behind it."""
    directory, name, tags = Path(run.info.dir), run.info.name, run.info.tags
    return Tracked(directory, run.config, name, tags, run.tasks.metric, command, step)


def must_have_a_source(run: Run, directory: Path) -> None:
    """Raises ConfigError if the run is to begin from another that is not there, before there is anything of it."""
    source = run.train.init_from
    begun = (directory / "checkpoints").exists()
    if source is not None and not begun and not (Path(source) / "checkpoints").is_dir():
        raise no_run(Path(source))


def load(run: Run) -> tuple[dict[str, PyTree], dict[str, Any] | None, dict[str, Domain]]:
    """The data to train on ("train"), to select by ("val") and to test on ("eval"), and how they are separate.

    And of other domains to test on.

    Raises DataError, and ConfigError for a model that does not fit the data.
    """
    data = {"train": run.tasks.load("train"), "val": run.eval_tasks.load("val"), "test": run.eval_tasks.load("test")}
    separate = separation.check({"train": run.tasks, "val": run.eval_tasks, "test": run.eval_tasks}, data)
    shapes = engine.check_shapes(run.learner, engine.nets(run.shape)[0], run.tasks, data["train"])
    domains.must_be_taken(run, domains.OWN, data["train"], data[run.eval.split], shapes)
    others = domains.load(run, data, shapes)
    found = {"train": data["train"], "val": data["val"], "eval": data[run.eval.split]}
    elsewhere = {name: (run.domains[name], domain.data) for name, domain in others.items()}
    engine.must_have_examples(run.hardware.data, with_tasks(run, found) | elsewhere)
    return found, separate, others


def with_tasks(run: Run, data: dict[str, PyTree]) -> dict[str, tuple[Tasks, PyTree]]:
    """Each split's data with the tasks that are drawn from them."""
    return {split: (run.tasks if split == "train" else run.eval_tasks, data[split]) for split in data}


def open_directory(run: Run, train: PyTree, separate: dict[str, Any] | None) -> Opened:
    """The configuration that runs it again, and what it is for; results of another test, or of fewer steps, step aside.

    `train` is the data to train on, `separate` what `load` found of the splits. Raises DataError if a run that has
    begun would go on with other data.
    """
    directory = Path(run.info.dir)
    before = earlier.asked_for(directory)
    longer = before is not None and before[0] != run.train.steps
    finished = (directory / earlier.FILES[0]).exists() and not longer
    has_begun = any((directory / "checkpoints" / "last").glob("*"))
    here = purpose.here(run.tasks, train, separate, run.eval_tasks)
    there = purpose.told(directory) if has_begun else None
    changed = (purpose.must_be_learned_from if finished else purpose.must_be_as_before)(there, here)
    if changed:
        log.info(changed)
    earlier.set_aside(directory, run.config)
    write_atomically(directory / "config.yaml", yaml.safe_dump(run.config, sort_keys=False))
    if there is None or there.get("data") is None:  # validation may be another in a test of its own
        of_train = here._replace(data={"train": here.data["train"]}) if finished and here.data else here
        purpose.keep(directory, of_train)
    checkpoints = Checkpoints(directory / "checkpoints") if engine.hosts.is_first() else NoCheckpoints()
    return Opened(directory, longer, checkpoints)


def first_or_saved(
    run: Run, mesh: Mesh, data: PyTree, checkpoints: Checkpoints | NoCheckpoints, longer: bool
) -> tuple[State, dict[str, Any]]:
    """The newest saved state; with none the first one, or the one that another run left (`train.init_from`).

    And what the host knows of it.
    """
    state = engine.first_state(run.shape, mesh, data, run.numbers, run.train.seed)
    host: dict[str, Any] = {
        "best": None,
        "seconds": 0.0,
        "command": without_key(run.command or shlex.join(["metarun", *sys.argv[1:]])),
        "steps": None,  # the meta-steps that the command asks for
        "unvalidated": False,  # whether the validation due at this meta-step was cut short
        "logged": None,  # the meta-step of the newest row of training
        "steps_per_s": None,  # how fast meta-steps were, in the process that made the last ones
        "gflop_per_meta_step": None,  # of matrix products, in the process that made the last ones
        "stretches": [],  # which meta-steps were made where: see provenance.gone_on
    }
    if engine.hosts.is_first() and run.train.init_from is not None and checkpoints.is_empty():
        source = start_from(run.learner, state.params, Path(run.train.init_from))
        log.info(f"from {run.train.init_from}: {source.in_words}")
        state = engine.placed(state._replace(params=source.params), mesh)
    if (saved := checkpoints.restore(state)) is not None:
        state, host = saved[0], host | saved[1]  # the command that began the run stands
        log.info(f"going on from meta-step {int(state.step)} of {run.info.dir}")
        if longer or host["steps"] not in (None, run.train.steps):  # or was made longer, and stopped before it saved
            host["command"] = earlier.made_longer(host["command"], run.train.steps)
    if engine.hosts.are_several():
        state, host = engine.placed(engine.hosts.of_process_0(state), mesh), engine.hosts.agreed(host)
    host["steps"] = run.train.steps
    if host["logged"] is None:  # of an earlier version
        host["logged"] = int(state.step) - int(state.summed)
    if int(state.step) < run.train.steps:
        host["stretches"] = gone_on(host["stretches"], int(state.step), mesh)
    return state, host


def saved_in_words(run: Run, directory: Path, checkpoints: Checkpoints | NoCheckpoints) -> str:
    """What is saved, and the command that goes on from there."""
    newest = checkpoints.on_disk()
    saved = "nothing is saved" if newest is None else f"saved is meta-step {newest} of {run.train.steps}"
    return f"{saved}; go on with: metarun run.dir={directory}"
