"""Episodes as a data set gives them, for people: images as a picture, all else as text."""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metarun.core import Batch
from metarun.text import one_line

INK, PAPER = "#1b1b1f", "#ffffff"
INCHES = 0.62  # of an image's side
MARGIN = 1.7  # inches, for the classes' names
LONGEST = 24  # letters of a name in the picture
NUMBERS = 8  # of an example that is no image, told at most


class Drawn(NamedTuple):
    """One episode, on the host."""

    title: str
    support: Batch
    query: Batch
    names: Sequence[str]  # of the classes, by label; none of a regression
    originals: dict[bytes, str]  # an example's bytes -> what it was made from, where that is text


def is_images(episode: Drawn) -> bool:
    return len(episode.names) > 0 and episode.support.x.ndim == 4 and episode.support.x.shape[-1] in (1, 3)


def of_class(batch: Batch, label: int) -> np.ndarray:
    return np.asarray(batch.x)[np.asarray(batch.y) == label]


def draw_episodes(episodes: Sequence[Drawn], file: BinaryIO, form: str = "png") -> None:
    """Writes a picture of episodes of images: a row a class, its support first, a gap, then its queries.

    Raises ValueError for a form that matplotlib does not know.
    """
    sheets = [sheet(episode) for episode in episodes]
    sizes = [
        (sheet.shape[1] / side(e) * INCHES, sheet.shape[0] / side(e) * INCHES)
        for sheet, e in zip(sheets, episodes, strict=True)
    ]
    width, height = MARGIN + max(w for w, _ in sizes) + 0.2, sum(h + 0.75 for _, h in sizes)
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    top = height
    for episode, pixels, (w, h) in zip(episodes, sheets, sizes, strict=True):
        top -= 0.65
        axes = figure.add_axes((MARGIN / width, (top - h) / height, w / width, h / height))
        axes.imshow(pixels, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text(0.1 / width, (top + 0.36) / height, episode.title, color=INK, fontsize=10, weight="bold")
        shots = len(of_class(episode.support, 0))
        where = {"support": 0.0, "query": shots * (1 + gap(episode) / side(episode)) * INCHES + 0.5 * INCHES}
        for name, x in where.items():
            figure.text((MARGIN + x) / width, (top + 0.08) / height, name, color=INK, fontsize=8)
        for row, name in enumerate(episode.names):
            y = top - (row + 0.5) / len(episode.names) * h
            at = (MARGIN - 0.1) / width, y / height
            said = figure.text(*at, shortened(one_line(name)), color=INK, fontsize=8, ha="right", va="center")
            said.set_parse_math(False)
        top -= h + 0.1
    figure.savefig(file, dpi=110, format=form)


def shortened(name: str) -> str:
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def side(episode: Drawn) -> int:
    return max(episode.support.x.shape[1:3])


def gap(episode: Drawn) -> int:
    """Pixels between images."""
    return max(1, side(episode) // 14)


def sheet(episode: Drawn) -> np.ndarray:
    """All images of an episode in one (height, width, 3), values in [0, 1] as a model sees them."""
    apart, (height, width) = gap(episode), episode.support.x.shape[1:3]
    ways = len(episode.names)
    rows = [[of_class(part, label) for part in (episode.support, episode.query)] for label in range(ways)]
    shots, queries = (max(len(row[part]) for row in rows) for part in (0, 1))
    between = side(episode) // 2
    canvas = np.ones((ways * (height + apart), (shots + queries) * (width + apart) + between, 3), np.float32)
    for row, parts in enumerate(rows):
        for part, first in zip(parts, (0, shots * (width + apart) + between), strict=True):
            for column, image in enumerate(part):
                y, x = row * (height + apart), first + column * (width + apart)
                canvas[y : y + height, x : x + width] = np.clip(image, 0, 1)
    return canvas[: canvas.shape[0] - apart, : canvas.shape[1] - apart]


def episodes_as_text(episodes: Sequence[Drawn]) -> str:
    """Episodes of what is no image: a line an example, with its class or targets before it."""
    lines: list[str] = []
    for episode in episodes:
        lines += [episode.title, ""]
        for part, batch in (("support", episode.support), ("query", episode.query)):
            y = np.asarray(batch.y)
            names = [one_line(episode.names[label]) if episode.names else numbers(label) for label in y]
            width = min(max(map(len, names)), 40)
            examples = [in_words(x, episode.originals) for x in np.asarray(batch.x)]
            lines.append(f"  {part}")
            lines += [f"    {name:<{width}}  {example}" for name, example in zip(names, examples, strict=True)]
        lines.append("")
    return "\n".join(lines)


def in_words(example: np.ndarray, originals: dict[bytes, str]) -> str:
    return one_line(originals.get(example.tobytes(), "")) or numbers(example)


def numbers(values: np.ndarray) -> str:
    """The first of some numbers, and how many there are."""
    every = np.ravel(values)
    shown = " ".join(f"{value:.4g}" for value in every[:NUMBERS].tolist())
    return shown if len(every) <= NUMBERS else f"{shown} ... ({len(every):,} numbers)"
