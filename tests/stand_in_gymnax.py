"""Stands for gymnax where that is not installed: its interface, and two walkers on a line under its own names."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

registered_envs = ["CartPole-v1", "Pendulum-v1"]


@struct.dataclass
class Parameters:
    length: float = 0.5  # of a step
    slope: float = 0.0
    max_steps_in_episode: int = 200


class State(NamedTuple):
    x: Any
    time: Any


class Discrete(NamedTuple):
    n: int
    shape: tuple[int, ...] = ()


class Box(NamedTuple):
    low: float
    high: float
    shape: tuple[int, ...]


class Walker:
    """A step to the right or to the left; it ends beyond 1, and each step is paid 1."""

    def action_space(self, params: Parameters) -> Any:
        return Discrete(2)

    def reset_env(self, key: jax.Array, params: Parameters) -> tuple[jax.Array, State]:
        x = params.slope + jax.random.uniform(key, minval=-0.05, maxval=0.05)
        return jnp.stack([x, 0.0]), State(x, 0)

    def moved(self, action: jax.Array, params: Parameters) -> Any:
        return params.length * (2 * action - 1)

    def step_env(self, key: jax.Array, state: State, action: jax.Array, params: Parameters) -> tuple[Any, ...]:
        after = State(state.x + self.moved(action, params) + params.slope, state.time + 1)
        return jnp.stack([after.x, 1.0 * after.time]), after, jnp.array(1.0), jnp.abs(after.x) > 1, {}

    def is_truncated(self, state: State, params: Parameters) -> jax.Array:
        return state.time >= params.max_steps_in_episode


class FineWalker(Walker):
    """Steps of any length up to `length`, in either direction."""

    def action_space(self, params: Parameters) -> Any:
        return Box(-1.0, 1.0, (1,))

    def moved(self, action: jax.Array, params: Parameters) -> Any:
        return params.length * action[0]


def make(name: str) -> tuple[Walker, Parameters]:
    return {"CartPole-v1": Walker, "Pendulum-v1": FineWalker}[name](), Parameters()
