"""The compiled programs of a run; runs that differ only in numbers and seeds share them."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from jax.sharding import Mesh

from metarun import engine
from metarun.build import numbers_of
from metarun.config import Run
from metarun.core import Net, Tasks
from metarun.evaluate import make_evaluate
from metarun.inner import Inner


class Programs(NamedTuple):
    """Each is compiled when it is first called. See their makers for their arguments."""

    start: Callable[..., Any]  # engine.make_start
    meta_steps: Any  # a jitted function, engine.make_meta_steps
    evaluate: Callable[..., Any]  # evaluate.make_evaluate


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of a run its programs are made from: equal for runs of a sweep over step sizes, temperatures or seeds."""

    tasks: Any
    eval_tasks: Any
    learner: Any  # its floats replaced by 1: see Run.numbers
    eval_learner: Any
    model: Any
    optimizer: engine.Optimizer
    inner: Inner
    guard: engine.Guard
    inductive: bool
    meta_batch: int
    most_episodes: int


def shape_of(run: Run) -> Shape:
    """Raises nothing: `run` is checked."""
    return Shape(
        tasks=run.tasks,
        eval_tasks=run.eval_tasks,
        learner=without_numbers(run.learner),
        eval_learner=without_numbers(run.eval_learner),
        model=run.model,
        optimizer=run.optimizer,
        inner=run.inner,
        guard=run.train.guard,
        inductive=run.eval.inductive and getattr(run.model, "transductive", False),
        meta_batch=run.train.meta_batch,
        most_episodes=max(run.eval.episodes, run.eval.val_episodes),
    )


def without_numbers(component: Any) -> Any:
    return dataclasses.replace(component, **dict.fromkeys(numbers_of(component), 1.0))


def nets(run: Run) -> tuple[Net, Net]:
    """What learners see in training and in evaluation."""
    return net_of(run.model, run.tasks, run.learner), net_of(run.model, run.eval_tasks, run.eval_learner)


def net_of(model: Any, tasks: Tasks, learner: Any) -> Net:
    return engine.make_net(model, tasks, learner.width(tasks.n_out))


def programs(run: Run, mesh: Mesh, task_chunk: int) -> Programs:
    """The programs of `run`, for chunks of `task_chunk` tasks on the devices of `mesh`."""
    return _programs(shape_of(run), mesh, task_chunk)


@lru_cache(maxsize=16)
def _programs(shape: Shape, mesh: Mesh, task_chunk: int) -> Programs:
    net = net_of(shape.model, shape.tasks, shape.learner)
    eval_net = net_of(shape.model, shape.eval_tasks, shape.eval_learner)

    return Programs(
        start=engine.make_start(shape.learner, net, shape.tasks, shape.optimizer),
        meta_steps=engine.make_meta_steps(
            shape.learner,
            net,
            shape.tasks,
            shape.optimizer,
            mesh,
            shape.meta_batch,
            task_chunk,
            shape.inner,
            shape.guard,
        ),
        evaluate=make_evaluate(
            shape.eval_learner,
            eval_net,
            shape.eval_tasks,
            mesh,
            task_chunk,
            shape.most_episodes,
            shape.inductive,
            shape.inner,
        ),
    )
