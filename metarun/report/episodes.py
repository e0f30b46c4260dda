"""Test episodes as a report shows them: the best, the median and the worst, in pictures or as plots."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from metarun.report import plots
from metarun.report.runs import SavedRun
from metarun.run.figures import in_four_digits, is_right, squared_errors
from metarun.run.pictures import PATHS_SHOWN, inputs, is_on_plane, left_to_goal, telling

MOST_SHOWN = 100  # examples of an episode


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


class Fitted(NamedTuple):
    """An episode of a regression."""

    svg: str
    legend: list[plots.Key]
    error: float

    @property
    def said(self) -> str:
        return f"squared error {in_four_digits(self.error)}"


class Travelled(NamedTuple):
    """A task on the plane that was acted in."""

    svg: str
    legend: list[plots.Key]
    distance: float  # from the goal, at the end of a trajectory: the mean

    @property
    def said(self) -> str:
        return f"trajectories end {self.distance:.3g} from the goal"


class Told(NamedTuple):
    """An episode, and which one of the test's it is."""

    title: str
    shown: Classified | Fitted | Travelled


def episodes(run: SavedRun) -> list[Told]:
    """The best, the median and the worst of the test's episodes, or, of an older run, of the few that it kept."""
    if run.examples is None:
        return []
    found = []
    for title, i in telling(run.examples):
        e = {name: array[i] for name, array in run.examples.items()}
        if e["outputs"].ndim == 3:
            shown: Classified | Fitted | Travelled | None = travelled(e)
        else:
            shown = fitted(e) if e["query_y"].dtype.kind == "f" else classified(e)
        found += [Told(title, shown)] if shown is not None else []
    return found


def fitted(e: dict[str, np.ndarray]) -> Fitted | None:
    """The plot of a task whose inputs and targets are single numbers; None for others."""
    if e["query_x"].shape[1:] != (1,) or e["query_y"].shape[1:] != (1,):
        return None
    named = {"before": e.get("before"), "after": e["outputs"]}
    curves = {name: values[:, 0] for name, values in named.items() if values is not None}
    support = (e["support_x"][:, 0], e["support_y"][:, 0])
    drawn = plots.fitted(e["query_x"][:, 0], e["query_y"][:, 0], support, curves)
    legend = [key for key in plots.FITTED if key.name in ("true", *curves, "support")]
    return Fitted(drawn, legend, float(squared_errors(e["outputs"], e["query_y"]).mean()))


def travelled(e: dict[str, np.ndarray]) -> Travelled | None:
    """The plot of a task on the plane, with some of its trajectories; None for others."""
    if not is_on_plane(e):
        return None
    named = {"before": e.get("before"), "after": e["outputs"]}
    paths = {name: values[:PATHS_SHOWN] for name, values in named.items() if values is not None}
    legend = [key for key in plots.TRAVELLED if key.name in ("goal", *paths)]
    return Travelled(plots.travelled(e["query_y"][0], paths), legend, left_to_goal(e))


def classified(e: dict[str, np.ndarray]) -> Classified:
    y, outputs = e["query_y"], e["outputs"]
    right = is_right(outputs, y)
    names = e["names"].tolist() if "names" in e else [f"class {k + 1}" for k in range(outputs.shape[-1])]
    taken = np.where(np.isnan(outputs).any(-1), "not a number", np.array(names, object)[outputs.argmax(-1)])
    support_x, query_x = inputs(e, MOST_SHOWN)
    support = [Shown(picture(x), names[k]) for x, k in zip(support_x, e["support_y"], strict=False)]
    query = [
        Shown(picture(x), names[k], said, bool(hit)) for x, k, said, hit in zip(query_x, y, taken, right, strict=False)
    ]
    return Classified(support, query, len(e["support_y"]), int(right.sum()), len(y))


def picture(x: np.ndarray) -> str | None:
    """An image (height, width, 1 or 3) in [0, 1] as a data URI; None for what is no image."""
    if x.ndim != 3 or x.shape[-1] not in (1, 3):
        return None
    pixels = np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)
    if x.shape[-1] == 1:
        pixels = pixels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
