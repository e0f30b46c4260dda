"""The final test of a run: as it was configured, after other numbers of inner steps, with other shots, elsewhere."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from metarun.config.run import Run, with_shots
from metarun.engine import Evaluation, Figures


class Tested(NamedTuple):
    """A test's evaluations; the keys are numbers of inner steps, and of shots, and names of other domains."""

    evaluation: Evaluation
    by_inner_steps: dict[str, Evaluation]  # empty for learners that take none
    by_shots: dict[str, "Tested"]
    by_domain: dict[str, "Tested"]  # of a whole run: see Loop.test

    @property
    def figures_by_inner_steps(self) -> dict[str, Figures]:
        return {steps: one.figures for steps, one in self.by_inner_steps.items()}

    @property
    def figures_by_domain(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "figures": one.evaluation.figures,
                "by_inner_steps": one.figures_by_inner_steps,
                "by_shots": one.figures_by_shots,
            }
            for name, one in self.by_domain.items()
        }

    @property
    def figures_by_shots(self) -> dict[str, dict[str, Any]]:
        return {
            shots: {"figures": one.evaluation.figures, "by_inner_steps": one.figures_by_inner_steps}
            for shots, one in self.by_shots.items()
        }


def meta_test(run: Run, evaluate: Callable[[Run], list[Evaluation]]) -> Tested:
    """`evaluate` tests one state on a run's test tasks: after its own number of inner steps, then `run.other_steps`."""
    found = evaluate(run)
    own = getattr(run.eval_learner, "inner_steps", None)
    after = dict(zip((own, *run.other_steps), found, strict=True))
    return Tested(
        evaluation=found[0],
        by_inner_steps={} if own is None else {str(n): after[n] for n in run.eval.inner_steps},
        by_shots={str(shots): meta_test(with_other_shots(run, shots), evaluate) for shots in run.eval.shots},
        by_domain={},
    )


def all_tests(run: Run) -> list[Run]:
    """The runs that `meta_test` evaluates, in its order."""
    return [run, *(with_other_shots(run, shots) for shots in run.eval.shots)]


def with_other_shots(run: Run, shots: int) -> Run:
    """The run, to be tested with so many support examples a class, and with no others."""
    return dataclasses.replace(
        run, eval_tasks=with_shots(run.eval_tasks, shots), eval=dataclasses.replace(run.eval, shots=())
    )
