"""What a tested run has to show besides its figures, read from what it has left: for trackers that take pictures.

Imported once there is something: it draws.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarun.run import pictures
from metarun.run.ending import place
from metarun.run.figures import main_metric
from metarun.run.pictures import Picture, Point


class Shown(NamedTuple):
    """What a tested run has to show besides its figures."""

    place: str  # where its figures are, too
    metric: str
    steps: int  # meta-steps of the run
    adaptation: list[Point]  # the test's figure by inner steps; nothing for learners that take none
    classes: list[tuple[str, int, int]]  # a class, how many of its queries were right, of how many
    confusions: list[tuple[str, str, int]]  # a class, what it was taken for, how often
    episodes: list[Picture]  # the best, the median and the worst of the test


def shown(directory: Path) -> Shown | None:
    """What the test of the run in `directory` left there; None if it is not tested, or left no results."""
    try:
        found = json.loads((directory / "results.json").read_text())
    except OSError:
        return None
    split, metric = found["protocol"]["split"], main_metric(found)
    after = {int(steps): figures[metric] for steps, figures in found[f"{split}_by_inner_steps"].items()}
    points = [Point(steps, f["mean"], f["ci95"]) for steps, f in sorted(after.items()) if f["mean"] is not None]
    by_class: dict[str, Any] = {"classes": {}, "confusions": []}
    with suppress(OSError):  # where classes have no names
        by_class = json.loads((directory / "classes.json").read_text())
    return Shown(
        place=place(split),
        metric=metric,
        steps=found["training"]["steps"],
        adaptation=points,
        classes=[(name, right, asked) for name, (right, asked) in by_class["classes"].items()],
        confusions=[(one, other, times) for one, other, times in by_class["confusions"]],
        episodes=episodes_of(directory),
    )


def episodes_of(directory: Path) -> list[Picture]:
    """None where the disk did not take them."""
    with suppress(OSError), np.load(directory / "examples.npz", allow_pickle=False) as examples:
        return pictures.of_episodes(dict(examples))
    return []
