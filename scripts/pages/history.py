"""docs/benchmarks.json: what each run of scripts/bench_torch.py measured, the newest last; none is ever left out.

An entry has `commit`, `date`, `machine`, `versions`, and in `tables`, by a setting's key, its `rows` by name: each
row's median `ms`, `times` metarun's, and their middle halves over the rounds (null of runs that did not keep them).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarun.files import write_atomically
from metarun.run.figures import commit_in_words

Entry = dict[str, Any]
OURS = "metarun"
CLEARLY = 0.05  # by so much slower, and beyond both middle halves, is said in bold


def read(file: Path) -> list[Entry]:
    """The entries; none of a file that is not there yet. Raises ValueError for one that is damaged."""
    return json.loads(file.read_text())["runs"] if file.exists() else []


def write(file: Path, runs: list[Entry]) -> None:
    write_atomically(file, json.dumps({"runs": runs}, indent=1) + "\n")


def newest(runs: list[Entry], key: str) -> Entry:
    """The last run that has the table, which one of them has."""
    return next(run for run in reversed(runs) if key in run["tables"])


def one_before(runs: list[Entry], place: int, key: str) -> Entry | None:
    """The last run before that at `place` that has the table and was made on the same machine."""
    of_the_machine = [run for run in runs[:place] if run["machine"] == runs[place]["machine"] and key in run["tables"]]
    return of_the_machine[-1] if of_the_machine else None


def ours(table: Entry) -> tuple[float, list[float] | None]:
    """metarun's milliseconds, and their middle half."""
    row = table["rows"][OURS]
    return row["ms"], row["ms_half"]


def beside_torch(table: Entry) -> tuple[float, list[float] | None]:
    """How many times as long the fastest row of PyTorch takes, and the middle half of that."""
    fastest = min((row for name, row in table["rows"].items() if name != OURS), key=lambda row: row["times"])
    return fastest["times"], fastest["times_half"]


def in_words(machine: dict[str, Any]) -> str:
    """`2 cores of an AMD EPYC`, after the GPU if it computed."""
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    return f"one {machine['gpu']} beside {cores}" if "gpu" in machine else cores


Figure = Callable[[Entry], tuple[float, list[float] | None]]


def cell(runs: list[Entry], place: int, key: str, figure: Figure, more_is_better: bool) -> str:
    """`141 (−3 %)`: a figure, and its change against the one before; in bold where it is clearly worse."""
    if key not in runs[place]["tables"]:
        return ""
    value, half = figure(runs[place]["tables"][key])
    text = f"{value:.3g}"
    earlier = one_before(runs, place, key)
    if earlier is None:
        return text
    was, was_half = figure(earlier["tables"][key])
    change = value / was - 1
    text += f" ({change:+.0%})".replace("-", "−").replace("%", " %")
    worse = change < -CLEARLY if more_is_better else change > CLEARLY
    if half and was_half:
        worse = worse and (half[1] < was_half[0] if more_is_better else half[0] > was_half[1])
    return f"**{text}**" if worse else text


def by_commit(runs: list[Entry], keys: list[str], figure: Figure, more_is_better: bool) -> list[str]:
    """A markdown table, the newest run first."""
    lines = [f"| commit | date | {' | '.join(keys)} | jax, torch | machine |", f"|{' --- |' * (len(keys) + 4)}"]
    for place in reversed(range(len(runs))):
        run = runs[place]
        cells = [cell(runs, place, key, figure, more_is_better) for key in keys]
        made = f"{run['versions']['jax']}, {run['versions']['torch'].partition('+')[0]} | {in_words(run['machine'])}"
        lines.append(f"| {commit_in_words(run['commit'])} | {run['date']} | {' | '.join(cells)} | {made} |")
    return lines
