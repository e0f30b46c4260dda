"""What the learner says to what is asked: probabilities, how they came about by inner step, what is most alike."""

from typing import Any

import numpy as np

from metarun.core import ConfigError
from metarun.learned import Adapted, Learned, as_inputs
from metarun.learned.answered import CURVE
from metarun.serve.asked import Asked
from metarun.serve.examples import Images, Texts
from metarun.serve.refused import Refused

NEAREST = 3  # support examples
AT_ONCE = 4  # queries of a call: one program answers any number


def answer(learned: Learned, examples: Images | Texts, asked: Asked) -> dict[str, Any]:
    """{"classes", "queries": [...], "inner_steps", "accuracy"}, of which `figures` and `accuracies` tell more.

    Raises Refused.
    """
    support, queries = examples.inputs(asked.support), examples.inputs(asked.queries)
    # Classes have the places that a learner adapted to their names would give them.
    rank = np.argsort(np.argsort(np.array(asked.classes, object)))
    trained: int | None = getattr(learned.parts.learner, "inner_steps", None)
    own = (trained or 0) if asked.inner_steps is None else asked.inner_steps
    steps = [] if trained is None else sorted({*CURVE, own})
    each: list[int | None] = [*steps] or [asked.inner_steps]
    try:
        ends = [learned.adapt(support, rank[asked.labels], inner_steps=n) for n in each]
        by_steps = np.stack([asked_of(adapted, queries)[:, rank] for adapted in ends])  # (steps or 1, queries, ways)
    except ConfigError as error:
        raise Refused(f"{error.given}: {error.allowed}" if error.key == "y" else str(error)) from error
    adapted_in = steps.index(own) if steps else 0
    distances = distances_of(ends[0].support_x, as_inputs("queries", queries, learned.purpose))
    told = [
        {
            "probabilities": numbers(by_steps[adapted_in, q]),
            "by_inner_steps": [numbers(row) for row in by_steps[:, q]] if steps else None,
            "nearest": nearest(distances[q], asked.labels),
        }
        for q in range(len(queries))
    ]
    return {
        "classes": asked.classes,
        "queries": told,
        "inner_steps": {"own": own, "shown": steps} if steps else None,
        "accuracy": accuracies(by_steps, asked.truths, adapted_in, bool(steps)),
    }


def asked_of(adapted: Adapted, x: np.ndarray) -> np.ndarray:
    """x (n, ...) -> (n, ways) probabilities, each of its query alone."""
    filled = np.concatenate([x, np.repeat(x[-1:], -len(x) % AT_ONCE, axis=0)])
    parts = [adapted.predict_proba(filled[first : first + AT_ONCE]) for first in range(0, len(filled), AT_ONCE)]
    return np.concatenate(parts)[: len(x)]


def distances_of(support: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(n, ...), (m, ...) -> (m, n) Euclidean distances."""
    support, queries = (x.reshape(len(x), -1).astype(np.float64) for x in (support, queries))
    return np.stack([np.linalg.norm(support - query, axis=1) for query in queries])


def nearest(distances: np.ndarray, labels: list[int]) -> list[dict[str, Any]]:
    """The support examples that are most alike: class, number among its examples, and distance."""
    number = [labels[:i].count(label) for i, label in enumerate(labels)]
    first = np.argsort(distances, kind="stable")[:NEAREST]
    return [{"class": labels[i], "example": number[i], "distance": float(distances[i])} for i in first]


def accuracies(by_steps: np.ndarray, truths: list[int | None], own: int, steps: bool) -> dict[str, Any] | None:
    """Of the queries whose class is told; None if there are none."""
    told = [q for q, truth in enumerate(truths) if truth is not None]
    if not told:
        return None
    right = by_steps[:, told].argmax(-1) == [truths[q] for q in told]
    found = (right & np.isfinite(by_steps[:, told]).all(-1)).mean(1).tolist()  # what has diverged says nothing
    return {"queries": len(told), "accuracy": found[own], "by_inner_steps": found if steps else None}


def numbers(row: np.ndarray) -> list[float] | None:
    """None for what is not finite, which JSON cannot say: too many steps of too large a size lead there."""
    return row.tolist() if np.isfinite(row).all() else None
