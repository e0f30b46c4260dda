"""Test episodes as a report shows them: classifications in pictures, regressions of one number as plots."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from metarun.report import plots
from metarun.report.runs import SavedRun

EPISODES = 3  # of each run
MOST_SHOWN = 100  # examples of an episode


def picture(x: np.ndarray) -> str | None:
    """An image (height, width, 1 or 3) in [0, 1] as a data URI; None for what is no image."""
    if x.ndim != 3 or x.shape[-1] not in (1, 3):
        return None
    pixels = (255 * np.clip(x, 0, 1)).astype(np.uint8)
    if x.shape[-1] == 1:
        pixels = 255 - pixels[:, :, 0]  # ink is black on white, in the dark, too
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class Shown(NamedTuple):
    """One example of an episode."""

    image: str | None
    name: str  # its class
    predicted: str = ""
    right: bool = False


class Classified(NamedTuple):
    """An episode of a classification."""

    support: list[Shown]  # the first of them
    query: list[Shown]  # likewise
    supported: int
    right: int
    asked: int


def episodes(run: SavedRun) -> list[Classified | str]:
    """The first test episodes: classifications in pictures, regressions (of one number) as plots."""
    if run.examples is None:
        return []
    one = [{name: array[i] for name, array in run.examples.items()} for i in range(len(run.examples["query_y"]))]
    found = [fitted(e) if e["query_y"].dtype.kind == "f" else classified(e) for e in one[:EPISODES]]
    return [episode for episode in found if episode is not None]


def fitted(e: dict[str, np.ndarray]) -> str | None:
    """The plot of a task whose inputs and targets are single numbers."""
    if e["query_x"].shape[1:] != (1,) or e["query_y"].shape[1:] != (1,):
        return None
    named = {"before": e.get("before"), "after": e["outputs"]}
    curves = {name: values[:, 0] for name, values in named.items() if values is not None}
    support = (e["support_x"][:, 0], e["support_y"][:, 0])
    return plots.fitted(e["query_x"][:, 0], e["query_y"][:, 0], support, curves)


def classified(e: dict[str, np.ndarray]) -> Classified:
    predicted, y = e["outputs"].argmax(-1), e["query_y"]
    names = e["names"].tolist() if "names" in e else [f"class {k + 1}" for k in range(e["outputs"].shape[-1])]
    support = [Shown(picture(x), names[k]) for x, k in zip(e["support_x"], e["support_y"], strict=True)]
    query = [
        Shown(picture(x), names[k], names[p], bool(k == p)) for x, k, p in zip(e["query_x"], y, predicted, strict=True)
    ]
    right = int((predicted == y).sum())
    return Classified(support[:MOST_SHOWN], query[:MOST_SHOWN], len(support), right, len(y))
