"""Small files as a user may have them, each of 25 classes or groups."""

import json
from pathlib import Path

import numpy as np


def points(folder: Path) -> Path:
    """Arrays: classes of 12 points in the plane, each about a centre of its own."""
    random, y = np.random.default_rng(0), np.repeat(np.arange(25), 12)
    np.savez(folder / "points.npz", x=random.normal(size=(25, 2))[y] + 0.1 * random.normal(size=(300, 2)), y=y)
    return folder / "points.npz"


OF_PEOPLE = ["task.group_column=person", "task.target_columns=[response]"]


def people(folder: Path) -> Path:
    """A table: people of 12 rows, with a dose, a ward and a response to the dose that is the person's own."""
    random = np.random.default_rng(0)
    lines = ["person,dose,ward,response"]
    for person in range(25):
        slope, level = random.normal(size=2)
        for dose in random.uniform(-1, 1, 12):
            lines.append(f"p{person},{dose:.5f},{'north' if person % 2 else 'south'},{level + slope * dose:.5f}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder / "people.csv"


def texts(folder: Path) -> Path:
    """JSON lines: classes of 8 texts, which share a word."""
    rows = [{"text": f"please {i} word{c} now", "label": f"l{c}"} for c in range(25) for i in range(8)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "texts.jsonl"
