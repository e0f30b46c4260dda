"""RL^2: a recurrent network that learns each task while it acts, in its memory alone. Duan et al. 2016."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import acting, inner, sequence
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
)


@dataclass(frozen=True)
class RL2:
    """Meta-learns a GRU (Cho et al. 2014) over the steps of a trial, whose actions and rewards it sees.

    The support set is not used: the memory is empty where a trial begins, and what is learned within it is kept there.
    The GRU follows the policy's gradient on whole trials, as of one task with so many states. Advantages are
    generalised, over values that the network tells, too; those are in units of the trial's length.
    """

    units: Count
    discount: Share  # gamma
    gae_lambda: Share
    value_weight: NonNegative  # of the values' squared error, beside the policy's loss

    def check(self, tasks: Tasks) -> None:
        if not isinstance(tasks, InTrials):
            task = type(tasks).__module__.rpartition(".")[2]
            allowed = f"learns within trials that tell of rewards, and {task} has none; use bandits or tabular_mdp"
            raise ConfigError("learner", "rl2", allowed)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder of what is seen."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_encoder, k_inputs, k_hidden, k_policy = jax.random.split(key, 4)
        encoder = net.init(k_encoder, x)
        width, units = jax.eval_shape(net.features, encoder, x).shape[1], self.units
        square = nn.initializers.orthogonal()
        return {
            "encoder": encoder,
            "gru": {
                "inputs": nn.initializers.lecun_normal()(k_inputs, (width, 3 * units)),
                "bias": jnp.zeros(3 * units),
                "hidden": jnp.concatenate([square(k, (units, units)) for k in jax.random.split(k_hidden, 3)], axis=1),
            },
            "policy": {"kernel": square(k_policy, (units, net.n_out)), "bias": jnp.zeros(net.n_out)},
            "value": {"kernel": jnp.zeros((units, 1)), "bias": jnp.zeros(1)},
        }

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        return params

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return self.read(net, fast, x)[0]

    def memory(self, net: Net, fast: PyTree, n: int) -> Array:
        return jnp.zeros((n, self.units))

    def remember(self, net: Net, fast: PyTree, memory: Array, x: Array) -> tuple[Array, Array]:
        memory, hidden = steps(fast["gru"], memory, net.features(fast["encoder"], x)[None])
        return inner.linear(fast["policy"], hidden[0]), memory

    def read(self, net: Net, params: PyTree, x: Array) -> tuple[Array, Array]:
        """x of whole trials (n * trial, ...) -> outputs (n * trial, n_out) and values (n * trial,).

        Trials go side by side through one scan.
        """
        assert net.trial is not None
        z = net.features(params["encoder"], x)
        side_by_side = z.reshape(-1, net.trial, z.shape[-1]).swapaxes(0, 1)
        _, hidden = steps(params["gru"], self.memory(net, params, side_by_side.shape[1]), side_by_side)
        hidden = hidden.swapaxes(0, 1).reshape(-1, self.units)
        return inner.linear(params["policy"], hidden), net.trial * inner.linear(params["value"], hidden)[:, 0]

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def task_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
            x, collected = inner.queries(self, net, params, episode.query, key)
            y: Any = collected  # acting.Steps
            outputs, values = self.read(net, params, x)
            assert net.trial is not None
            told, reward, valid = (leaf.reshape(-1, net.trial) for leaf in (values, y.reward, y.valid))
            now = jax.lax.stop_gradient(told)
            advantage = acting.generalised(now, reward, valid, self.discount, self.gae_lambda)
            errors = jnp.where(valid, jnp.square((told - now - advantage) / net.trial), 0)
            value_loss = errors.sum() / valid.sum()
            loss, metrics = net.loss(outputs, y._replace(advantage=advantage.reshape(-1)))
            return loss + self.value_weight * value_loss, metrics | {"value_loss": value_loss}

        return inner.mean_grad(task_loss, params, episodes, keys)


def steps(gru: PyTree, memory: Array, inputs: Array) -> tuple[Array, Array]:
    """inputs (n, ..., d) -> the memory after them (..., units), and that after each of them (n, ..., units)."""
    units = gru["hidden"].shape[0]
    gates, candidate = jnp.split(sequence.affine(inputs, gru["inputs"], gru["bias"]), [2 * units], axis=-1)
    of_gates, of_candidate = jnp.split(gru["hidden"], [2 * units], axis=-1)
    matrices = {"gates": of_gates, "candidate": of_candidate}
    return sequence.scan(one_step, memory, matrices, {"gates": gates, "candidate": candidate})


def one_step(product: sequence.Product, memory: Array) -> tuple[Array, Array]:
    reset, keep = jnp.split(nn.sigmoid(product("gates", memory)), 2, axis=-1)
    memory = keep * memory + (1 - keep) * jnp.tanh(product("candidate", reset * memory))
    return memory, memory
