"""Prints a markdown table of finished runs, from their results.json: `python scripts/readme_table.py RUN...`."""

import json
import sys
from pathlib import Path
from typing import Any

from metarun.figures import commit_in_words, show

COLUMNS = ("command", "test figure (95% interval)", "meta-steps/s", "minutes", "peak memory", "device, commit, date")


def figures(found: dict[str, Any]) -> str:
    """The main figure, the inductive one, or a regression's after 1, 5 and 10 inner steps."""
    split = found["protocol"]["split"]
    if "accuracy" not in found[split]:
        by_steps = found[f"{split}_by_inner_steps"]
        return "MSE " + "; ".join(f"{show('mse', by_steps[n]['mse'])} after {n}" for n in ("1", "5", "10"))
    names = [name for name in found[split] if name.startswith("accuracy")]
    return "; ".join(
        f"{show(name, found[split][name])} {name.replace('accuracy', '').strip('_')}".strip() for name in names
    )


def row(found: dict[str, Any]) -> str:
    training, speed, machine, commit = (found[key] for key in ("training", "speed", "machine", "commit"))
    cells = (
        f"`{' '.join(word for word in training['command'].split() if not word.startswith('run.dir='))}`",
        figures(found),
        f"{speed['meta_steps_per_s']:.1f}",
        f"{speed['minutes']:.1f}",
        f"{found['memory']['host_peak_mb']:.0f} MB",
        f"{machine['devices']} {machine['device']} device(s), {commit_in_words(commit)}, {found['date'][:10]}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for run in sys.argv[1:]:
        print(row(json.loads((Path(run) / "results.json").read_text())))


if __name__ == "__main__":
    main()
