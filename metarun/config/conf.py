"""The yaml files: where they are, what there is to choose, what a misspelt name may have meant.

Imported before the command is understood, so it imports nothing heavy.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

GROUPS = ("task", "learner", "model", "optimizer", "hardware", "logger", "experiment")

# What directories of earlier versions' runs name, and where it is now.
MOVED = {
    "metarun.hardware.Hardware": "metarun.engine.hardware.Hardware",
    "metarun.loggers.NoLogger": "metarun.run.loggers.NoLogger",
    "metarun.loggers.Wandb": "metarun.run.to_wandb.Wandb",
    "metarun.run.loggers.Wandb": "metarun.run.to_wandb.Wandb",
}

MOST = 30  # names told at once


def conf_dir() -> Path:
    """`metarun/conf` in an installed wheel, else the checkout's `conf`."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def allowed() -> list[str]:
    """What METARUN_ALLOW names: a user's own packages, modules or classes, whose code a configuration may call."""
    return [part for part in os.environ.get("METARUN_ALLOW", "").split(",") if part]


def choices(group: str) -> list[str]:
    """The names of a group's yaml files."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def describe(group: str, choice: str) -> str:
    """What a yaml file says of itself in its first comment (after Hydra's own `# @package`)."""
    for line in (conf_dir() / group / f"{choice}.yaml").read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:]
    return ""


def settings_of(group: str, choice: str) -> dict[str, Any]:
    """What a choice's yaml says of its own group, over what those say that it builds on. Hydra would take 70 ms."""
    from omegaconf import OmegaConf

    from metarun.files import read_yaml

    content = read_yaml(conf_dir() / group / f"{choice}.yaml")
    bases = [base for base in content.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    parts = [*(settings_of(group, base) for base in bases), content.get(group, content)]
    return OmegaConf.to_container(OmegaConf.merge(*parts))  # type: ignore[return-value]


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`did you mean ways?`, or all there is where nothing is near; of more than a line's worth, the first ones."""
    allowed = sorted(candidates)
    close = difflib.get_close_matches(name, allowed, n=1)
    some = [*allowed[:MOST], f"and {len(allowed) - MOST} more"] if len(allowed) > MOST else allowed
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(some) or 'none'}"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"train.steps": 3000, ...}."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def laid_over(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overrides`; a group within it keeps what is not overridden."""
    found = dict(base)
    for key, value in overrides.items():
        within = isinstance(value, Mapping) and isinstance(base.get(key), Mapping) and "_target_" not in value
        found[key] = laid_over(base[key], value) if within else value
    return found
