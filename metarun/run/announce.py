"""What a run says of itself at its start."""

import logging
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from metarun import engine
from metarun.config.run import Run
from metarun.core import PyTree, Telling
from metarun.run.privacy import in_words, spent

log = logging.getLogger("metarun")


def announce(
    run: Run,
    mesh: Mesh,
    task_chunk: int,
    params: PyTree,
    separations: Sequence[dict[str, Any] | None],
    train: PyTree,
) -> None:
    """What the run is, in a line; what of its data is left out or doubled, and devices that it leaves idle, if any."""
    for line in of_its_data(run, separations):
        log.warning(line)
    if private := of_its_privacy(run, train):
        log.info(private)
    many = engine.hosts.count()
    log.info(
        f"{run.info.name}: {engine.size_of(run.learner, params):,} parameters, "
        f"{tasks_in_words(run)} a meta-step in chunks of {task_chunk} on {mesh.size} "
        f"{mesh.devices.flat[0].platform} device(s)" + (f" of {many} processes" if many > 1 else "")
    )
    found = len(jax.devices()) if run.hardware.devices == "auto" else run.hardware.devices * many
    chunk = 1 if run.hardware.task_chunk == "auto" else run.hardware.task_chunk
    if told := idle(run.train.meta_batch, mesh.size, found, chunk):
        log.warning(told)


def tasks_in_words(run: Run) -> str:
    """`32 tasks`, `the hardest 15 of 50 tasks`, `15 of 50 tasks, from the easiest to the hardest,`"""
    train, screening = run.train, run.train.screening
    if screening is None:
        return f"{train.meta_batch} tasks"
    of = f"{train.meta_batch} of {screening.candidates} tasks"
    return f"the hardest {of}" if train.selection == "hard" else f"{of}, from the easiest to the hardest,"


def of_its_data(run: Run, separations: Sequence[dict[str, Any] | None]) -> list[str]:
    """What of a run's data is left out or doubled, a line each."""
    every = (run.tasks, run.eval_tasks, *run.domains.values())
    lines = [line for tasks in every if isinstance(tasks, Telling) for line in tasks.told()]
    lines += [doubled(found) for found in separations if found and found["duplicate_examples_across_splits"]]
    return list(dict.fromkeys(lines))


def of_its_privacy(run: Run, train: PyTree) -> str | None:
    """What it will have told of a user; None where nothing is private. `train` is the data to train on."""
    told = spent(run, train, run.train.steps)
    return None if told is None else f"privacy after {run.train.steps:,} meta-steps: {in_words(told)}"


def doubled(separation: dict[str, Any]) -> str:
    """That examples stand in two splits, and some of them."""
    some = "; ".join(" = ".join(places) for places in separation["duplicates"][:3])
    return f"{separation['duplicate_examples_across_splits']} examples stand in two splits alike: {some}"


def idle(meta_batch: int, used: int, found: int, chunk: int) -> str | None:
    """That devices have nothing to do, and what would give it to them; None if all have. `chunk` tasks go together."""
    if used == found:
        return None
    below = meta_batch // (found * chunk) * found * chunk
    fit = " or ".join(str(n) for n in (below, below + found * chunk) if n)
    together = f" and hardware.task_chunk={chunk}" if chunk > 1 else ""
    return (
        f"{used} of {found} devices are used: train.meta_batch={meta_batch}{together} cannot be shared out among more; "
        f"{fit} would use all"
    )
