"""What a meta-step's all-reduce costs on many devices: on paper, and simulated with devices of unequal speed."""

from typing import NamedTuple

import numpy as np


class Link(NamedTuple):
    """How devices reach each other."""

    latency: float  # seconds a message
    bandwidth: float  # bytes a second


def moved(size: float, devices: int) -> float:
    """Bytes that each device sends for a ring all-reduce of `size` bytes: twice all parts but one."""
    return 2 * size * (devices - 1) / devices


def seconds(size: float, devices: int, link: Link) -> float:
    """Of a ring all-reduce: 2 (n - 1) messages one after another, of an n-th of the bytes each."""
    return 2 * (devices - 1) * link.latency + moved(size, devices) / link.bandwidth


def fitted(sizes: np.ndarray, times: np.ndarray, devices: int) -> Link:
    """The link whose all-reduces of these `sizes` take these `times`: least squares of the relative errors."""
    columns = np.stack([np.full(len(sizes), 2.0 * (devices - 1)), moved(1.0, devices) * sizes], 1) / times[:, None]
    latency, inverse = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)[0]
    return Link(max(0.0, float(latency)), 1.0 / max(float(inverse), 1e-15))


def simulated(
    compute: float, spread: float, size: float, devices: int, link: Link, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Seconds a meta-step, and the share of it in which a device does not compute.

    A device's own part takes `compute` seconds times a log-normal factor of mean 1 whose standard deviation, relative,
    is `spread`; the all-reduce begins when the slowest is there.
    """
    sigma = np.sqrt(np.log1p(spread**2))
    factors = np.random.default_rng(seed).lognormal(-(sigma**2) / 2, sigma, (rounds, devices))
    whole = compute * factors.max(1).mean() + seconds(size, devices, link)
    return float(whole), float(1 - compute / whole)


def most_devices(tasks: int, task: float, size: float, link: Link) -> int:
    """On how many devices, of powers of 2, a meta-step of so many tasks is fastest that take `task` seconds each."""
    counts = [2**i for i in range(tasks.bit_length()) if 2**i <= tasks]
    return min(counts, key=lambda n: task * tasks / n + (seconds(size, n, link) if n > 1 else 0.0))
