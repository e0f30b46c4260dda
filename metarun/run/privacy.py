"""What a run's meta-steps tell of a user, as (epsilon, delta): Renyi differential privacy of the sampled Gaussian.

Neighbours are runs on the same users but one, whose task is left out. Mironov, Talwar and Zhang 2019; the conversion is
that of Canonne, Kamath and Steinke 2020, proposition 12. `engine.private` is what is counted here.
"""

import math
from typing import Any

import jax
import numpy as np

from metarun.config.run import Run
from metarun.core import OfGroups, Prepares, PyTree, Tasks
from metarun.engine import MOST_OVERFLOW

WEAK = 0.1  # noise: below it the grid is long, and epsilon large
LOST = float(np.finfo(np.float32).eps)  # and below this rounding may swallow it: nothing is promised then
# 1.1 to 11 in steps of 0.1, which weak noise needs, then coarser ones for small losses.
ORDERS = np.concatenate([np.arange(11, 110) / 10, np.arange(11, 64), 2.0 ** np.arange(6, 11)])


def renyi(rate: float, noise: float, orders: np.ndarray = ORDERS) -> np.ndarray:
    """The Renyi divergences of these orders (above 1), of one step.

    Each user is there with chance `rate`; the noise's standard deviation is `noise` times the most that one adds.
    With it the sum's distribution is (1 - q) N(0, s^2) + q N(1, s^2), and without N(0, s^2). The integral of their
    ratio's power is taken on a grid, which for such smooth functions is exact to rounding; at rate 1 it is known. Weak
    noise is taken to be of rate 1: who is there at times is told of no more than who always is.
    """
    if rate == 0:
        return np.zeros(len(orders))
    if noise < LOST:
        return np.full(len(orders), np.inf)
    if rate == 1 or noise < WEAK:
        return orders / (2 * noise**2)
    x = np.linspace(-20 * noise, orders.max() + 20 * noise, 1 + int((orders.max() + 40 * noise) / (noise / 10)))
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    log_density = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi)) + math.log(x[1] - x[0])
    return np.array([np.logaddexp.reduce(order * log_ratio + log_density) / (order - 1) for order in orders])


def epsilon(rate: float, noise: float, steps: int, delta: float) -> float:
    """The least epsilon that the divergences of so many steps allow with this delta."""
    told = steps * renyi(rate, noise)
    each = told + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(each.min()))


GROUPS, SCALED, FRESH, SHARED = "groups", "groups, scaled together", "tasks of their own", "tasks that share data"


def told_of(tasks: Tasks, data: PyTree) -> str:
    """Whom epsilon is of: tasks that are drawn from the same classes and examples hide none of these."""
    if isinstance(tasks, OfGroups) and tasks.n_groups("train") is not None:
        return SCALED if isinstance(tasks, Prepares) else GROUPS
    return FRESH if all(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(data)) else SHARED


def spent(run: Run, data: PyTree, steps: int) -> dict[str, Any] | None:
    """What so many meta-steps have told; None where meta-gradients are not clipped. Without noise epsilon is None.

    `data` are training's. What the run starts from, `init_from`, is given, and is not counted: nobody knows whose data
    it was learned from.
    """
    private, meta_batch = run.private, run.train.meta_batch
    if private.clip is None:
        return None
    rate = private.rate(meta_batch)
    # A user who is new in every meta-step is met once, and never again, however many steps there are.
    times, overflow = (1, 0.0) if private.users is None else (steps, MOST_OVERFLOW if rate < 1 else 0.0)
    # Half of delta is for a meta-step that has no room for all who are drawn (the factor: Chua et al. 2024, lemma 3.2).
    found = epsilon(rate, private.noise, times, private.delta / 2 if overflow else private.delta)
    if overflow and (1 + math.exp(min(found, 500))) * times * overflow > private.delta / 2:
        # Whoever is drawn, one user more or less changes two of the tasks that there is room for, at most.
        found = epsilon(1.0, private.noise / 2, times, private.delta)
    return {
        "epsilon": found if math.isfinite(found) else None,
        "delta": private.delta,
        "clip": private.clip,
        "noise": private.noise,
        "users": private.users,
        "of": told_of(run.tasks, data),
        "rate": rate,
        "expected_tasks": private.expected(meta_batch),
        "meta_steps": steps,
        "init_from": run.train.init_from,
    }


def in_words(privacy: dict[str, Any]) -> str:
    """`epsilon 2.31 at delta 1e-05, for each of 2,000 users`, and what it does not hold for."""
    if privacy["epsilon"] is None:
        why = "hides nothing" if privacy["noise"] == 0 else "is too weak for numbers in float32"
        return f"none (no epsilon is finite: train.private.noise={privacy['noise']:.3g} {why})"
    of, users = privacy["of"], privacy["users"]
    many = "groups" if of in (GROUPS, SCALED) else "users" if of == FRESH else "tasks"
    whom = f"new {many}, each met once" if users is None else f"each of {users:,} {many}"
    if of == SHARED:
        whom += ", and for none of the classes and examples that they share"
    if of == SCALED:
        whom += ", given how columns are scaled and coded, by all of their rows: that is not counted"
    start = privacy.get("init_from")
    given = f"; of this run alone, as it starts from {start}: holds only if that was not learned from their data"
    return f"epsilon {privacy['epsilon']:.3g} at delta {privacy['delta']:.3g}, for {whom}{given if start else ''}"
