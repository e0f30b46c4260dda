"""The way from the host to the devices: whole trees, one program each, and never many programs at once.

XLA's CPU client lets 32 programs be in flight on a device and makes the launch of one more wait. If the programs before
it wait for a meta-step, that meta-step's launch gets through on one device, waits for a place on the other, and the
first waits for the other in the all-reduce: nobody moves. A copy of the state by `jax.tree.map(jnp.copy, state)` is a
program a leaf, and was enough. So whatever the host asks of the devices is ONE compiled program over the whole tree,
and goes through `send`, which has at most AT_ONCE of them unfinished.

The one exception is the small program that tells which rows coming episodes draw (engine.source): a thread of its own
calls it on one device, and waits for it before the next, so it is one more at most.
"""

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metarun.core import PyTree, State
from metarun.engine import hosts

AT_ONCE = 4  # the meta-steps under way and the ones after them, each with a copy of the state

_unfinished: deque[Any] = deque()  # of every program sent, what tells that it is done


def send(program: Callable[..., Any], *arguments: Any) -> Any:
    """program(*arguments), launched once fewer than AT_ONCE of the programs sent before it are unfinished.

    What comes back is not waited for. The bound is of the process, as XLA's is: one thread may send.
    """
    # What is deleted was given on to a later program, which is waited for in its turn.
    while _unfinished and (_unfinished[0].is_deleted() or _unfinished[0].is_ready()):
        _unfinished.popleft()
    while len(_unfinished) >= AT_ONCE:
        done = _unfinished.popleft()
        if not done.is_deleted():
            done.block_until_ready()
    out = program(*arguments)
    leaves = [leaf for leaf in jax.tree.leaves(out) if isinstance(leaf, jax.Array)]
    _unfinished.extend(leaves[-1:])
    return out


@jax.jit
def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def copied(tree: PyTree) -> PyTree:
    """A copy of every leaf: what may still be looked at when the original's memory has gone into the next call."""
    return send(_copied, tree)


def _with_sums_at_zero(state: State) -> State:
    sums, summed = jax.tree.map(jnp.zeros_like, (state.sums, state.summed))
    return state._replace(sums=sums, summed=summed)


_sums_at_zero = jax.jit(_with_sums_at_zero, donate_argnums=0)


def sums_at_zero(state: State) -> State:
    """The state with nothing summed, in the memory of the one given."""
    return send(_sums_at_zero, state)


def placed(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree, whole, on each of the mesh's devices. It goes by the host: a transfer, and no program."""
    return put(jax.device_get(tree), NamedSharding(mesh, P()))


def put(tree: PyTree, where: PyTree) -> PyTree:
    """A tree of the host's on devices, as one sharding says or one for each leaf; of several processes each has it."""
    if not hosts.are_several():
        return jax.device_put(tree, where)
    shardings = jax.tree.map(lambda _: where, tree) if isinstance(where, NamedSharding) else where

    def of_all(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(of_all, tree, shardings)


def on_host(tree: PyTree) -> PyTree:
    """The values of a program's results, on the host; where processes have a part each, all parts in every one."""
    if not hosts.are_several():
        return jax.device_get(tree)
    return jax.device_get(send(_whole_on_each(jax.tree.leaves(tree)[0].sharding.mesh), tree))


@lru_cache
def _whole_on_each(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def to_be_placed(tree: PyTree, mesh: Mesh) -> PyTree:
    """What stands for `placed(tree, mesh)` where a program is compiled ahead."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        aval = jax.typeof(leaf)  # of an array on the host: as it will be on a device
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=NamedSharding(mesh, P()))

    return jax.tree.map(shape, tree)
