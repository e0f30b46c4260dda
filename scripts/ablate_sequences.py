"""What makes a sequence learner learn, one setting at a time, into docs/results.md: `scripts/ablate_sequences.py`.

Each row is a run of a few minutes at the lowest priority; what is finished in `--dir` is skipped, what was stopped
there goes on. A row departs in one setting from `as it is`, which has the learner's yaml as it stands.
"""

import argparse
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pages.marks import write_between
from pages.parts import ask_for_parts
from pages.runs import make, write_as_they_end
from pages.tables import table

from metarun.run.figures import commit_in_words

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
INSTANCES = ("01", "02", "03", "05", "10")
AS_IT_IS = "as it is"
EARLIER = (
    "learner.labels=balanced",
    "learner.written=key",
    "learner.addressed=after",
    "learner.free=each",
    "learner.emptied=all",
    "learner.memory_start=0",
    "learner.weights_start=none",
    "learner.forget_bias=0",
)


class Part(NamedTuple):
    """Rows of one learner, encoder and budget."""

    title: str
    common: tuple[str, ...]
    departures: tuple[tuple[str, ...], ...]


def one_by_one(*settings: str) -> tuple[tuple[str, ...], ...]:
    return ((), *((setting,) for setting in settings))


SMALL = ("task=omniglot", "model=conv4", "model.filters=32", "train.steps=1250")
PIXELS = ("train.steps=10000",)
PARTS = {
    "mann_conv": Part(
        "MANN behind four convolutions of 32 filters, 1,250 meta-steps",
        ("learner=mann", *SMALL),
        (
            *one_by_one(*EARLIER, "learner.sharpness=1", "learner.usage_decay=0.95", "learner.standardise=false"),
            EARLIER,
        ),
    ),
    "lstm_conv": Part(
        "LSTM behind four convolutions of 32 filters, 1,250 meta-steps",
        ("learner=lstm", *SMALL),
        one_by_one("learner.labels=balanced", "learner.forget_bias=0", "learner.standardise=false"),
    ),
    "lstm_pixels": Part(
        "LSTM on pixels as `experiment=lstm_omniglot_5w`, 10,000 meta-steps",
        ("experiment=lstm_omniglot_5w", *PIXELS),
        one_by_one(
            "learner.labels=balanced", "learner.forget_bias=0", "learner.standardise=true", "task.rotate=0 task.shift=0"
        ),
    ),
    "mann_pixels": Part(
        "MANN on pixels as `experiment=mann_omniglot_5w`, 10,000 meta-steps",
        ("experiment=mann_omniglot_5w", *PIXELS),
        one_by_one(
            *EARLIER,
            "learner.sharpness=10",
            "learner.usage_decay=0.95",
            "learner.standardise=true",
            "task.rotate=0 task.shift=0",
        ),
    ),
}


def folder_of(directory: Path, part: str, departure: tuple[str, ...]) -> Path:
    name = "-".join(setting.replace("learner.", "") for setting in departure) or AS_IT_IS
    return directory / part / ("earlier" if departure == EARLIER else re.sub("[ =]", "_", name))  # Hydra reads run.dir


def run(part: str, departure: tuple[str, ...], directory: Path) -> int:
    """Makes one run, unless it is finished. Its exit code."""
    words = [word for setting in departure for word in setting.split()]
    given = [*PARTS[part].common, *words, "logger=none", "eval.state=last"]
    return make(folder_of(directory, part, departure), given)


def page(directory: Path) -> str:
    """A table for each part of which a run is finished."""
    lines: list[str] = []
    for name, part in PARTS.items():
        found: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        for departure in part.departures:
            file = folder_of(directory, name, departure) / "results.json"
            if file.exists():
                found.append((departure, json.loads(file.read_text())))
        if not found:
            continue
        rows = []
        for departure, results in found:
            figures = [results["test"][f"accuracy_instance_{k}"]["mean"] for k in INSTANCES]
            said = "all of an earlier version" if departure == EARLIER else ", ".join(f"`{one}`" for one in departure)
            rows.append((said or AS_IT_IS, *(f"{100 * mean:.1f}" for mean in figures)))
        made = sorted({f"{commit_in_words(one['commit'])}, {one['machine']['device']}" for _, one in found})
        dates = sorted({results["date"][:10] for _, results in found})
        lines += [f"### {part.title}", ""]
        lines += table(("departure", *(f"instance {int(k)}" for k in INSTANCES)), *rows)
        lines += ["", f"`{' '.join(part.common)}`, one seed; {', '.join(made)}, {', '.join(dates)}", ""]
    return "\n".join(lines).strip() or "No row has run yet."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask_for_parts(parser, PARTS)
    parser.add_argument("--dir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--table-only", action="store_true")
    given = parser.parse_args()
    jobs = [partial(run, part, one, given.dir) for part in given.parts or PARTS for one in PARTS[part].departures]
    return write_as_they_end([] if given.table_only else jobs, lambda: write_between(PAGE, "ablation", page(given.dir)))


if __name__ == "__main__":
    sys.exit(main())
