"""The end of a run, for its trackers: its figures by their names. What there is to look at: metarun.run.shown."""

from collections.abc import Mapping
from typing import Any

from metarun.run.meta_test import Tested


def place(split: str) -> str:
    """Under which name a test's figures stand: apart from the curve of validation, if that is what it is on."""
    return "final_val" if split == "val" else split


def summary(split: str, metric: str, best: Mapping[str, Any] | None, tested: Tested | None) -> dict[str, float]:
    """The best validation so far, and a test's figures, each with half of its 95 % interval.

    `val/best_accuracy`, `val/best_meta_step`; `test/accuracy`, `test/accuracy_ci95`, `test/accuracy_after_5` (inner
    steps), `test/accuracy_with_5_shots`, `test/on mednist/accuracy`; `final_val/accuracy` if it is on validation's.
    """
    found: dict[str, float] = {}
    final = place(split)

    def add(name: str, figure: Mapping[str, float]) -> None:
        found[name] = figure["mean"]
        if "ci95" in figure:  # the best of a run that an early version began may lack it
            found[f"{name}_ci95"] = figure["ci95"]

    if best is not None:
        add(f"val/best_{metric}", best)
        found["val/best_meta_step"] = best["step"]
    if tested is not None:
        for name, figure in tested.evaluation.figures.items():
            add(f"{final}/{name}", figure)
        for steps, figures in tested.figures_by_inner_steps.items():
            add(f"{final}/{metric}_after_{steps}", figures[metric])
        for shots, other in tested.by_shots.items():
            add(f"{final}/{metric}_with_{shots}_shots", other.evaluation.figures[metric])
        for domain, other in tested.by_domain.items():
            for name, figure in other.evaluation.figures.items():
                add(f"{final}/on {domain}/{name}", figure)
    return found
