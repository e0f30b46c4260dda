"""What a run is called where many are listed: what differs from the others, its seed, and the sweep that it is of."""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from metarun.core import InSweep, Tracked
from metarun.files import read_yaml, write_atomically

MOST = 120  # W&B shows 128 characters
# Where a run's files go and what it runs on tell it from no other; task and learner are in its name.
NO_DIFFERENCE = ("run.", "logger", "hardware", "data_dir", "task=", "learner=", "train.seed=")


class Display(NamedTuple):
    """A run's name in a list, and its group there."""

    name: str
    group: str | None


def kept(file: Path, of: Tracked, begun: bool) -> Display:
    """What the run is called from its first process on, which is kept in `file`; `run.name` as the user types it wins.

    A run that was `begun` by a version that kept nothing is called as it was.
    """
    before = None
    with suppress(OSError, ValueError, TypeError):
        before = Display(*json.loads(file.read_text()))
    group = before.group if before else of.sweep and of.sweep.directory[-MOST:]
    if any(setting.startswith("run.name=") for setting in of.settings):
        now = Display(of.name, group)
    elif before:
        return before
    elif begun:
        now = Display(of.name, None)
    else:
        differing = [setting for setting in of.settings if of.sweep is None or setting not in of.sweep.common]
        now = Display(in_a_list(of.name, differing, of.config["train"]["seed"]), group)
    write_atomically(file, json.dumps(now) + "\n")
    return now


def in_a_list(name: str, differing: list[str], seed: int) -> str:
    """`omniglot-maml learner.inner_lr=0.1 train.seed=3`"""
    words = " ".join([name, *(word for word in differing if not word.startswith(NO_DIFFERENCE))])
    seed_too = f" train.seed={seed}"
    most = MOST - len(seed_too)
    return f"{words if len(words) <= most else f'{words[: most - 3]}...'}{seed_too}"


def of_this_job() -> tuple[tuple[str, ...], InSweep | None]:
    """The overrides of the command that Hydra runs at present, none where it runs none; and its sweep."""
    if not HydraConfig.initialized():
        return (), None
    hydra = HydraConfig.get()
    overrides = tuple(override.lstrip("+~") for override in hydra.overrides.task)
    # A job that a launcher has begun in a process of its own is a run by itself, below the directory of its sweep.
    of_all = Path(hydra.sweep.dir if hydra.mode is RunMode.MULTIRUN else Path(hydra.run.dir).parent)
    common: tuple[str, ...] | None = None
    with suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        said = read_yaml(of_all / "multirun.yaml")
        common = tuple(override.lstrip("+~") for override in said["hydra"]["overrides"]["task"])
    if hydra.mode is not RunMode.MULTIRUN and common is None:
        return overrides, None
    return overrides, InSweep(str(of_all), common or ())
