"""The compiled programs of a run; runs that differ only in numbers and seeds share them."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from jax.sharding import Mesh

from metarun.core import Net, Tasks
from metarun.engine.evaluate import MAIN, Asked, make_evaluate
from metarun.engine.meta_step import Guard, Optimizer, make_meta_steps, make_start
from metarun.engine.net import make_net
from metarun.inner import Inner


class Programs(NamedTuple):
    """Each is compiled when it is first called. See their makers for their arguments."""

    start: Callable[..., Any]  # meta_step.make_start
    meta_steps: Any  # a jitted function, meta_step.make_meta_steps
    validate: Callable[..., Any]  # evaluate.make_evaluate, the main figures alone
    test: Callable[..., Any]  # evaluate.make_evaluate, all that is asked


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of a run its programs are made from: equal for runs of a sweep over step sizes, temperatures or seeds."""

    tasks: Any
    eval_tasks: Any
    learner: Any  # `without_numbers`, as is the next
    eval_learner: Any
    model: Any
    optimizer: Optimizer
    inner: Inner
    guard: Guard
    asked: Asked  # of the test
    meta_batch: int


def numbers_of(component: Any) -> dict[str, float]:
    """A component's floats: what a sweep varies, and a compiled program can take as arguments."""
    values = {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}
    return {name: value for name, value in values.items() if isinstance(value, float)}


def without_numbers(component: Any) -> Any:
    """The component with 1 for each of its floats."""
    return dataclasses.replace(component, **dict.fromkeys(numbers_of(component), 1.0))


def nets(shape: Shape) -> tuple[Net, Net]:
    """What learners see in training and in evaluation."""
    return (
        net_of(shape.model, shape.tasks, shape.learner),
        net_of(shape.model, shape.eval_tasks, shape.eval_learner),
    )


def net_of(model: Any, tasks: Tasks, learner: Any) -> Net:
    return make_net(model, tasks, learner.width(tasks.n_out))


@lru_cache(maxsize=16)
def programs(shape: Shape, mesh: Mesh, task_chunk: int) -> Programs:
    """The programs of runs of this shape, for chunks of `task_chunk` tasks on the devices of `mesh`."""
    net, eval_net = nets(shape)

    def evaluation(asked: Asked) -> Callable[..., Any]:
        return make_evaluate(shape.eval_learner, eval_net, shape.eval_tasks, mesh, task_chunk, asked, shape.inner)

    validate = evaluation(MAIN)
    return Programs(
        start=make_start(shape.learner, net, shape.tasks, shape.optimizer),
        meta_steps=make_meta_steps(
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
        validate=validate,
        test=validate if shape.asked == MAIN else evaluation(shape.asked),
    )
