"""What a sweep's runs are of by now: some may have been made longer, or tested again in another way."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from metarun.config import flat, key_of
from metarun.files import read_yaml
from metarun.sweep.record import Job, Sweep

OF_THE_TEST = ("split", "state", "episodes", "seed", "task", "learner")  # of `eval`: the test's main figure is of them


def as_made(sweep: Sweep) -> Sweep:
    """The sweep with what its runs are of among their jobs' settings, where runs differ or their settings say else.

    So what is of another length, or of another test, is not gathered with the rest.
    """
    now = {job.number: made_with(job.directory) for job in sweep.jobs}

    def said(job: Job, key: str) -> str | None:
        return next((one for one in reversed(job.settings) if key_of(one) == key), None)

    def differ(key: str) -> bool:
        return len({now[job.number].get(key) for job in sweep.jobs if now[job.number] and not said(job, key)}) > 1

    apart = {key for key in {key for own in now.values() for key in own} if differ(key)}

    def is_otherwise(job: Job, key: str, value: str) -> bool:
        if (setting := said(job, key)) is None:
            return key in apart
        return "${" not in setting and setting.partition("=")[2] != value

    def settings(job: Job) -> tuple[str, ...]:
        other = {key: value for key, value in now[job.number].items() if is_otherwise(job, key, value)}
        kept = (one for one in job.settings if key_of(one) not in other)
        return (*kept, *(f"{key}={value}" for key, value in other.items()))

    return replace(sweep, jobs=tuple(job._replace(settings=settings(job)) for job in sweep.jobs))


def made_with(directory: Path) -> dict[str, str]:
    """How long a run is, and how it is tested: `{"train.steps": "60", "eval.seed": "0"}`; empty if it has not begun."""
    with suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        config = read_yaml(directory / "config.yaml")
        evaluation = {key: value for key, value in config.get("eval", {}).items() if key in OF_THE_TEST}
        found = flat({"train": {"steps": config["train"]["steps"]}, "eval": evaluation})
        return {key: as_text(value) for key, value in found.items() if not key.endswith("data_dir")}
    return {}


def as_text(value: Any) -> str:
    """As a setting has it: `best`, `0.1`, `null`."""
    return value if isinstance(value, str) else json.dumps(value)
