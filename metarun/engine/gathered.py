"""Examples that stay on the host: which ones an episode draws, and what stands for them in a compiled program.

An episode draws its examples at once, by `metarun.data.draw`. So a task distribution needs nothing of its own to have
more data than a device holds: to be asked, `sample` is given a pool that writes down the rows that are drawn from it;
in a compiled program it is given one that holds those examples alone, in the order in which they are drawn. It is the
same function, called with the same keys, in both.
"""

from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from metarun.core import Array, Key, PyTree, Tasks
from metarun.data import Pool

# jax 0.8 has it in jax.core, of which later ones warn.
current_trace: Any = getattr(jax.extend.core, "get_opaque_trace_state", None) or jax.core.get_opaque_trace_state


class Examples(NamedTuple):
    """What of a pool is as long as its examples are many: arrays, or what tells the shape and type of an example's."""

    x: Any
    y: Any  # None, where they have no targets


class Gathered(NamedTuple):
    """An argument of a program, in the place of a pool's x: what its episodes draw."""

    examples: Examples  # (numbers, tasks, drawn, ...) each: by meta-step, or by row of an evaluation's chunks
    first: Array  # () int32: the number of the first of them


def pools(data: PyTree) -> list[Pool]:
    return [part for part in jax.tree.leaves(data, is_leaf=is_pool) if is_pool(part)]


def is_pool(part: Any) -> bool:
    return isinstance(part, Pool)


def is_gathered(part: Any) -> bool:
    return isinstance(part, Gathered)


def with_pool(data: PyTree, **changes: Any) -> PyTree:
    """The data with other values in their pool."""
    return jax.tree.map(lambda part: part._replace(**changes) if is_pool(part) else part, data, is_leaf=is_pool)


def without_examples(data: PyTree) -> PyTree:
    return with_pool(data, x=None, y=None)


def examples_of(pool: Pool) -> Examples:
    return Examples(np.asanyarray(pool.x), None if pool.y is None else np.asanyarray(pool.y))


def one_of(examples: Examples) -> Examples:
    """The shape of one, and its type on a device."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype)), examples)


def rows_of(tasks: Tasks, data: PyTree, one: Examples, key: Key) -> Array:
    """Which rows of the pool the episode of `key` draws; the data are without examples, of which `one` tells the shape.

    Raises TypeError or ValueError for tasks that do not draw their examples at once.
    """
    drawn: list[Array] = []
    trace = current_trace(convention="flax")

    def write_down(rows: Array) -> Array:
        if current_trace(convention="flax") != trace:  # under a vmap of its own, say: these are not all the rows
            raise TypeError("an episode draws its examples outside of vmap, scan and jit")
        drawn.append(rows)
        return rows

    none = jax.tree.map(lambda of: jnp.zeros((1, *of.shape), of.dtype), one)
    tasks.sample(with_pool(data, **none._asdict(), places=write_down), key)
    (rows,) = drawn
    return rows


def of_an_episode(tasks: Tasks, data: PyTree, one: Examples) -> Examples:
    """The shapes of what one episode draws, (drawn, ...) each. Raises what `rows_of` raises."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    rows = jax.eval_shape(lambda data, key: rows_of(tasks, data, one, key), data, key)
    return jax.tree.map(lambda of: jax.ShapeDtypeStruct((rows.size, *of.shape), of.dtype), one)


def can_be_gathered(tasks: Tasks, data: PyTree) -> bool:
    """Whether the data have one pool, and an episode draws from it once. Traces only."""
    if len(pools(data)) != 1:
        return False
    try:
        of_an_episode(tasks, without_examples(data), one_of(examples_of(pools(data)[0])))
    except Exception:  # whatever a task distribution of the user's own does
        return False
    return True


def at(data: PyTree, number: Array | int, task: Array | int) -> PyTree:
    """What `sample` is given for a task of the meta-step, or of the row, of that number.

    `task` counts all of them; of those that a device has, it takes the one in that place. Other data are given as
    they are.
    """

    def found(part: Any) -> Any:
        if not (is_pool(part) and is_gathered(part.x)):
            return part

        def of_task(every: Array) -> Array:
            of_number = jax.lax.dynamic_index_in_dim(every, number - part.x.first, keepdims=False)
            return of_number[task % len(of_number)]

        examples = jax.tree.map(of_task, part.x.examples)

        def places(rows: Array) -> Array:
            if rows.size != len(examples.x):
                raise ValueError(f"{rows.size} examples are drawn where {len(examples.x)} were gathered")
            return jnp.arange(rows.size).reshape(rows.shape)

        return part._replace(**examples._asdict(), places=places)

    return jax.tree.map(found, data, is_leaf=is_pool)


def within(data: PyTree, step: Array, n: Array) -> Array:
    """n, or 0 where what was gathered begins after `step`: the call before this one has ended early, and so does this.

    With other data each call can make any meta-step.
    """
    found = [part for part in jax.tree.leaves(data, is_leaf=is_gathered) if is_gathered(part)]
    return jnp.where(step < found[0].first, 0, n) if found else n


def shares(data: PyTree) -> PyTree:
    """How an argument `data` is laid on the devices: what is gathered, each device's tasks on it; all else whole."""

    def share(part: Any) -> Any:
        return Gathered(jax.tree.map(lambda _: P(None, "tasks"), part.examples), P()) if is_gathered(part) else P()  # type: ignore[arg-type]

    return jax.tree.map(share, data, is_leaf=is_gathered)
