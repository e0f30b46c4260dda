"""How the worst tasks of a test fared beside the mean, and each group of tasks: from every task's own metric."""

from typing import Any

import numpy as np

from metarun.config.run import Run
from metarun.core import Grouped, rises
from metarun.engine import Evaluation, mean_and_interval


def of_tasks(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """Of the main metric: the worst task, and the mean of the worst ones, the share 1 - eval.tail of all."""
    metric, level = run.tasks.metric, run.eval.tail
    values = evaluation.answers.metrics[metric]
    return {"metric": metric, "level": level, "worst": worst(values, metric), "cvar": cvar(values, metric, level)}


def of_groups(run: Run, evaluation: Evaluation) -> dict[str, Any] | None:
    """How each group of tasks fared, and of the groups' means their mean, the worst, and the mean of the worst ones.

    None where tasks are in no groups. A group of which no task was drawn is left out.
    """
    tasks, split, metric, level = run.eval_tasks, run.eval.split, run.tasks.metric, run.eval.tail
    names = tasks.group_names(split) if isinstance(tasks, Grouped) else None
    numbers = evaluation.answers.groups
    if names is None or numbers is None:
        return None
    each = by_group(evaluation.answers.metrics[metric], np.asarray(numbers), names)
    means = np.array([figure["mean"] for figure in each.values()])
    which = list(each)[int((sign(metric) * means).argmax())]
    return {
        "metric": metric,
        "level": level,
        "measured": measured(run, evaluation, np.asarray(numbers), names),
        "mean": float(means.mean()),
        "worst": worst(means, metric),
        "worst_group": which,
        "cvar": cvar(means, metric, level),
        "each": each,
    }


def measured(run: Run, evaluation: Evaluation, numbers: np.ndarray, names: list[str]) -> dict[str, dict[str, float]]:
    """Of the other metrics, a learner's own among them: the mean in each group."""
    every = evaluation.answers.metrics
    others = {name: every[name] for name in every if name not in (run.tasks.metric, "loss")}
    return {
        names[number]: {name: float(values[numbers == number].mean()) for name, values in others.items()}
        for number in np.unique(numbers)
    }


def by_group(values: np.ndarray, groups: np.ndarray, names: list[str]) -> dict[str, dict[str, Any]]:
    """values (tasks,), groups (tasks,) -> by name: its tasks' mean, the 95% interval, how many tasks there were.

    Of one task there is no interval.
    """
    found: dict[str, dict[str, Any]] = {}
    for number in np.unique(groups):
        own = values[groups == number]
        alone = {"mean": float(own[0]), "ci95": None}
        found[names[number]] = (mean_and_interval(own) if len(own) > 1 else alone) | {"tasks": len(own)}
    return found


def sign(metric: str) -> float:
    """By which a metric's values are the larger the worse they are: of an accuracy more is better."""
    return -1.0 if rises(metric) else 1.0


def worst(values: np.ndarray, metric: str) -> float:
    return float(sign(metric) * (sign(metric) * values.astype(np.float64)).max())


def cvar(values: np.ndarray, metric: str, level: float) -> float:
    """The mean of the worst of the values (n,), their share 1 - level: the conditional value at risk.

    Where that share is no whole number of values, the last of them counts in part (Rockafellar and Uryasev 2002), and
    a share of less than one value is the worst.
    """
    worst_first = sign(metric) * np.sort(sign(metric) * values.astype(np.float64))[::-1]  # what is no number first
    share = max(1.0, (1 - level) * len(values))
    weights = np.clip(share - np.arange(len(values)), 0, 1)
    return float((weights[weights > 0] * worst_first[weights > 0]).sum() / weights.sum())
