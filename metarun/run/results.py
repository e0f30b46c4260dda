"""What a finished run states of itself: results.json, and the lines at the end of a run."""

import resource
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from metarun import engine
from metarun.config import laid_over
from metarun.config.run import Run
from metarun.run.domains import Domain
from metarun.run.figures import MOST_GROUPS, figure_of, main_metric, papers, share, show, source
from metarun.run.log import finite
from metarun.run.loop import Loop
from metarun.run.meta_test import Tested
from metarun.run.next_command import next_command
from metarun.run.privacy import in_words, spent
from metarun.run.provenance import made_with
from metarun.run.tails import of_groups, of_tasks
from metarun.run.terminal import console, say
from metarun.run.trials import by_step
from metarun.text import no_option, printable


def summary(loop: Loop, tested: Tested, used: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json, with null for what is no number; `used` says which state was tested."""
    run, clock, state = loop.run, loop.clock, loop.state
    steps_per_s = clock.mean_rate() or loop.host["steps_per_s"]  # a run that is only tested again was as fast as it was
    memory = loop.mesh.local_devices[0].memory_stats() or {}
    found = {
        **figures_of(run, tested, loop.domains),
        "state": used,
        "paper": run.config["paper"],
        "protocol": protocol(run, ("train", "val", "test"), loop.separation),
        "training": {
            "name": run.info.name,
            "tags": list(run.info.tags),
            "seed": run.train.seed,
            "steps": run.train.steps,
            "meta_batch": run.train.meta_batch,
            "parameters": engine.size_of(run.learner, state.params),
            "skipped_meta_steps": int(state.skipped),
            "command": loop.host["command"],
            "stretches": loop.host["stretches"],
        },
        "privacy": spent(run, loop.data["train"], run.train.steps),
        "speed": {
            "minutes": round(loop.seconds() / 60, 3),
            "meta_steps_per_s": steps_per_s,
            "tasks_per_s": steps_per_s and steps_per_s * run.train.meta_batch,
            "gflop_per_meta_step": (gflop := loop.host["gflop_per_meta_step"]),
            "tflop": gflop and gflop * run.train.steps / 1000,  # of matrix products, in training
            "startup_s": clock.startup_s,
            "compile_s": clock.compile_s,
        },
        "memory": {
            "host_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "device_peak_mb": memory.get("peak_bytes_in_use", 0) / 2**20 or None,
        },
        **made_with(run, loop.mesh, loop.task_chunk),
    }
    return finite(found)


def figures_of(run: Run, tested: Tested, domains: Mapping[str, Domain]) -> dict[str, Any]:
    """A test's figures; of those on other domains also what they are of."""
    split = run.eval.split
    on = {
        name: {
            "task": run.config["eval"]["tasks"][name],
            "classes": run.domains[name].digest(split),
            "separation": domains[name].separation,
        }
        for name in tested.by_domain
    }
    return {
        split: tested.evaluation.figures,
        f"{split}_by_inner_steps": tested.figures_by_inner_steps,
        f"{split}_by_shots": tested.figures_by_shots,
        f"{split}_tail": of_tasks(run, tested.evaluation),
        f"{split}_groups": of_groups(run, tested.evaluation),
        f"{split}_by_step": by_step(run, tested.evaluation),
        "tests": {name: found | on[name] for name, found in tested.figures_by_domain.items()},
    }


def protocol(run: Run, splits: Iterable[str], separation: dict[str, Any] | None) -> dict[str, Any]:
    """What a test's figures are of; and which classes, or functions, there are in each of the `splits`."""
    tasks = {"train": run.tasks, "val": run.eval_tasks, "test": run.eval_tasks}
    return {
        "split": run.eval.split,
        "metric": run.tasks.metric,
        "episodes": run.eval.episodes,
        "seed": run.eval.seed,
        "task": evaluated_on(run),
        "learner": laid_over(run.config["learner"], run.eval.learner),
        "interval": "ci95: 1.96 standard errors of the mean over tasks",
        "transductive": engine.is_transductive(run.model),
        "classes": {split: tasks[split].digest(split) for split in splits},
        "separation": separation,
    }


def evaluated_on(run: Run) -> dict[str, Any]:
    """The settings of the test's tasks: of images as they are, however training's are changed."""
    settings = laid_over(run.config["task"], run.eval.task)
    return settings | ({"augment": None} if "augment" in settings else {})


def counted(number: str, what: str) -> str:
    """`1 shot`, `5 shots`"""
    return f"{number} {what}{'' if number == '1' else 's'}"


Row = tuple[str, str, str, str]  # a name, its value, the paper's, a style


def tell(found: dict[str, Any], directory: Path) -> None:
    """The end of a run on the terminal."""
    table, lines = told_of(found, directory)
    console.print(table)
    for name, line in lines.items():
        say(f"{name:<12}{line}")


def told_of(found: dict[str, Any], directory: Path) -> tuple[Table, dict[str, str]]:
    """A run's figures beside the paper's, and what stands below. Raises over a damaged part."""
    training, paper = found["training"], found.get("paper") or {}
    told = {
        "held-out tasks": f"{found['protocol']['episodes']:,}, for 95 % intervals",
        "state": state_in_words(found["state"]),
        "meta-steps": f"{training['steps']:,}, {training['meta_batch']} tasks each",
        "minutes": f"{found['speed']['minutes']:.1f}",
    }
    if found.get("privacy"):
        told["privacy"] = in_words(found["privacy"])
    lines = {"paper": source(paper)} if paper else {}
    lines |= {  # below the table, so that a long path is not broken and can be copied
        "files": str(directory),
        "look at it": f"metarun report {shlex.quote(no_option(directory))}",
        "try next": next_command(found, directory),
    }
    return table_of(figure_rows(found), told, "paper" if paper else ""), lines


def table_of(figures: Iterable[Row], told: Mapping[str, str], beside: str = "") -> Table:
    """A test's figures, with a column of what stands `beside` them if that is named; below, what else is `told`."""
    table = Table(box=box.SIMPLE_HEAD, show_header=bool(beside), pad_edge=False)
    for column in ("", "this run", *([beside] if beside else [])):
        table.add_column(column, overflow="fold")
    for name, value, theirs, style in figures:
        table.add_row(cell(name), cell(value, style), *([cell(theirs)] if beside else []))
    table.add_section()
    for name, value in told.items():
        table.add_row(cell(name), cell(value))
    return table


def cell(text: str, style: str = "") -> Text:
    """Names that people gave, as they are: nothing of them is markup."""
    return Text(printable(text), style)


def figure_rows(found: dict[str, Any]) -> list[Row]:
    """All figures of a test: the metrics, then the main one by inner steps, by shots and by domain."""
    split, main = found["protocol"]["split"], main_metric(found)
    rows = [
        (f"{split} {name.replace('_', ' ')}", show(name, figure), papers(found, name), "bold")
        for name, figure in found[split].items()
        if name in (main, f"{main}_inductive") or "loss" not in name
    ]

    def other(name: str, figures: dict[str, Any], theirs: str = "", style: str = "") -> None:
        rows.append((name, show(main, figures[main]), theirs, style))

    rows += tail_rows(found)
    for steps, figures in found[f"{split}_by_inner_steps"].items():
        other(f"  after {counted(steps, 'inner step')}", figures, papers(found, f"{main}_after_{steps}"))
    for shots, by_shots in found.get(f"{split}_by_shots", {}).items():
        other(f"  with {counted(shots, 'shot')}", by_shots["figures"])
    for name, test in found.get("tests", {}).items():
        other(f"on {name}", test["figures"], style="bold")
        for shots, by_shots in test["by_shots"].items():
            other(f"  with {counted(shots, 'shot')}", by_shots["figures"])
    return rows


def tail_rows(found: dict[str, Any]) -> list[Row]:
    """The worst tasks of a test, and its groups of tasks; many of them by their mean, the worst, and the worst ones."""
    split, main = found["protocol"]["split"], main_metric(found)
    tail, groups = found.get(f"{split}_tail"), found.get(f"{split}_groups")
    rows: list[Row] = []

    def add(name: str, figure: str) -> None:
        rows.append((f"  {name}", show(main, figure_of(found, figure) or {"mean": None}), papers(found, figure), ""))

    if tail:
        add("worst task", f"{main}_worst")
        add(f"worst {share(tail)} of tasks", f"{main}_cvar")
    if groups and len(groups["each"]) <= MOST_GROUPS:
        rows += [(f"  of {name}", show(main, figure), "", "") for name, figure in groups["each"].items()]
    elif groups:
        add(f"mean of {len(groups['each'])} groups", f"{main}_groups")
        add(f"worst group, {groups['worst_group']}", f"{main}_groups_worst")
        add(f"worst {share(groups)} of groups", f"{main}_groups_cvar")
    return rows


def state_in_words(state: dict[str, Any]) -> str:
    """`best, of meta-step 2,000`"""
    return f"{state['state']}, of meta-step {state['step']:,}"
