"""A learner whose meta-step never comes back from the device, where a variable of the environment says so."""

import os
import threading
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from metarun.core import Array, Episode, Key, Metrics, Net, PyTree
from metarun.learners.maml import MAML


def wait(step: Array) -> np.ndarray:
    if str(int(step)) == os.environ.get("HANGS_AT"):
        threading.Event().wait()
    return np.float32(0)


@dataclass(frozen=True)
class Hanging(MAML):
    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        nothing = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), step)
        grads, metrics = super().meta_grad(net, params, episodes, keys, step)
        return jax.tree.map(lambda g: g + nothing, grads), metrics
