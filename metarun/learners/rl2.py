"""RL^2: a network that learns each task while it acts, in its memory alone. Duan et al. 2016."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import acting, inner
from metarun.core import (
    Array,
    Batch,
    ConfigError,
    Count,
    Episode,
    InTrials,
    Key,
    Metrics,
    Net,
    NonNegative,
    PyTree,
    Share,
    Tasks,
    name_of,
)
from metarun.memories import Memory


class Kept(NamedTuple):
    """Of each of n trajectories."""

    recent: list[Array]  # observations (n, ...), the newest first: 0 before the trial
    memory: PyTree


@dataclass(frozen=True)
class RL2:
    """Meta-learns a memory over the steps of a trial, whose actions and rewards it sees: a GRU, or attention.

    The support set is not used: the memory is blank where a trial begins, and what is learned within it is kept there.
    It follows the policy's gradient on whole trials, as of one task with so many states. Advantages are generalised,
    over values that are linear in what the policy is linear in; those are in units of the trial's length.
    """

    memory: Memory
    discount: Share  # gamma
    gae_lambda: Share
    value_weight: NonNegative  # of the values' squared error, beside the policy's loss
    recent: Count = 1  # observations that the model sees at once: this one and those before it
    through_adapt = True  # there is none
    network, critic = "encoder", "value"

    def __post_init__(self) -> None:
        if not isinstance(self.memory, Memory):
            name = type(self.memory).__name__
            raise ConfigError("memory._target_", name, "a memory, e.g. metarun.memories.gru.GRU")

    def check(self, tasks: Tasks) -> None:
        if not isinstance(tasks, InTrials):
            allowed = f"learns within trials that tell of rewards, as bandits have, and {name_of(tasks)} has none"
            raise ConfigError("learner", "rl2", allowed)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder of what is seen."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_encoder, k_memory, k_policy = jax.random.split(key, 3)
        assert net.trial is not None
        x = jnp.concatenate([x] * self.recent, axis=-1)
        encoder = net.init(k_encoder, x)
        width, units = jax.eval_shape(net.features, encoder, x).shape[1], self.memory.units
        kernel = nn.initializers.orthogonal()(k_policy, (units, net.n_out))
        return {
            "encoder": encoder,
            "memory": self.memory.init(k_memory, width, net.trial),
            "policy": {"kernel": kernel, "bias": jnp.zeros(net.n_out)},
            "value": {"kernel": jnp.zeros((units, 1)), "bias": jnp.zeros(1)},
        }

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        return params

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return self.read(net, fast, x)[0]

    def blank(self, net: Net, fast: PyTree, x: Array) -> Kept:
        assert net.trial is not None
        return Kept([jnp.zeros_like(x)] * (self.recent - 1), self.memory.blank(len(x), net.trial))

    def remember(self, net: Net, fast: PyTree, kept: Kept, x: Array) -> tuple[Array, Kept]:
        recent = [x, *kept.recent]
        z = net.features(fast["encoder"], jnp.concatenate(recent, axis=-1))
        features, memory = self.memory.step(fast["memory"], kept.memory, z)
        return inner.linear(fast["policy"], features), Kept(recent[:-1], memory)

    def read(self, net: Net, params: PyTree, x: Array) -> tuple[Array, Array]:
        """x of whole trials (n * trial, ...) -> outputs (n * trial, n_out) and values (n * trial,)."""
        assert net.trial is not None
        trials = x.reshape(-1, net.trial, *x.shape[1:])
        blank = jnp.zeros_like(trials[:, :1])
        recent = [trials]
        for _ in range(self.recent - 1):
            recent.append(jnp.concatenate([blank, recent[-1][:, :-1]], axis=1))
        z = net.features(params["encoder"], jnp.concatenate(recent, axis=-1).reshape(len(x), *x.shape[1:-1], -1))
        features = self.memory.read(params["memory"], z.reshape(-1, net.trial, z.shape[-1]))
        features = features.reshape(-1, self.memory.units)
        return inner.linear(params["policy"], features), net.trial * inner.linear(params["value"], features)[:, 0]

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def task_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
            collected = inner.queries(self, net, params, episode.query, key)
            outputs, values = self.read(net, params, collected.x)
            _, y = self.over(net, values, collected)
            value_loss = self.error(net, values, y)
            loss, metrics = net.loss(outputs, y)
            return loss + self.value_weight * value_loss, metrics | {"value_loss": value_loss}

        return inner.mean_grad(task_loss, params, episodes, keys)

    def judged(self, net: Net, params: PyTree, examples: Batch) -> Batch:
        return self.over(net, self.read(net, params, examples.x)[1], examples)

    def value_loss(self, net: Net, params: PyTree, examples: Batch) -> Array:
        return self.error(net, self.read(net, params, examples.x)[1], examples.y)

    def over(self, net: Net, values: Array, examples: Batch) -> Batch:
        """The examples, with advantages over these values (steps,)."""
        y: Any = examples.y  # acting.Steps
        assert net.trial is not None
        now, reward, valid = (leaf.reshape(-1, net.trial) for leaf in (values, y.reward, y.valid))
        advantage = acting.generalised(jax.lax.stop_gradient(now), reward, valid, self.discount, self.gae_lambda)
        return Batch(examples.x, y._replace(advantage=advantage.reshape(-1)))

    def error(self, net: Net, values: Array, y: Any) -> Array:
        """(): the mean squared error of `values` by those that they were and the advantages over these."""
        assert net.trial is not None
        return acting.mean_of_valid(jnp.square((values - jax.lax.stop_gradient(values) - y.advantage) / net.trial), y)
