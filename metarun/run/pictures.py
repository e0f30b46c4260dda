"""Pictures of a tested run: the episodes that it kept, and how its figure grows with inner steps."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from metarun.core import Batch
from metarun.run.drawn import Drawn, draw_episodes
from metarun.run.figures import by_success, in_four_digits, is_right, squared_errors, unit

PATHS_SHOWN = 10  # trajectories of a task
MOST_DRAWN = 20  # classes of an episode, and examples of a class
FRAMES = {"support": "#8a8a92", "right": "#009e73", "wrong": "#d55e00"}


class Picture(NamedTuple):
    """A picture, and what it shows."""

    name: str  # in a word
    caption: str
    png: bytes

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.png))


def telling(examples: dict[str, np.ndarray]) -> list[tuple[str, int]]:
    """What to show of the kept episodes: what each of them is, and its index."""
    kept = len(examples["query_y"])
    if "rank" in examples:
        ranks, tested = examples["rank"], int(examples["tested"][0])
        of = f"of {tested:,} test episodes"
    else:
        ranks, tested = by_success(examples["outputs"], examples["query_y"]), kept
        of = f"of the first {tested:,} test episodes"
    found: dict[int, str] = {}
    for name, rank in (("Best", 0), ("Median", (tested - 1) // 2), ("Worst", tested - 1)):
        for index in np.flatnonzero(ranks == rank)[:1]:
            found.setdefault(int(index), f"{name} {of}")
    return [(title, index) for index, title in found.items()]


def strips(*groups: np.ndarray) -> list[np.ndarray]:
    """Vectors (n, d) as images (n, rows, columns, 1): a square a number, the darker the larger among all of them."""
    every = np.concatenate(groups).astype(float)
    finite = every[np.isfinite(every)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    d = every.shape[1]
    columns = min(d, 4 * int(np.ceil(np.sqrt(d / 4))))  # a long one in several rows
    rows = -(-d // columns)
    cells = np.zeros((len(every), rows * columns), np.float32)
    cells[:, :d] = np.nan_to_num((every - low) / (high - low or 1), nan=0.0, posinf=1.0, neginf=0.0)
    images = cells.reshape(-1, rows, columns, 1)
    return np.split(images, np.cumsum([len(group) for group in groups])[:-1])


def inputs(e: dict[str, np.ndarray], most: int | None = None) -> list[np.ndarray]:
    """The first of an episode's support and query inputs as people see them: vectors as strips, ink black on white."""
    parts = [e["support_x"][:most], e["query_x"][:most]]
    if parts[0].ndim == 2:
        return [1.0 - images for images in strips(*parts)]
    inverted = e.get("inverted", parts[0].shape[-1] == 1)  # older runs do not say
    return [1.0 - images for images in parts] if inverted else parts


def of_episodes(examples: dict[str, np.ndarray]) -> list[Picture]:
    """The best, the median and the worst episode of an examples.npz; none of what can be drawn neither way."""
    found = []
    for title, i in telling(examples):
        e = {name: array[i] for name, array in examples.items()}
        if e["outputs"].ndim == 3:
            drawn = travelled(e)
        else:
            drawn = fitted(e) if e["query_y"].dtype.kind == "f" else classified(e)
        if drawn is not None:
            found.append(Picture(f"{title.split()[0].lower()}_episode", f"{title}: {drawn[0]}", drawn[1]))
    return found


def classified(e: dict[str, np.ndarray]) -> tuple[str, bytes] | None:
    """An episode of a classification: how many queries were right, and a row a class, each query in a frame."""
    y = e["query_y"]
    right = is_right(e["outputs"], y)
    support_x, query_x = inputs(e)
    if np.ndim(support_x) != 4 or np.shape(support_x)[-1] not in (1, 3):
        return None
    ways = min(e["outputs"].shape[-1], MOST_DRAWN)
    names = e["names"].tolist()[:ways] if "names" in e else [f"class {k + 1}" for k in range(ways)]
    shown = [first_of_each(labels, ways) for labels in (e["support_y"], y)]
    frames = [FRAMES["right"] if hit else FRAMES["wrong"] for hit in right[shown[1]]]
    support = Batch(framed(support_x[shown[0]], [FRAMES["support"]] * len(shown[0])), e["support_y"][shown[0]])  # type: ignore[arg-type]
    query = Batch(framed(query_x[shown[1]], frames), y[shown[1]])  # type: ignore[arg-type]
    said = f"{int(right.sum())} of {len(y)} right"
    buffer = io.BytesIO()
    draw_episodes([Drawn(said, support, query, names, {})], buffer)
    return f"{said}; a query that is has a green frame, another an orange one", buffer.getvalue()


def first_of_each(labels: np.ndarray, ways: int) -> np.ndarray:
    """Where the first examples of each of the first classes are."""
    return np.concatenate([np.flatnonzero(labels == label)[:MOST_DRAWN] for label in range(ways)])


def framed(images: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """Images (n, height, width, 1 or 3) in [0, 1], each in a frame: (n, ..., 3)."""
    inside = np.clip(np.repeat(images, 3, -1) if images.shape[-1] == 1 else images, 0, 1)
    n, height, width, _ = inside.shape
    thick = max(1, max(height, width) // 14)
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours], np.float32)
    whole = np.broadcast_to(rgb[:, None, None], (n, height + 2 * thick, width + 2 * thick, 3)).copy()
    whole[:, thick:-thick, thick:-thick] = inside
    return whole


def fitted(e: dict[str, np.ndarray]) -> tuple[str, bytes] | None:
    """An episode of a regression of one number on one: its error, and the curves; None for others."""
    if e["query_x"].shape[1:] != (1,) or e["query_y"].shape[1:] != (1,):
        return None
    order = np.argsort(e["query_x"][:, 0])
    x = e["query_x"][order, 0]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, e["query_y"][order, 0], color="black", linewidth=1, label="true")
    if "before" in e:
        axes.plot(x, e["before"][order, 0], color="#0072b2", label="before adaptation")
    axes.plot(x, e["outputs"][order, 0], color="#d55e00", label="after adaptation")
    axes.plot(e["support_x"][:, 0], e["support_y"][:, 0], "o", color="#cc79a7", label="support")
    axes.legend(frameon=False, fontsize=8)
    error = in_four_digits(squared_errors(e["outputs"], e["query_y"]).mean())
    return f"mean squared error {error}", as_png(figure)


def is_on_plane(e: dict[str, np.ndarray]) -> bool:
    """Whether a task that was acted in has a goal on the plane, and its policy saw where it was."""
    return e["outputs"].shape[2:] == (2,) and e["query_y"].shape[1:] == (2,)


def travelled(e: dict[str, np.ndarray]) -> tuple[str, bytes] | None:
    """A task on the plane: how far from its goal trajectories end, and some of them; None for others."""
    if not is_on_plane(e):
        return None
    goal = e["query_y"][0]
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("before", "#0072b2"), ("outputs", "#d55e00")):
        for i, path in enumerate(e[name][:PATHS_SHOWN] if name in e else ()):
            when = "before adaptation" if name == "before" else "after adaptation"
            axes.plot(*path.T, color=colour, alpha=0.5, linewidth=0.8, label=when if i == 0 else None)
    axes.plot(*goal[:, None], "o", color="black", label="goal")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False, fontsize=8)
    return f"trajectories end {left_to_goal(e):.3g} from the goal", as_png(figure)


def left_to_goal(e: dict[str, np.ndarray]) -> float:
    """How far from its goal the trajectories of a task on the plane end: the mean."""
    return float(np.linalg.norm(e["outputs"][:, -1].astype(float) - e["query_y"][0], axis=-1).mean())


class Point(NamedTuple):
    """A figure after so many inner steps, with half of its 95 % interval."""

    inner_steps: int
    mean: float
    ci95: float


def of_adaptation(points: Sequence[Point], metric: str) -> Picture:
    """How the figure grows with the number of inner steps."""
    scale, percent = unit(metric)
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    steps, means, intervals = (np.array(column, float) for column in zip(*points, strict=True))
    axes.errorbar(steps, scale * means, yerr=scale * intervals, marker="o", capsize=3, color="#0072b2")
    axes.set_xlabel("inner steps")
    axes.set_ylabel(f"{metric}{percent and ','}{percent}")
    return Picture("adaptation", f"{metric} of the test by inner steps, with 95 % intervals", as_png(figure))


def as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()
