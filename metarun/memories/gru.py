"""A gated recurrent unit. Cho et al. 2014; RL^2's memory in Duan et al. 2016."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import sequence
from metarun.core import Array, Count, Key, PyTree


@dataclass(frozen=True)
class GRU:
    """What is kept is its state (n, units), which is the feature, too.

    At the start units remember for times up to that of a sequence, as in Tallec and Ollivier 2018 (equation 16): with
    biases of 0 they would forget a half at every step. Uniform times are theirs. Then hardly a unit is new at every
    step, and what depends on the present, as an action on a state, is learned late; with a uniform logarithm of the
    times there are as many units for the last step or two as for any doubling of that.
    """

    units: Count
    times: Literal["uniform", "logarithmic"] = "uniform"

    def init(self, key: Key, width: int, length: int) -> PyTree:
        k_inputs, k_hidden, k_keep = jax.random.split(key, 3)
        longest = max(length - 1, 1)
        if self.times == "uniform":
            keep = jnp.log(jax.random.uniform(k_keep, (self.units,), minval=1, maxval=longest))
        else:
            keep = jax.random.uniform(k_keep, (self.units,), maxval=math.log(longest))
        square = nn.initializers.orthogonal()
        return {
            "inputs": nn.initializers.lecun_normal()(k_inputs, (width, 3 * self.units)),
            "bias": jnp.zeros(3 * self.units).at[self.units : 2 * self.units].set(keep),
            "hidden": jnp.concatenate(
                [square(k, (self.units, self.units)) for k in jax.random.split(k_hidden, 3)], axis=1
            ),
        }

    def blank(self, n: int, length: int) -> Array:
        return jnp.zeros((n, self.units))

    def step(self, params: PyTree, kept: Array, z: Array) -> tuple[Array, Array]:
        kept, features = self.steps(params, kept, z[None])
        return features[0], kept

    def read(self, params: PyTree, z: Array) -> Array:
        _, features = self.steps(params, self.blank(*z.shape[:2]), z.swapaxes(0, 1))
        return features.swapaxes(0, 1)

    def steps(self, params: PyTree, kept: Array, inputs: Array) -> tuple[Array, Array]:
        """inputs (length, n, width) -> the state after them (n, units), and that after each of them."""
        added = sequence.affine(inputs, params["inputs"], params["bias"])
        gates, candidate = jnp.split(added, [2 * self.units], axis=-1)
        of_gates, of_candidate = jnp.split(params["hidden"], [2 * self.units], axis=-1)
        matrices = {"gates": of_gates, "candidate": of_candidate}
        return sequence.scan(one_step, kept, matrices, {"gates": gates, "candidate": candidate})


def one_step(product: sequence.Product, kept: Array) -> tuple[Array, Array]:
    reset, keep = jnp.split(nn.sigmoid(product("gates", kept)), 2, axis=-1)
    kept = keep * kept + (1 - keep) * jnp.tanh(product("candidate", reset * kept))
    return kept, kept
