"""How times taken side by side compare, as docs/benchmarks.md shows it."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Compared(NamedTuple):
    ms: float  # the median over rounds
    times_ours: float  # this median over ours: what a reader of the table gets who divides the one by the other


def compare(rounds: Mapping[str, Sequence[float]], ours: str) -> dict[str, Compared]:
    """Name -> seconds in each round, into medians and their ratios."""
    medians = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    return {name: Compared(1000 * median, median / medians[ours]) for name, median in medians.items()}
