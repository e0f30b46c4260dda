"""Many runs in one program: their states stacked, and cut out of the stack again.

Runs that differ in numbers and seeds alone have the same program (engine.program): a leading axis for them makes of
many small operations fewer larger ones, which is what a small network lacks.
"""

from collections.abc import Sequence
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metarun.core import Array, PyTree, State
from metarun.engine.send import send


def of_members(mesh: Mesh, members: int) -> Mesh:
    """The same devices for so many runs, shared out evenly; where that leaves devices over, some share a run's tasks.

    A device that has a run's tasks all for itself need not agree with others on a gradient.
    """
    rows = gcd(mesh.size, members)
    return Mesh(mesh.devices.reshape(rows, -1), ("members", "tasks"))


def stacked(trees: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """One tree for those of the runs, a leading axis before each leaf, shared out on a mesh `of_members`."""
    where = NamedSharding(mesh, P("members"))

    def one(*leaves: Any) -> Any:
        if isinstance(leaves[0], jax.Array) and jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            data = np.stack([jax.device_get(jax.random.key_data(key)) for key in leaves])
            return jax.random.wrap_key_data(jax.device_put(data, where), impl=jax.random.key_impl(leaves[0]))
        if isinstance(leaves[0], float):  # a number of Python's takes the type of what it meets, bfloat16, say
            return jax.device_put(jnp.stack([jnp.asarray(leaf) for leaf in leaves]), where)
        together = np.stack(jax.device_get(leaves))
        return jax.device_put(together.astype(jax.dtypes.canonicalize_dtype(together.dtype)), where)

    return jax.tree.map(one, *trees)


def cut(tree: PyTree, member: int) -> PyTree:
    """What of a stacked tree, on the host, is one run's."""
    return jax.tree.map(lambda leaf: leaf[member], tree)


def _at_zero(state: State, which: Array) -> State:
    def zero(leaf: Array) -> Array:
        return jnp.where(which.reshape(-1, *(1 for _ in leaf.shape[1:])), jnp.zeros_like(leaf), leaf)

    sums, summed = jax.tree.map(zero, (state.sums, state.summed))
    return state._replace(sums=sums, summed=summed)


_of_them = jax.jit(_at_zero, donate_argnums=0)


def at_zero(state: State, which: np.ndarray) -> State:
    """The stacked state with nothing summed of `which` runs, (members,) bool, in the memory of the one given."""
    return send(_of_them, state, which)
