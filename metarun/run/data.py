"""What a task distribution has to draw from: classes and examples by split, and which episodes they can give."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from rich import box
from rich.table import Table

from metarun.core import ConfigError, Episode, Named, Tasks, Telling
from metarun.data import SPLITS
from metarun.run import separation
from metarun.run.announce import doubled
from metarun.run.separation import Finite
from metarun.run.terminal import console, say

ASKED = ((5, 1), (5, 5))  # ways and shots
MOST = {"ways": 10, "shots": 5, "queries": 6}  # of an episode that is shown


class Seen(NamedTuple):
    """What was found of a task distribution's data."""

    kind: str  # classes or groups
    sizes: dict[str, np.ndarray]  # of each split's classes, those too small for an episode included; none if made up
    example: str  # its shape and type
    possible: dict[str, dict[str, str | None]]  # an episode's size -> split -> None, or why it cannot be
    told: list[str]
    loaded: dict[str, Any]  # each split's data


def look(tasks: Any) -> Seen:
    """All that is to be told but what the splits share. Raises ConfigError and DataError."""
    try:
        loaded = {split: tasks.load(split) for split in SPLITS}
    except ConfigError as error:
        raise error if error.key == "data_dir" else error.under("task") from error
    sizes, example = {}, None
    for split in SPLITS:
        if hasattr(tasks, "found"):
            pool = tasks.found().splits[split].pool
            sizes[split], example = np.asarray(pool.size), np.asarray(pool.x[:0]) if example is None else example
        elif isinstance(tasks, Finite):
            every = list(tasks.examples(split, loaded[split]).values())
            sizes[split], example = np.array([len(one) for one in every]), every[0][:0] if every else example
    return Seen(
        kind="classes" if tasks.metric == "accuracy" else "groups",
        sizes=sizes,
        example="made up as it is drawn" if example is None else in_words(example),
        possible={name: {split: why_not(other, split) for split in SPLITS} for name, other in episodes_asked(tasks)},
        told=tasks.told() if isinstance(tasks, Telling) else [],
        loaded=loaded,
    )


def in_words(examples: np.ndarray) -> str:
    """`an example is 28x28x1, uint8`"""
    return f"an example is {'x'.join(map(str, examples.shape[1:])) or 'one number'}, {examples.dtype}"


def episodes_asked(tasks: Any) -> list[tuple[str, Any]]:
    """Sizes of episodes in words, and tasks of these sizes: 5-way 1-shot and 5-shot, and the tasks' own."""
    sizes = (
        [(w, s) for w, s in ASKED] if hasattr(tasks, "ways") and tasks.metric == "accuracy" else [(None, 5), (None, 10)]
    )
    own = (tasks.ways if sizes[0][0] else None, tasks.shots)
    found = []
    for ways, shots in dict.fromkeys([*sizes, own]):
        other = dataclasses.replace(tasks, shots=shots, **({} if ways is None else {"ways": ways}))
        found.append((f"{shots} shots" if ways is None else f"{ways}-way {shots}-shot", other))
    return found


def why_not(tasks: Tasks, split: str) -> str | None:
    """Why a split cannot give such episodes; None if it can."""
    try:
        tasks.check(split)
        return None
    except ConfigError as error:
        return str(error)


def tell(name: str, tasks: Any, seen: Seen) -> None:
    """A table of the splits, and lines on what is amiss."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ["split", seen.kind, "examples", "smallest", "median", "largest"] if seen.sizes else ["split"]
    for column in (*columns, *seen.possible):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in SPLITS:
        cells = [split]
        if seen.sizes:
            sizes = seen.sizes[split]
            numbers: list[float] = [len(sizes), int(sizes.sum())]
            numbers += [int(sizes.min()), float(np.median(sizes)), int(sizes.max())] if len(sizes) else []
            cells += [f"{number:,.15g}" for number in numbers] + [""] * (len(columns) - 1 - len(numbers))
        table.add_row(*cells, *("no" if why[split] else "yes" for why in seen.possible.values()))
    console.print(table)
    per = " a class" if seen.kind == "classes" else ""
    lines = [
        f"{name}: {seen.example}; episodes with {tasks.queries} {'query' if tasks.queries == 1 else 'queries'}{per}"
    ]
    lines += [
        f"no {size} episode of {split}: {why[split]}"
        for size, why in seen.possible.items()
        for split in SPLITS
        if why[split]
    ]
    for line in (*lines, *seen.told):
        say(line)


def tell_separation(tasks: Any, seen: Seen) -> None:
    """Whether the splits share classes or examples. Raises DataError if a class stands in two."""
    found = separation.check(dict.fromkeys(SPLITS, tasks), seen.loaded)
    if found is None:
        return
    line = doubled(found) if found["duplicate_examples_across_splits"] else "no example stands in two splits"
    say(f"no {seen.kind} stand in two splits; {line}")


class Shown(NamedTuple):
    """Episodes to be shown, of one split."""

    split: str
    tasks: Any  # no larger than can be seen at once
    episodes: list[Episode]  # on the host
    names: list[list[str]]  # of each one's classes, by label; empty of a regression
    originals: dict[bytes, str]  # an example's bytes -> the text that it was made from, if any


def show(tasks: Any, seen: Seen, count: int = 2) -> Shown | None:
    """The first episodes of the first split that can give some; None if none can."""
    for split in SPLITS:
        if (smaller := small(tasks, split)) is None:
            continue
        sample = jax.jit(smaller.sample)
        keys = jax.random.split(jax.random.key(0), count)
        episodes = [jax.device_get(sample(seen.loaded[split], key)) for key in keys]
        names = [names_of(smaller, split, episode) for episode in episodes]
        return Shown(split, smaller, episodes, names, originals(tasks, split))
    return None


def originals(tasks: Any, split: str) -> dict[bytes, str]:
    """An example's bytes -> the text that it was made from, which tells people more than numbers do."""
    if not hasattr(tasks, "found") or (found := tasks.found()).texts is None:
        return {}
    rows = zip(np.asarray(found.splits[split].pool.x), found.texts[split], strict=True)
    return {row.tobytes(): text for row, text in rows}


def small(tasks: Any, split: str) -> Any:
    """The tasks with no more ways, shots and queries than can be seen, and than the split has; None if it has none."""
    most = {name: min(getattr(tasks, name), value) for name, value in MOST.items() if hasattr(tasks, name)}
    smaller = dataclasses.replace(tasks, **most)
    classes = tasks.n_classes(split) if tasks.metric == "accuracy" else None
    if classes is not None and classes >= 2:
        smaller = dataclasses.replace(smaller, ways=min(smaller.ways, classes))
    return None if why_not(smaller, split) else smaller


def names_of(tasks: Any, split: str, episode: Episode) -> list[str]:
    """The names of an episode's classes, by label."""
    if tasks.metric != "accuracy":
        return []
    names = tasks.class_names(split) if isinstance(tasks, Named) else None
    classes = range(tasks.ways) if episode.classes is None else np.asarray(episode.classes).tolist()
    return [f"class {c}" if names is None else names[c] for c in classes]
