"""Figures of finished runs, read from their results.json: found by name, and put into words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

MOST_GROUPS = 12  # of which each is shown by itself
TAILS = {"worst": "tail", "cvar": "tail", "groups": "groups", "groups_worst": "groups", "groups_cvar": "groups"}


def figure_of(found: dict[str, Any], name: str) -> dict[str, float] | None:
    """The test's figure of a metric, or, for `<metric>_after_<n>`, of one after so many inner steps; None without.

    Of the main metric also `<metric>_worst` and `<metric>_cvar` of the tasks, and of the means of groups of tasks
    `<metric>_groups`, their mean, `<metric>_groups_worst` and `<metric>_groups_cvar`.
    """
    split, main = found["protocol"]["split"], main_metric(found)
    tail = name.removeprefix(f"{main}_")
    if tail != name and tail in TAILS:
        of = found.get(f"{split}_{TAILS[tail]}") or {}
        value = of.get(tail.removeprefix("groups_").replace("groups", "mean"))
        return {"mean": value} if of.get("metric") == main and value is not None else None
    if name in found[split]:
        return found[split][name]
    metric, _, steps = name.rpartition("_after_")
    return found.get(f"{split}_by_inner_steps", {}).get(steps, {}).get(metric)


def commit_in_words(commit: dict[str, Any] | None) -> str:
    """`86c15dd9`, `86c15dd9 and changes`, or `no commit`."""
    return f"{commit['id'][:8]}{' and changes' if commit['changed'] else ''}" if commit else "no commit"


def unit(name: str) -> tuple[int, str]:
    """What a metric's figure is multiplied by to be shown, and its unit: accuracies are percentages."""
    return (100, " %") if name.startswith("accuracy") else (1, "")


def show(name: str, figure: Mapping[str, float | None]) -> str:
    """`93.42 ± 0.61 %` for an accuracy, `0.3512 ± 0.0131` for a loss: the mean with its 95% interval, if it has one."""
    mean, ci95 = figure["mean"], figure.get("ci95")
    if mean is None:  # what is no number is null in results.json
        return "not a number"
    scale, percent = unit(name)
    digits = 2 if percent else 4
    return f"{scale * mean:.{digits}f}{'' if ci95 is None else f' ± {scale * ci95:.{digits}f}'}{percent}"


def minutes(taken: float, members: int) -> str:
    """`9.0`, or `9.0 for 3 together`: of runs that were made in one program each has all of its time."""
    return f"{taken:.1f}" + (f" for {members} together" if members > 1 else "")


def share(tail: Mapping[str, Any]) -> str:
    """How large the part of the worst is that a tail mean is of: `30 %`"""
    return f"{100 * (1 - tail['level']):.3g} %"


def papers(found: dict[str, Any], name: str) -> str:
    """The figure that the paper has where the run's preset has `name`; nothing if there is none."""
    figures = (found.get("paper") or {}).get("figures", {})
    if name not in figures:
        return ""
    mean, ci95 = figures[name]
    scale, percent = unit(name)
    return f"{scale * mean:.4g}{f' ± {scale * ci95:.4g}' if ci95 else ''}{percent}"


def source(paper: dict[str, Any]) -> str:
    """Where a preset's paper has its figures, and who quotes them."""
    return f"{paper['source']}, as quoted by {paper['quoted_by']}" if paper.get("quoted_by") else paper["source"]


def main_metric(found: dict[str, Any]) -> str:
    """What sums a test up: the task's metric, which older runs do not name: an accuracy, else a squared error."""
    return found["protocol"].get("metric", "accuracy" if "accuracy" in found[found["protocol"]["split"]] else "mse")


def in_short(protocol: Mapping[str, Any]) -> str:
    """What a test's figures are of: `600 test tasks of 5-way 1-shot, 15 queries a class, seed 0`."""
    of = episodes_in_short(protocol)
    return f"{protocol['episodes']:,} {protocol['split']} tasks{f' of {of}' if of else ''}, seed {protocol['seed']}"


def episodes_in_short(protocol: Mapping[str, Any]) -> str:
    """`5-way 1-shot, 15 queries a class, 1 inner step`, or what of this the task and the learner have."""
    task, steps = protocol["task"], protocol["learner"].get("inner_steps")
    ways, shots, queries = (task.get(name) for name in ("ways", "shots", "queries"))
    if protocol.get("metric", "accuracy") != "accuracy":  # a table's, say, which has a key for both
        ways = None
    words = []
    if ways is not None:
        words.append(f"{ways}-way {shots}-shot")
    elif shots is not None:
        words.append(f"{shots} shots")
    if queries is not None:
        words.append(f"{queries} quer{'y' if queries == 1 else 'ies'}{'' if ways is None else ' a class'}")
    if steps is not None:
        words.append(f"{steps} inner step{'' if steps == 1 else 's'}")
    return ", ".join(words)


def is_right(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """outputs (..., n_out), labels y (...) -> (...): as losses.cross_entropy, what is no number is wrong."""
    return (outputs.argmax(-1) == y) & ~np.isnan(outputs).any(-1)


def squared_errors(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of every target. In double precision: the square of a float32 may be none."""
    return (outputs.astype(float) - y) ** 2


def in_four_digits(value: float) -> str:
    """`0.3512`, `2.5e+60`, or `not a number`."""
    return f"{value:.4g}" if np.isfinite(value) else "not a number"


def by_success(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The place of each episode among all, 0 for the best: by the queries that are right, or by the squared error.

    outputs (tasks, queries, n_out), y labels (tasks, queries) or targets (tasks, queries, n_out) -> (tasks,). Of equal
    ones the first is better; what is not a number is the worst.
    """
    tasks = len(y)
    if y.dtype.kind == "f":
        errors = squared_errors(outputs, y).reshape(tasks, -1).mean(1)
    else:
        errors = (~is_right(outputs, y)).mean(1)
    return ranked(errors)


def ranked(errors: np.ndarray) -> np.ndarray:
    """errors (tasks,) -> the place of each, 0 for the smallest, and of equal ones for the first."""
    ranks = np.empty(len(errors), int)
    ranks[np.argsort(errors, kind="stable")] = np.arange(len(errors))
    return ranks
