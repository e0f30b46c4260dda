"""Times taken in turn: the interval of a median, and when rounds agree."""

import math
import random

import pytest

from metarun.run.rounds import AGREE, agree, apart, interval, middle_half, ratios


@pytest.mark.parametrize(
    ("n", "places"),  # of the table in any book: the k-th from either end
    [(5, None), (6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (30, 10)],
)
def test_the_interval_of_a_median_is_that_of_the_tables(n, places):
    values = [float(i) for i in range(1, n + 1)]
    random.Random(0).shuffle(values)
    assert interval(values) == ((-math.inf, math.inf) if places is None else (places, n + 1 - places))


def test_the_interval_holds_the_median_as_often_as_it_says():
    draw = random.Random(1)
    held = 0
    for _ in range(2000):
        low, high = interval([draw.expovariate(1.0) for _ in range(12)])
        held += low <= math.log(2) <= high
    assert 0.95 <= held / 2000 <= 0.98  # with 12 values it is 96.1 %


def test_the_middle_half_is_between_the_quartiles():
    assert middle_half([5.0, 1.0, 2.0, 4.0, 3.0]) == (2, 4)
    assert middle_half([7.0]) == (7, 7)


def test_a_ratio_is_taken_in_each_round():
    assert ratios({"ours": [1.0, 2.0], "other": [3.0, 8.0]}, "ours") == {"other": [3, 4]}


def spread(width: float, n: int = 9) -> dict[str, list[float]]:
    """Rounds whose ratios' median is 2, its interval `width` of it to either side; our own times vary by ten times."""
    ours = [1.0 + i for i in range(n)]
    k = 1  # of 9, the interval is from the 2nd to the 8th
    steps = [(i - n // 2) / (n // 2 - k) for i in range(n)]
    return {"ours": ours, "other": [2 * (1 + width * step) * own for step, own in zip(steps, ours, strict=True)]}


def test_rounds_agree_when_the_median_of_each_ratio_is_known_well_enough():
    assert apart(spread(0.02), "ours") == pytest.approx(0.02)
    assert agree(spread(0.9 * AGREE), "ours")
    assert not agree(spread(1.1 * AGREE), "ours")
    noisy = spread(0.01) | {"third": spread(1.1 * AGREE)["other"]}
    assert not agree(noisy, "ours")  # the widest of all counts


def test_fewer_than_six_rounds_never_agree_however_alike():
    assert not agree({"ours": [1.0] * 5, "other": [2.0] * 5}, "ours")
    assert agree({"ours": [1.0] * 6, "other": [2.0] * 6}, "ours")
