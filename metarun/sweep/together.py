"""A sweep whose jobs are trained in one program: by `train.seeds` and `train.population`, without -m.

Its directory is a sweep's, with a run in it for each member: `metarun sweep DIR` tells how it stands, and
`metarun -m run.dir=DIR` would go on with its members one after another. together.json says that they began together.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metarun.config import population as config
from metarun.config.population import Member
from metarun.core import ConfigError
from metarun.files import write_atomically
from metarun.run import population
from metarun.run.stop import Stopping
from metarun.sweep import record, table
from metarun.sweep.grid import options_of
from metarun.sweep.record import Job, Sweep


def train(cfg: DictConfig, directory: Path, stopping: Stopping | None = None) -> Sweep:
    """Trains and tests the members that are not finished; results.json has all of them together.

    Raises ConfigError and DataError before there is anything of them, and Interrupted.
    """
    members, sweep = planned(cfg, directory)
    before = {job.number: job.stand for job in sweep.jobs}

    def begun() -> None:
        if not record.are_together(directory):
            record.begin(sweep)
            write_atomically(directory / record.TOGETHER, json.dumps({"command": sys.argv[1:]}) + "\n")

    began = time.monotonic()
    failed = population.train([member.run for member in members], directory, stopping, begun)
    left = [job for job in sweep.jobs if before[job.number] != "finished" or job.number in failed]
    share = round((time.monotonic() - began) / max(1, len(left)), 3)
    for job in left:
        why = {"failed": failed[job.number]} if job.number in failed else {}
        record.ended(directory, job, seconds=share, **why)
    sweep = record.read(directory)
    write_atomically(directory / "results.json", json.dumps(table.as_json(sweep), indent=2) + "\n")
    return sweep


def planned(cfg: DictConfig, directory: Path) -> tuple[list[Member], Sweep]:
    """The members, and the sweep that they are; one that has begun in the directory goes on. Raises ConfigError."""
    if record.are_together(directory):
        there = record.read(directory)
        if not config.is_asked_for(cfg):
            return config.again(cfg, [(job.directory, job.settings) for job in there.jobs]), there
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
    options = options_of(sys.argv[1:], composed)
    return members, Sweep(directory, options, axes([one.settings for one in members]), "grid", jobs)


def axes(settings: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What `metarun -m` is given for these combinations: `[["a=1", "b=2"], ["a=1", "b=3"]]` -> `("a=1", "b=2,3")`"""
    found = []
    for each in zip(*settings, strict=True):
        key = each[0].partition("=")[0]
        found.append(f"{key}={','.join(dict.fromkeys(one.partition('=')[2] for one in each))}")
    return tuple(found)
