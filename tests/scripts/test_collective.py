"""The paper estimate of an all-reduce: closed forms."""

import math

import numpy as np
import pytest
from pages import collective
from pages.collective import Link

LINK = Link(latency=1e-5, bandwidth=1e9)


def test_a_ring_sends_each_part_but_one_twice():
    assert collective.moved(8.0, 2) == 8.0  # each sends its half, and the sum of the other's
    assert collective.moved(8.0, 4) == 12.0
    assert collective.moved(8.0, 1) == 0.0
    # Four devices, 6 messages of a quarter of 4 MB each.
    assert collective.seconds(4e6, 4, LINK) == pytest.approx(6 * (1e-5 + 1e6 / 1e9))


def test_a_link_is_found_again_from_its_times():
    sizes = np.array([1e3, 1e5, 1e7])
    found = collective.fitted(sizes, np.array([collective.seconds(size, 8, LINK) for size in sizes]), 8)
    assert found == pytest.approx(LINK)


def test_without_spread_the_share_is_the_rings_own_and_with_it_all_wait_for_the_slowest():
    whole, share = collective.simulated(1.0, 0.0, 4e6, 4, LINK)
    ring = collective.seconds(4e6, 4, LINK)
    assert whole == pytest.approx(1.0 + ring)
    assert share == pytest.approx(ring / (1.0 + ring))
    # The mean of the larger of two log-normals of mean 1: 2 Phi(sigma / sqrt 2).
    sigma = np.sqrt(np.log1p(0.1**2))
    expected = 1 + math.erf(sigma / 2)
    assert collective.simulated(1.0, 0.1, 0.0, 2, Link(0.0, 1.0), rounds=200_000)[0] == pytest.approx(
        expected, rel=1e-3
    )


def test_no_more_devices_than_are_faster():
    assert collective.most_devices(256, 1.0, 4.0, Link(0.0, 1e12)) == 256
    # 8 tasks of 1 s: 8, then 4 + 4 on two, 2 + 12 on four.
    assert collective.most_devices(8, 1.0, 0.0, Link(2.0, 1.0)) in (1, 2)
    assert collective.most_devices(8, 1.0, 0.0, Link(1.9, 1.0)) == 2
    assert collective.most_devices(8, 1.0, 0.0, Link(2.1, 1.0)) == 1
