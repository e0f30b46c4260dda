"""By which machine and code something was made, and when; of a run, which of its meta-steps were made by which."""

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import metarun
from metarun import engine
from metarun.config.run import Run

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "hydra-core", "numpy")
# `first`, the meta-step before its first one; `device`, `devices`, `precision`, `jax`, `commit`
Stretch = dict[str, Any]


def made_with(run: Run, mesh: Mesh, task_chunk: int) -> dict[str, Any]:
    """By which machine and code figures were made, and when."""
    device = mesh.devices.flat[0]
    return {
        "machine": {
            "platform": device.platform,
            "device": device.device_kind,
            "devices": mesh.size,
            "processes": engine.hosts.count(),
            "task_chunk": task_chunk,
            "precision": run.hardware.precision,
            "deterministic": run.hardware.deterministic or device.platform == "cpu",
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {
            "metarun": metarun.__version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def gone_on(stretches: list[Stretch], step: int, mesh: Mesh, precision: str) -> list[Stretch]:
    """A run's stretches, where it goes on from meta-step `step` here; one more unless all is as in the last.

    Of a run that an earlier version of metarun began, the meta-steps before the first stretch are not told.
    """
    device = mesh.devices.flat[0].device_kind
    version = importlib.metadata.version("jax")
    here = {"device": device, "devices": mesh.size, "jax": version, "commit": commit(), "precision": precision}
    made = [stretch for stretch in stretches if stretch["first"] < step]  # one that was broken off has made none
    same = bool(made) and made[-1] == {"first": made[-1]["first"], **here}
    return made if same else [*made, {"first": step, **here}]


def of_two_precisions(stretches: list[Stretch]) -> str | None:
    """A line where the newest meta-steps are made in another precision than those before them."""
    if len(stretches) < 2 or None in (before := stretches[-2].get("precision"), now := stretches[-1].get("precision")):
        return None
    first = stretches[-1]["first"]
    return f"hardware.precision: {now} from meta-step {first:,} on, {before} before" if now != before else None


def commit() -> dict[str, Any] | None:
    """metarun's own commit and whether what runs, its code and yaml, was changed since; None outside a checkout."""
    root = Path(metarun.__file__).parent.parent

    def git(*words: str) -> str:
        # Without optional locks, which would make a `git commit` fail that the user gives at the same moment.
        command = ["git", "--no-optional-locks", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root.resolve():
            return None
        return {"id": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "metarun", "conf"))}
    except (OSError, subprocess.CalledProcessError):
        return None
