"""What a finished run states of itself: results.json, and the lines at the end of a run."""

import datetime
import importlib.metadata
import platform
import resource
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.table import Table
from rich.text import Text

import metarun
from metarun.config.run import Run, laid_over
from metarun.run.figures import main_metric, papers, show, source
from metarun.run.log import console
from metarun.run.loop import Loop
from metarun.run.meta_test import Tested
from metarun.run.next_command import next_command
from metarun.text import printable

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "hydra-core", "numpy")


def summary(loop: Loop, tested: Tested, used: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json; `used` says which state was tested."""
    run, clock, state = loop.run, loop.clock, loop.state
    split = run.eval.split
    steps_per_s = clock.mean_rate() or loop.host["steps_per_s"]  # a run that is only tested again was as fast as it was
    device = loop.mesh.devices.flat[0]
    memory = device.memory_stats() or {}
    return {
        split: tested.evaluation.figures,
        f"{split}_by_inner_steps": tested.figures_by_inner_steps,
        f"{split}_by_shots": tested.figures_by_shots,
        "tests": {name: found | on_domain(loop, name) for name, found in tested.figures_by_domain.items()},
        "state": used,
        "paper": run.config["paper"],
        "protocol": {
            "split": split,
            "metric": run.tasks.metric,
            "episodes": run.eval.episodes,
            "seed": run.eval.seed,
            "task": evaluated_on(run),
            "learner": {**run.config["learner"], **run.eval.learner},
            "interval": "ci95: 1.96 standard errors of the mean over tasks",
            "transductive": getattr(run.model, "transductive", False),
            "classes": {
                "train": run.tasks.digest("train"),
                "val": run.eval_tasks.digest("val"),
                "test": run.eval_tasks.digest("test"),
            },
            "separation": loop.separation,
        },
        "training": {
            "name": run.info.name,
            "tags": list(run.info.tags),
            "seed": run.train.seed,
            "steps": run.train.steps,
            "meta_batch": run.train.meta_batch,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "skipped_meta_steps": int(state.skipped),
            "command": loop.host["command"],
        },
        "speed": {
            "minutes": round(loop.seconds() / 60, 3),
            "meta_steps_per_s": steps_per_s,
            "tasks_per_s": steps_per_s and steps_per_s * run.train.meta_batch,
            "startup_s": clock.startup_s,
            "compile_s": clock.compile_s,
        },
        "memory": {
            "host_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "device_peak_mb": memory.get("peak_bytes_in_use", 0) / 2**20 or None,
        },
        "machine": {
            "platform": device.platform,
            "device": device.device_kind,
            "devices": loop.mesh.size,
            "task_chunk": loop.task_chunk,
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


def evaluated_on(run: Run) -> dict[str, Any]:
    """The settings of the test's tasks: of images as they are, however training's are changed."""
    settings = laid_over(run.config["task"], run.eval.task)
    return settings | ({"augment": None} if "augment" in settings else {})


def on_domain(loop: Loop, name: str) -> dict[str, Any]:
    """What a domain's figures are of."""
    run = loop.run
    return {
        "task": run.config["eval"]["tasks"][name],
        "classes": run.domains[name].digest(run.eval.split),
        "separation": loop.domains[name].separation,
    }


def counted(number: str, what: str) -> str:
    """`1 shot`, `5 shots`"""
    return f"{number} {what}{'' if number == '1' else 's'}"


def tell(found: dict[str, Any], directory: Path) -> None:
    """The end of a run on the terminal: its figures beside the paper's, where its files are, what to try next."""
    split, training = found["protocol"]["split"], found["training"]
    paper = found.get("paper") or {}
    table = Table(box=box.SIMPLE_HEAD, show_header=bool(paper), pad_edge=False)
    table.add_column("")
    table.add_column("this run")
    if paper:
        table.add_column("paper")

    def row(name: str, value: str, theirs: str = "", style: str = "") -> None:
        table.add_row(name, Text(value, style=style), *([theirs] if paper else []))

    main = main_metric(found)
    for name, figure in found[split].items():
        if "loss" not in name:
            row(f"{split} {name.replace('_', ' ')}", show(name, figure), papers(found, name), "bold")
    for steps, figures in found[f"{split}_by_inner_steps"].items():
        name = f"  after {counted(steps, 'inner step')}"
        row(name, show(main, figures[main]), papers(found, f"{main}_after_{steps}"))
    for shots, other in found.get(f"{split}_by_shots", {}).items():
        row(f"  with {counted(shots, 'shot')}", show(main, other["figures"][main]))
    for name, test in found.get("tests", {}).items():
        row(f"on {name}", show(main, test["figures"][main]), style="bold")
        for shots, other in test["by_shots"].items():
            row(f"  with {counted(shots, 'shot')}", show(main, other["figures"][main]))
    table.add_section()
    row("held-out tasks", f"{found['protocol']['episodes']:,}, for 95 % intervals")
    row("state", f"{found['state']['state']}, of meta-step {found['state']['step']:,}")
    row("meta-steps", f"{training['steps']:,}, {training['meta_batch']} tasks each")
    row("minutes", f"{found['speed']['minutes']:.1f}")
    console.print(table)

    lines = {"paper": source(paper)} if paper else {}
    lines |= {  # below the table, so that a long path is not broken and can be copied
        "files": str(directory),
        "look at it": f"metarun report {shlex.quote(str(directory))}",
        "try next": next_command(found, directory),
    }
    for name, line in lines.items():
        console.print(printable(f"{name:<12}{line}"), markup=False, soft_wrap=True)


def commit() -> dict[str, Any] | None:
    """metarun's own commit and whether its files were changed since; None outside a checkout."""
    root = Path(metarun.__file__).parent.parent

    def git(*words: str) -> str:
        # Without optional locks, which would make a `git commit` fail that the user gives at the same moment.
        command = ["git", "--no-optional-locks", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root.resolve():
            return None
        return {"id": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
