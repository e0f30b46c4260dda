"""What the pages of figures share: tables in markdown, and figures over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def over_seeds(figures: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean over seeds of the mean and of the interval over tasks; None where a seed's is not a number."""
    every = {key: [figure.get(key) for figure in figures] for key in ("mean", "ci95")}
    return {key: None if None in values else float(np.mean(np.array(values, float))) for key, values in every.items()}


def table(heads: Sequence[str], *cells: Sequence[str]) -> list[str]:
    """A markdown table."""
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in cells)]
