"""A sweep whose jobs are trained in one program: by `train.seeds` and `train.population`, without -m.

Its directory is a sweep's, with a run in it for each member: `metarun sweep DIR` tells how it stands, and
`metarun -m run.dir=DIR` would go on with its members one after another. together.json says that they began together.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metarun.config import population as config
from metarun.config.population import Member
from metarun.core import ConfigError
from metarun.files import write_atomically
from metarun.run import train_together
from metarun.run.stop import Stopping
from metarun.sweep import record, table
from metarun.sweep.place import options_of, settings_of_hydra
from metarun.sweep.record import Job, Sweep

RESULTS = "results.json"  # what all have come to together


def train(cfg: DictConfig, directory: Path, stopping: Stopping | None = None) -> tuple[Sweep, dict[int, str]]:
    """Trains and tests the members that are not finished; results.json has all of them together.

    Returns them, and why some failed now, by their numbers: one whose last state could not be saved has results all
    the same. Raises ConfigError and DataError before there is anything of them, and Interrupted.
    """
    members, sweep = planned(cfg, directory)
    before = {job.number: job.stand for job in sweep.jobs}

    def begun() -> None:
        if not record.are_together(directory):
            record.begin(sweep)
            write_atomically(directory / record.TOGETHER, json.dumps({"command": sys.argv[1:]}) + "\n")
        elif sweep != (there := record.read(directory)):
            for job in (one for one, before in zip(sweep.jobs, there.jobs, strict=True) if one != before):
                record.add(directory, job)
            record.revise(sweep)
        finished = {job.number for job in sweep.jobs if job.stand == "finished"}
        set_aside(directory, lambda there: all(finished.issuperset(setting["jobs"]) for setting in there))

    began = time.monotonic()
    runs = [member.run for member in config.of_one_sweep(members, directory)]
    failed = train_together.train(runs, directory, stopping, begun)
    left = [job for job in sweep.jobs if before[job.number] != "finished" or job.number in failed]
    share = round((time.monotonic() - began) / max(1, len(left)), 3)
    for job in left:
        why = {"failed": failed[job.number]} if job.number in failed else {}
        record.ended(directory, job, seconds=share, **why)
    sweep = record.read(directory)
    found = table.as_json(sweep)
    set_aside(directory, lambda there: json.dumps(there) == json.dumps(found["settings"]))
    write_atomically(directory / RESULTS, json.dumps(found, indent=2) + "\n")
    return sweep, failed


def set_aside(directory: Path, stands: Callable[[list[Any]], bool]) -> None:
    """Renames what all had come to together, unless its `settings` stand: members are to have other results, or have.

    What the members had come to stands aside in their own directories.
    """
    file = directory / RESULTS
    try:
        if stands(json.loads(file.read_text())["settings"]):
            return
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nobody can read it any more
    names = (file.with_name(f"{file.stem}-{n}{file.suffix}") for n in itertools.count(1))
    file.rename(next(name for name in names if not name.exists()))


def planned(cfg: DictConfig, directory: Path) -> tuple[list[Member], Sweep]:
    """The members, and the sweep that they are; one that has begun in the directory goes on. Raises ConfigError."""
    if record.are_together(directory):
        there = record.read(directory)
        if not config.is_asked_for(cfg):
            members = config.again(cfg, [(job.directory, job.settings) for job in there.jobs])
            return members, revised(there, members)
        members = config.members(cfg, directory)
        if len(members) != len(there.jobs):
            key = "train.seeds" if cfg.train.seeds is not None else "train.population"
            allowed = f"{directory} holds {len(there.jobs)} runs together, not {len(members)}; go on with them by "
            raise ConfigError(key, cfg.train[key[6:]], f"{allowed}{there.going_on}, or name a new directory")
        return members, there
    for file, what in ((record.COMMAND, "a sweep"), ("config.yaml", "a run")):
        if (directory / file).exists():
            raise ConfigError("run.dir", directory, f"holds {what}; for several runs in one program name another one")
    members = config.members(cfg, directory)
    jobs = tuple(Job(n, one.settings, Path(one.run.info.dir)) for n, one in enumerate(members))
    composed: Any = HydraConfig.instance().cfg
    options, beside = options_of(composed), record.beside_of(settings_of_hydra(composed))
    return members, Sweep(directory, options, axes([one.settings for one in members]), "grid", jobs, beside=beside)


def revised(sweep: Sweep, members: Sequence[Member]) -> Sweep:
    """The sweep with the settings that its members have by now."""
    jobs = tuple(job._replace(settings=one.settings) for job, one in zip(sweep.jobs, members, strict=True))
    return replace(sweep, settings=axes([one.settings for one in members]), jobs=jobs)


def axes(settings: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What `metarun -m` is given for these combinations: `[["a=1", "b=2"], ["a=1", "b=3"]]` -> `("a=1", "b=2,3")`"""
    found = []
    for each in zip(*settings, strict=True):
        key, equals, _ = each[0].partition("=")  # `~logger` has no value
        found.append(f"{key}{equals}{','.join(dict.fromkeys(one.partition('=')[2] for one in each))}")
    return tuple(found)
