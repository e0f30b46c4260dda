"""A user's own task, in files: read as the run's examples were made, adapted to, and asked."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from metarun.core import ConfigError
from metarun.data import Columns, Image, Own, arrays_of_task, images_of_task, is_arrays, rows_of_task, texts_of_task
from metarun.learned.learner import Adapted, Learned
from metarun.text import one_line

SUPPORT, QUERY = "--support", "--query"


@contextmanager
def of_option(name: str) -> Iterator[None]:
    """A mistake in what a user's files hold is one in the option that names them."""
    try:
        yield
    except ConfigError as error:
        key = name if error.key in ("path", "x", "y") else f"--{error.key.replace('_', '-')}"
        raise ConfigError(key, error.given, error.allowed) from error


def support_of(learned: Learned, path: str) -> Own:
    """A support set, of a class or a target each. Raises ConfigError and DataError."""
    with of_option(SUPPORT):
        return own(learned, path, None, support=True)


def query_of(adapted: Adapted, path: str) -> Own:
    """Queries, with what they are if it is known: a class of the support set's. Raises ConfigError and DataError."""
    classes = None if adapted.classes is None else [str(name) for name in adapted.classes]
    with of_option(QUERY):
        query = own(adapted.learned, path, classes, support=False)
        if classes is not None and query.labels is not None:
            lacking = [name for name in dict.fromkeys(query.labels) if name is not None and name not in classes]
            if lacking:
                more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
                allowed = f"no class of the support set, which has {known}; add examples of it there, or leave it out"
                raise ConfigError("path", one_line(f"{path}: {lacking[0]}{more}"), one_line(allowed))
        return query


def own(learned: Learned, path: str, known: list[str] | None, support: bool) -> Own:
    """Examples in files of the kind that the run's tasks had, or arrays for what stands in no table."""
    purpose = learned.purpose
    prepares = purpose.prepares
    if prepares is None and not is_arrays(path) and Path(path).expanduser().exists():
        shape = ", ".join(map(str, ("n", *purpose.shape)))
        raise ConfigError(
            "path", path, f"the run was trained on arrays; write numpy.savez('own.npz', x=x), x ({shape})"
        )
    if prepares is None or (is_arrays(path) and isinstance(prepares, Image)):
        return arrays_of_task(path, purpose.shape, learned.classification, support)
    if isinstance(prepares, Image):
        return images_of_task(path, prepares, known)
    if isinstance(prepares, Columns):
        return rows_of_task(path, prepares, support)
    task = learned.config["task"]
    columns = task.get("text_column", "text"), task.get("label_column", "label")
    return texts_of_task(path, *columns, prepares, support)


def adapted_to(learned: Learned, support: Own, inner_steps: int | None = None, seed: int = 0) -> Adapted:
    """The learner, adapted to a support set. Raises ConfigError."""
    with of_option(SUPPORT):
        y = np.array(support.labels) if learned.classification else support.targets
        return learned.adapt(support.x, y, inner_steps=inner_steps, seed=seed)


def shots_in_words(adapted: Adapted) -> str:
    """`5-way 1-shot`, `3-way, 2 to 9 shots`, or a regression's `10 examples`"""
    if adapted.classes is None:
        return f"{len(adapted.support_y):,} example{'s' if len(adapted.support_y) > 1 else ''}"
    each = Counter(adapted.support_y.tolist()).values()
    fewest, most = min(each), max(each)
    shots = f" {most}-shot" if fewest == most else f", {fewest} to {most} shots"
    return f"{len(adapted.classes)}-way{shots}"
