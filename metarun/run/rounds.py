"""Times of several things taken in turn, in rounds: what they come to, and when there are enough rounds."""

import math
import statistics
from collections.abc import Mapping, Sequence

AGREE = 0.03  # rounds agree when the 95 % interval of each ratio's median is within so much of it, either side
FEWEST = 6  # rounds; with fewer there is no such interval


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return low, high


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, whatever the distribution is: two of the values themselves.

    The k-th from either end, k as large as leaves at most 5 % outside: the number of values below the median is
    binomial. Fewer than 6 values tell nothing of it, and the interval is all numbers.
    """
    n, ordered = len(values), sorted(values)
    k, outside = 0, 2 * 0.5**n  # the probability that the median lies outside the (k + 1)-th values
    while outside <= 0.05:
        k += 1
        outside += 2 * math.comb(n, k) * 0.5**n
    return (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)


def ratios(rounds: Mapping[str, Sequence[float]], ours: str) -> dict[str, list[float]]:
    """Name -> in each round its seconds over those of `ours`, which is left out."""
    return {
        name: [theirs / own for theirs, own in zip(seconds, rounds[ours], strict=True)]
        for name, seconds in rounds.items()
        if name != ours
    }


def apart(rounds: Mapping[str, Sequence[float]], ours: str) -> float:
    """How far rounds are from agreeing: the widest 95 % interval of a ratio's median, as half of it over the median."""

    def half_width(values: Sequence[float]) -> float:
        low, high = interval(values)
        return (high - low) / 2 / statistics.median(values)

    return max(half_width(values) for values in ratios(rounds, ours).values())


def agree(rounds: Mapping[str, Sequence[float]], ours: str) -> bool:
    """Whether more rounds would tell little more."""
    return apart(rounds, ours) <= AGREE


def enough(rounds: Mapping[str, Sequence[float]], ours: str, most: int) -> bool:
    """Whether as many rounds were made as agree, or as may be."""
    made = min(map(len, rounds.values()))
    return made >= most or (made >= FEWEST and agree(rounds, ours))
