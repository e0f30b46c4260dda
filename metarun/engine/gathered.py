"""Examples that stay on the host: which ones an episode needs, and what stands for them in a compiled program.

An episode looks its examples up once, as `pool.x[rows]`. So a task distribution needs nothing of its own to have more
data than a device holds: to be asked, `sample` is given an x that writes the rows down; in a compiled program it is
given one that has been looked up before. It is the same function, called with the same keys, in both.
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


class Gathered(NamedTuple):
    """An argument of a program, in the place of a pool's x: what its episodes look up, looked up before."""

    x: Array  # (numbers, tasks, ..., *an example's shape): by meta-step, or by row of an evaluation's chunks
    first: Array  # () int32: the number of the first of them


class Found:
    """Stands for x while ONE episode is sampled in a program: what it looks up, whatever rows it says."""

    def __init__(self, x: Array) -> None:
        self.x = x

    def __getitem__(self, rows: Array) -> Array:
        if self.x.shape[: rows.ndim] != rows.shape:
            raise ValueError(f"{rows.shape} examples are asked for where {self.x.shape} were gathered")
        return self.x


class Asked:
    """Stands for x while an episode is asked which rows it needs."""

    def __init__(self, example: jax.ShapeDtypeStruct) -> None:
        self.example, self.rows, self.trace = example, list[Array](), current_trace(convention="flax")

    def __getitem__(self, rows: Array) -> Array:
        if current_trace(convention="flax") != self.trace:  # under a vmap of its own, say: these are not all the rows
            raise TypeError("an episode looks its examples up at once, outside of vmap, scan and jit")
        self.rows.append(rows)
        return jnp.zeros((*rows.shape, *self.example.shape), self.example.dtype)


def pools(data: PyTree) -> list[Pool]:
    leaves = jax.tree.leaves(data, is_leaf=lambda part: isinstance(part, Pool))
    return [leaf for leaf in leaves if isinstance(leaf, Pool)]


def with_x(data: PyTree, x: Any) -> PyTree:
    """The data with another x in their pool."""

    def replaced(part: Any) -> Any:
        return part._replace(x=x) if isinstance(part, Pool) else part

    return jax.tree.map(replaced, data, is_leaf=lambda part: isinstance(part, Pool))


def example_of(x: np.ndarray) -> jax.ShapeDtypeStruct:
    """An example's shape, and its type on a device."""
    return jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype))


def rows_of(tasks: Tasks, data: PyTree, example: jax.ShapeDtypeStruct, key: Key) -> Array:
    """Which rows of x the episode of `key` looks up; of the data only the rest is looked at."""
    asked = Asked(example)
    tasks.sample(with_x(data, asked), key)
    (rows,) = asked.rows
    return rows


def can_be_gathered(tasks: Tasks, data: PyTree) -> bool:
    """Whether the data have one pool, and an episode looks its examples up at once. Traces only."""
    if len(pools(data)) != 1:
        return False
    example = example_of(np.asarray(pools(data)[0].x))
    rest, key = with_x(data, None), jax.eval_shape(lambda: jax.random.key(0))
    try:
        rows = jax.eval_shape(lambda data, key: rows_of(tasks, data, example, key), rest, key)
        found = jax.ShapeDtypeStruct((*rows.shape, *example.shape), example.dtype)
        jax.eval_shape(lambda data, key, x: tasks.sample(with_x(data, Found(x)), key), rest, key, found)
    except Exception:  # whatever a task distribution of the user's own does with what is no array
        return False
    return True


def at(data: PyTree, number: Array | int, task: Array | int) -> PyTree:
    """What `sample` is given for a task of the meta-step, or of the row, of that number.

    `task` counts all of them; of those that a device has, it takes the one in that place. Other data are given as
    they are.
    """

    def found(part: Any) -> Any:
        if not is_gathered(part):
            return part
        of_number = jax.lax.dynamic_index_in_dim(part.x, number - part.first, keepdims=False)
        return Found(of_number[task % len(of_number)])

    return jax.tree.map(found, data, is_leaf=is_gathered)


def within(data: PyTree, step: Array, n: Array) -> Array:
    """n, or 0 where what was gathered begins after `step`: the call before this one has ended early, and so does this.

    With other data each call can make any meta-step.
    """
    found = [part for part in jax.tree.leaves(data, is_leaf=is_gathered) if is_gathered(part)]
    return jnp.where(step < found[0].first, 0, n) if found else n


def is_gathered(part: Any) -> bool:
    return isinstance(part, Gathered)


def shares(data: PyTree) -> PyTree:
    """How an argument `data` is laid on the devices: what is gathered, each device's tasks on it; all else whole."""
    split: Any = Gathered(P(None, "tasks"), P())  # type: ignore[arg-type]
    return jax.tree.map(lambda part: split if is_gathered(part) else P(), data, is_leaf=is_gathered)
