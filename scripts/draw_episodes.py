"""Draws two strokes episodes, support beside query, as docs/strokes.png (the README's picture)."""

from pathlib import Path

import jax
import matplotlib.pyplot as plt

from metarun.core import Episode
from metarun.tasks.strokes import Strokes

QUERIES = 6
INK, PAPER, RULE = "#1b1b1f", "#ffffff", "#d0d0d8"


def draw(figure: plt.Figure, episode: Episode, left: float, title: str) -> None:
    """One episode as a grid: a row a class, the support example first, a gap, then the queries."""
    ways = int(episode.support.y.max()) + 1
    for row in range(ways):
        images = [episode.support.x[row], *episode.query.x[row * QUERIES : (row + 1) * QUERIES]]
        for column, image in enumerate(images):
            x = left + 0.056 * column + (0.02 if column else 0)
            axes = figure.add_axes((x, 0.70 - 0.165 * row, 0.052, 0.155))
            axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(RULE)
    figure.text(left, 0.95, title, color=INK, fontsize=10, weight="bold")
    figure.text(left + 0.026, 0.885, "support", color=INK, fontsize=8, ha="center")
    figure.text(left + 0.076, 0.885, "query: whose character is it?", color=INK, fontsize=8)


def main() -> None:
    tasks = Strokes(ways=5, shots=1, queries=QUERIES, jitter=1.0, pool=None)
    figure = plt.figure(figsize=(9, 3.2), facecolor=PAPER)
    for i, left in enumerate((0.01, 0.51)):
        episode = jax.jit(tasks.sample)(tasks.load("test"), jax.random.key(i))
        draw(figure, episode, left, f"episode {i + 1}: five characters never seen before")
    target = Path(__file__).parents[1] / "docs" / "strokes.png"
    figure.savefig(target, dpi=110)
    print(target)


if __name__ == "__main__":
    main()
