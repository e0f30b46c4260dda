"""A test seen closely: accuracy by class, what was taken for what, and a few episodes as they were drawn."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metarun import engine
from metarun.config.run import Run
from metarun.core import Batch, Key, Named, Prepares, PyTree, Tasks, is_collected
from metarun.data import Image
from metarun.files import write_atomically, write_bytes_atomically
from metarun.run.figures import by_success, ranked
from metarun.run.meta_test import Tested

EPISODES = 6  # kept as they were drawn: the best, the median and the worst of the test, then its first ones
CONFUSIONS = 100  # kept, the most frequent ones


class ByClass(NamedTuple):
    """How the classes of a test fared."""

    classes: dict[str, tuple[int, int]]  # name -> queries that were right, and all there were
    confusions: list[tuple[str, str, int]]  # a class, what it was taken for, how often: the most frequent first


def by_class(answers: engine.Answers, names: list[str]) -> ByClass:
    """Counts over all tasks; `names` of the split's classes by their numbers. Names that recur are one class."""
    assert answers.classes is not None
    classes, y, outputs = (np.asarray(part) for part in (answers.classes, answers.y, answers.outputs))
    true = np.take_along_axis(classes, y, axis=1).ravel()
    predicted = np.take_along_axis(classes, outputs.argmax(-1), axis=1).ravel()
    named, answered = np.array(names), ~np.isnan(outputs).any(-1).ravel()
    pairs = Counter(zip(named[true[answered]].tolist(), named[predicted[answered]].tolist(), strict=True))
    asked = Counter(named[true].tolist())
    wrong = [(one, other, n) for (one, other), n in pairs.most_common() if one != other]
    return ByClass({name: (pairs[name, name], asked[name]) for name in sorted(asked)}, wrong[:CONFUSIONS])


def telling(ranks: np.ndarray) -> np.ndarray:
    """Which episodes to keep, by the ranks (tasks,) of all: the best, the median, the worst, then the first ones."""
    places = (0, (len(ranks) - 1) // 2, len(ranks) - 1)
    told = [int(np.flatnonzero(ranks == place)[0]) for place in places]
    return np.array(list(dict.fromkeys([*told, *range(len(ranks))]))[:EPISODES])


def keep(run: Run, directory: Path, sample: engine.Program, data: PyTree, k_eval: Key, tested: Tested) -> None:
    """Writes classes.json, where classes have names, and examples.npz: a few episodes of the test.

    These hold the answers after adaptation and, if the test was also made after 0 inner steps, before it; `index` says
    which of the test's episodes they are, and `rank` their places among all `tested` ones, 0 for the best; `inverted`
    whether images were dark on white.
    """
    answers, before = tested.evaluation.answers, tested.by_inner_steps.get("0")
    names = run.eval_tasks.class_names(run.eval.split) if isinstance(run.eval_tasks, Named) else None
    if names is not None:
        write_atomically(directory / "classes.json", json.dumps(by_class(answers, names)._asdict(), indent=1) + "\n")
    if is_collected(metric := run.eval_tasks.metric):
        ranks = ranked(-answers.metrics[metric])
    else:
        ranks = by_success(np.asarray(answers.outputs), np.asarray(answers.y))
    index = telling(ranks)
    drawn = engine.for_episodes(run.eval_tasks, data, engine.of_evaluation, k_eval, index)
    support, query, classes, _ = jax.device_get(engine.send(sample, drawn, k_eval, index.astype(np.int32)))
    if is_collected(metric):
        keep_trajectories(directory, query, answers, before and before.answers, index, ranks)
        return
    arrays: dict[str, Any] = {
        "support_x": support.x, "support_y": support.y, "query_x": query.x, "query_y": query.y,
        "outputs": answers.outputs[index],
        "index": index, "rank": ranks[index], "tested": np.full(len(index), len(ranks)),
        "inverted": np.full(len(index), is_inverted(run.eval_tasks)),
    }  # fmt: skip
    if before is not None:
        arrays["before"] = before.answers.outputs[index]
    if names is not None:
        arrays["names"] = np.array(names)[classes]
    write_bytes_atomically(directory / "examples.npz", lambda file: np.savez_compressed(file, **arrays))


def is_inverted(tasks: Tasks) -> bool:
    """Whether the tasks' images are ink, which is dark on white for people, and light on black for a model."""
    prepares = tasks.prepares if isinstance(tasks, Prepares) else None
    return isinstance(prepares, Image) and prepares.invert


def keep_trajectories(
    directory: Path,
    query: Batch,
    answers: engine.Answers,
    before: engine.Answers | None,
    index: np.ndarray,
    ranks: np.ndarray,
) -> None:
    """Writes examples.npz of tasks that were acted in: what was seen, `outputs` (tasks, trajectories, steps, d).

    `query_y` are the goals (tasks, trajectories, ...). Nothing is written where those are no single array.
    """
    if not hasattr(query.y, "shape"):
        return
    many = query.x.shape[:2]

    def by_trajectory(seen: engine.Answers) -> np.ndarray:
        kept = np.asarray(seen.outputs)[index]
        return kept.reshape(*many, -1, *kept.shape[2:])

    arrays: dict[str, Any] = {"query_x": query.x, "query_y": query.y, "outputs": by_trajectory(answers)}
    arrays |= {"index": index, "rank": ranks[index], "tested": np.full(len(index), len(ranks))}
    if before is not None:
        arrays["before"] = by_trajectory(before)
    write_bytes_atomically(directory / "examples.npz", lambda file: np.savez_compressed(file, **arrays))
