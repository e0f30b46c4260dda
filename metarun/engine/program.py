"""The compiled programs of a run; runs that differ only in numbers and seeds share them."""

import dataclasses
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from metarun.core import Array, Episode, Key, Net, PyTree, Tasks
from metarun.engine.compiled import Program, described
from metarun.engine.evaluate import Asked, Evaluate, make_evaluate
from metarun.engine.gathered import at
from metarun.engine.keys import task_key
from metarun.engine.meta_step import Guard, Optimizer, make_meta_steps, make_start
from metarun.engine.net import make_net
from metarun.engine.private import Private
from metarun.engine.selection import Selection
from metarun.engine.together import of_members
from metarun.gradients import Inner


class Programs(NamedTuple):
    """Each is compiled when it is first called, if not before. See their makers for their arguments."""

    start: Program  # meta_step.make_start
    meta_steps: Program  # meta_step.make_meta_steps
    evaluate: Evaluate
    sample: Program  # (data, seed's key, indices (n,)) -> these episodes of an evaluation
    together: Callable[[int], Program]  # the meta-steps of so many runs: see together.of_members


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
    content: tuple[Any, ...]  # `content_of` the tasks, which are equal if their files have one name
    selection: Selection | None = None  # None: a meta-step's tasks are those that are drawn
    private: Private | None = None  # None: meta-gradients are as they are


def numbers_of(component: Any) -> dict[str, float]:
    """A component's floats: what a sweep varies, and a compiled program can take as arguments.

    None of one with a `__post_init__`: that checks them, or derives others from them, and must see what they are.
    """
    if hasattr(component, "__post_init__"):
        return {}
    values = {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}
    return {name: value for name, value in values.items() if isinstance(value, float)}


def without_numbers(component: Any) -> Any:
    """The component with 1 for each of its floats."""
    return dataclasses.replace(component, **dict.fromkeys(numbers_of(component), 1.0))


def content_of(tasks: Tasks, eval_tasks: Tasks) -> tuple[Any, ...]:
    """What `nets` are told that may come from a file: in one process it may have other classes, or targets, later."""
    return tasks.n_classes("train"), *((each.metric, each.n_out) for each in (tasks, eval_tasks))


@lru_cache(maxsize=16)
def nets(shape: Shape) -> tuple[Net, Net]:
    """What learners see in training and in evaluation, wherever that is: the classes trained on are training's."""
    net = net_of(shape.model, shape.tasks, shape.learner)
    return net, net_of(shape.model, shape.eval_tasks, shape.eval_learner)._replace(n_classes=net.n_classes)


def net_of(model: Any, tasks: Tasks, learner: Any) -> Net:
    return make_net(model, tasks, learner.width(tasks.n_out))


def programs(shape: Shape, mesh: Mesh, task_chunk: int) -> Programs:
    """The programs of runs of this shape, for chunks of `task_chunk` tasks on the devices of `mesh`.

    They multiply as precisely as jax does by now: a process may have runs of both precisions.
    """
    return programs_of(shape, mesh, task_chunk, jax.config.values["jax_default_matmul_precision"])


@lru_cache(maxsize=16)
def programs_of(shape: Shape, mesh: Mesh, task_chunk: int, precision: str | None) -> Programs:
    net, eval_net = nets(shape)
    training = (shape.learner, shape.model, shape.tasks, net.n_classes, shape.optimizer)
    testing = (shape.eval_learner, shape.model, shape.eval_tasks, eval_net.n_classes, shape.inner)
    devices = [device.id for device in mesh.devices.flat]

    def sample(data: PyTree, k_eval: Key, index: Array) -> Episode:
        def one(place: Array, index: Array) -> Episode:
            return shape.eval_tasks.sample(at(data, place, 0), task_key(k_eval, index)[0])

        return jax.vmap(one)(jnp.arange(len(index)), index)

    how = (devices, shape.meta_batch, task_chunk, shape.inner, shape.guard, shape.selection, shape.private)
    steps = partial(
        make_meta_steps,
        shape.learner,
        net,
        shape.tasks,
        shape.optimizer,
        meta_batch=shape.meta_batch,
        task_chunk=task_chunk,
        how=shape.inner,
        guard=shape.guard,
        selection=shape.selection,
        private=shape.private,
    )

    @cache
    def together(members: int) -> Program:
        made_from = described("together", members, training, *how)
        return steps(mesh=of_members(mesh, members), made_from=made_from, members=members)

    evaluate = make_evaluate(
        shape.eval_learner,
        eval_net,
        shape.eval_tasks,
        mesh,
        task_chunk,
        shape.asked,
        shape.inner,
        described("evaluate", testing, devices, task_chunk, shape.asked),
    )
    return Programs(
        start=make_start(shape.learner, net, shape.tasks, shape.optimizer, described("start", training, devices)),
        meta_steps=steps(mesh=mesh, made_from=described("meta_steps", training, *how)),
        evaluate=evaluate,
        sample=Program(sample, described("sample", shape.eval_tasks, devices)),
        together=together,
    )
