"""The final test of a run: as it was configured, after other numbers of inner steps, with other shots, elsewhere."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jax.sharding import Mesh

from metarun import engine
from metarun.config.run import Run, with_shots
from metarun.core import PyTree
from metarun.engine import Evaluation, Figures
from metarun.run.domains import on
from metarun.run.status import Status


class Tested(NamedTuple):
    """A test's evaluations; the keys are numbers of inner steps, and of shots, and names of other domains."""

    evaluation: Evaluation
    by_inner_steps: dict[str, Evaluation]  # empty for learners that take none
    by_shots: dict[str, "Tested"]
    by_domain: dict[str, "Tested"]  # of a whole run: see `everywhere`

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


def meta_test(run: Run, evaluate: Callable[[Run, Run], list[Evaluation]], loaded_for: Run | None = None) -> Tested:
    """`evaluate` tests one state on a run's test tasks: after its own number of inner steps, then `run.other_steps`.

    It is told, too, which run the data were loaded for: this one, or the one that has other shots.
    """
    found = evaluate(run, loaded_for or run)
    own = getattr(run.eval_learner, "inner_steps", None)
    after = dict(zip((own, *run.other_steps), found, strict=True))
    return Tested(
        evaluation=found[0],
        by_inner_steps={} if own is None else {str(n): after[n] for n in run.eval.inner_steps},
        by_shots={str(shots): meta_test(with_other_shots(run, shots), evaluate, run) for shots in run.eval.shots},
        by_domain={},
    )


def everywhere(
    run: Run,
    status: Status,
    evaluate: Callable[[Run, Run, PyTree, Callable[[int], None]], list[Evaluation]],
    there: Callable[[str], PyTree],
) -> Tested:
    """The test of a run on its own test tasks, then on each of its other domains; `status` is told how far it is.

    `evaluate` is given what `meta_test` tells, the data of another domain, which `there` makes ready, or None, and whom
    to tell how many episodes are done.
    """
    episodes, times, before = run.eval.episodes, (1 + len(run.domains)) * len(all_tests(run)), 0
    note = f"({times} evaluations of {episodes:,} each)" if times > 1 else ""

    def progress(done: int) -> None:
        status.at("test episodes", times * episodes, before + done, note)

    def one(run: Run, loaded_for: Run, elsewhere: PyTree = None) -> list[Evaluation]:
        nonlocal before
        found = evaluate(run, loaded_for, elsewhere, progress)
        before += episodes
        return found

    tested, by_domain = meta_test(run, one), {}
    for name in run.domains:  # only one of them is on the devices at a time
        by_domain[name] = meta_test(on(run, name), partial(one, elsewhere=there(name)))
    return tested._replace(by_domain=by_domain)


def all_tests(run: Run) -> list[Run]:
    """The runs that `meta_test` evaluates, in its order."""
    return [run, *(with_other_shots(run, shots) for shots in run.eval.shots)]


def of_its_classes(run: Run, loaded_for: Run, data: PyTree, mesh: Mesh) -> PyTree:
    """`data`, as `engine.held` for the test of the run that they were loaded for, as a run with other shots draws them.

    With more shots a class may be too small that was large enough, and with fewer the other way round.
    """
    if run.eval_tasks == loaded_for.eval_tasks:
        return data
    return engine.of_classes(data, run.eval_tasks.load(run.eval.split), mesh)


def with_other_shots(run: Run, shots: int) -> Run:
    """The run, to be tested with so many support examples a class, and with no others."""
    return dataclasses.replace(
        run, eval_tasks=with_shots(run.eval_tasks, shots), eval=dataclasses.replace(run.eval, shots=())
    )
