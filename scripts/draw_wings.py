"""Draws the wings of metarun and what imports what, from the imports themselves, as docs/wings.png."""

import ast
import textwrap
import tomllib
from pathlib import Path

import grimp
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
WIDTH = 10.2
# What every wing may use: its arrows would hide the others.
GROUND = ("files", "machine", "core", "text", "stderr", "exit_codes")
INK, PAPER, BAND, RULE, ARROW = "#1b1b1f", "#ffffff", "#e9eef7", "#c4cad6", "#3d5a99"


def layers() -> list[list[str]]:
    """The rows of the house, the top one first, as import-linter checks them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rows,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    names = [[name.strip().removeprefix("metarun.") for name in row.split("|")] for row in rows]
    return [row for row in names if row != ["__main__"]]


def imports(names: list[str]) -> set[tuple[str, str]]:
    """Which of these import which."""
    graph = grimp.build_graph("metarun")

    def within(name: str) -> set[str]:
        return {f"metarun.{name}", *graph.find_descendants(f"metarun.{name}")}

    return {
        (one, other)
        for one in names
        for other in names
        if one != other
        and any(graph.find_modules_directly_imported_by(module) & within(other) for module in within(one))
    }


def says(name: str) -> str:
    """The first sentence that a wing or a file says of itself."""
    path = ROOT / "metarun" / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return docstring.split("\n")[0].split(". ")[0].rstrip(".")


def main() -> None:
    names = [name for row in layers() for name in row]
    figure, axes = plt.subplots(figsize=(8.6, 5.2), facecolor=PAPER)
    height = {name: -float(i) for i, name in enumerate(names)}
    for name, y in height.items():
        band = FancyBboxPatch((0, y - 0.38), WIDTH, 0.76, boxstyle="round,pad=0,rounding_size=0.08", linewidth=0)
        band.set(facecolor=PAPER if name in GROUND else BAND, edgecolor=RULE, linewidth=0.6)
        axes.add_patch(band)
        axes.text(0.15, y, name, va="center", weight="bold", fontsize=9, color=INK)
        axes.text(1.9, y, textwrap.shorten(says(name), 90, placeholder=" ..."), va="center", fontsize=7, color=INK)
    for one, other in sorted(imports(names)):
        if other not in GROUND:
            begin, end = (WIDTH + 0.05, height[one] - 0.08), (WIDTH + 0.05, height[other] + 0.08)
            bend = -min(0.8, 0.25 + 1.1 / (begin[1] - end[1]))  # a wide arc for a short way, a flat one for a long
            axes.add_patch(
                FancyArrowPatch(
                    begin, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=8,
                    color=ARROW, linewidth=0.9, alpha=0.8, shrinkA=0, shrinkB=0,
                )
            )  # fmt: skip
    axes.set(xlim=(-0.1, WIDTH + 1.6), ylim=(1 - len(names) - 0.6, 0.6))
    axes.axis("off")
    figure.savefig(ROOT / "docs" / "wings.png", dpi=140, bbox_inches="tight", pad_inches=0.05, facecolor=PAPER)


if __name__ == "__main__":
    main()
