"""The final test of a run: as it was configured, after other numbers of inner steps, and with other shots."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from metarun.config.run import Run, with_shots
from metarun.engine import Evaluation, Figures


class Tested(NamedTuple):
    """A test's evaluations; the keys are numbers of inner steps, and of shots."""

    evaluation: Evaluation
    by_inner_steps: dict[str, Evaluation]  # empty for learners that take none
    by_shots: dict[str, "Tested"]

    @property
    def figures_by_inner_steps(self) -> dict[str, Figures]:
        return {steps: one.figures for steps, one in self.by_inner_steps.items()}

    @property
    def figures_by_shots(self) -> dict[str, dict[str, Any]]:
        return {
            shots: {"figures": one.evaluation.figures, "by_inner_steps": one.figures_by_inner_steps}
            for shots, one in self.by_shots.items()
        }


def inner_steps(run: Run) -> tuple[int, ...]:
    """The numbers of inner steps after which the run is tested beside its own; none for learners that take none."""
    return run.eval.inner_steps if hasattr(run.eval_learner, "inner_steps") else ()


def evaluations(run: Run) -> int:
    """How many evaluations `meta_test` makes."""
    return (1 + len(inner_steps(run))) * (1 + len(run.eval.shots))


def meta_test(run: Run, evaluate: Callable[[Run, int | None], Evaluation]) -> Tested:
    """`evaluate` tests one state on a run's test tasks, after its own inner steps (None) or after another number."""
    once = dataclasses.replace(run.eval, shots=())
    return Tested(
        evaluation=evaluate(run, None),
        by_inner_steps={str(n): evaluate(run, n) for n in inner_steps(run)},
        by_shots={
            str(shots): meta_test(
                dataclasses.replace(run, eval_tasks=with_shots(run.eval_tasks, shots), eval=once), evaluate
            )
            for shots in run.eval.shots
        },
    )
