"""docs/benchmarks.md and what README says of it: one way of comparing, the ratio of two medians."""

import re
from pathlib import Path

import pytest
from pages.speed import compare

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
SETTINGS = [part.split("\n", 1) for part in PAGE.split("\n## ")[1:] if "| metarun |" in part]


def rows(table: str) -> dict[str, tuple[float, str, str]]:
    """Name -> milliseconds, how many times metarun's as it is printed, the note."""
    found = re.findall(r"^\| (metarun|PyTorch[^|]*) \| ([\d.]+) \| ([\d.]+) \| ?(.*?) ?\|$", table, re.MULTILINE)
    return {name: (float(ms), times, note) for name, ms, times, note in found}


def test_the_ratio_is_that_of_the_medians_and_not_the_median_of_the_ratios():
    rounds = {"metarun": [0.1, 0.2, 0.3], "other": [0.4, 0.3, 0.9]}  # of the rounds' ratios the median is 3
    found = compare(rounds, "metarun")
    assert found["metarun"] == pytest.approx((200, 1))
    assert found["other"] == pytest.approx((400, 2))


@pytest.mark.parametrize(("name", "table"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_a_reader_of_the_page_who_divides_gets_its_ratios(name, table):
    every = rows(table)
    assert len(every) == 4
    ours = every["metarun"][0]
    assert [times for _, times, _ in every.values()] == [f"{ms / ours:.1f}" for ms, _, _ in every.values()]
    gflop, share, peak = map(
        float, re.match(r"([\d.]+) GFLOP; (\d+)% of the (\d+) GFLOP/s", every["metarun"][2]).groups()
    )
    assert round(100 * gflop / (ours / 1000) / peak) == share


def test_readme_says_what_the_page_says():
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(
        r"`torch.func.vmap`'s meta-gradient alone takes ([\d.]+) times as long .* over tasks ([\d.]+) times; "
        r"first-order ([\d.]+) and ([\d.]+), with five inner steps ([\d.]+) and ([\d.]+)",
        readme,
    )
    tables = [rows(table) for _, table in SETTINGS]
    ways = ("PyTorch, torch.func.vmap", "PyTorch, loop over tasks")
    assert list(said.groups()) == [table[way][1] for table in tables for way in ways]
