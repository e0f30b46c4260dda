"""Memory-augmented neural networks with least-recently-used access. Santoro et al. 2016."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from metarun import sequence
from metarun.core import Array, Batch, ConfigError, Count, Episode, Key, Metrics, Net, Positive, PyTree, Tasks


class Carry(NamedTuple):
    """What the network remembers from one step to the next."""

    lstm: tuple[Array, Array]  # (units,) each
    memory: Array  # M (slots, width)
    usage: Array  # w^u (slots,)
    read_weights: Array  # w^r (heads, slots)
    read: Array  # r (heads * width,)


def cosine(keys: Array, memory: Array) -> Array:
    """Equation 2: keys (heads, width), memory (slots, width) -> similarities (heads, slots)."""

    def inverse_norm(v: Array) -> Array:
        return jax.lax.rsqrt(jnp.square(v).sum(-1) + 1e-6)  # an empty slot is like nothing

    return keys @ memory.T * inverse_norm(keys)[:, None] * inverse_norm(memory)[None]


def least_used(usage: Array, heads: int) -> Array:
    """Equation 6: usage (slots,) -> one-hot rows (heads, slots). The h-th least used slot is head h's to write in."""
    return jax.nn.one_hot(jax.lax.top_k(-usage, heads)[1], len(usage), dtype=usage.dtype)


def access(carry: Carry, keys: Array, gate: Array, usage_decay: float, sharpness: float) -> Carry:
    """Writes `keys` (heads, width) into the memory, then reads by them; `gate` (heads, 1) is sigma(alpha)."""
    free = least_used(carry.usage, len(keys))  # w^lu, by the usage before this step
    write_weights = gate * carry.read_weights + (1 - gate) * free  # eq. 7
    # The least used slots are set to zero before anything is written (section 3.2).
    memory = carry.memory * (1 - free.sum(0))[:, None] + write_weights.T @ keys  # eq. 8
    read_weights = jax.nn.softmax(sharpness * cosine(keys, memory))  # eq. 3
    usage = usage_decay * carry.usage + read_weights.sum(0) + write_weights.sum(0)  # eq. 5
    return Carry(carry.lstm, memory, usage, read_weights, (read_weights @ memory).reshape(-1))  # eq. 4


class Cell(nn.Module):
    """One step of controller and memory: (carry, input (d,)) -> (carry, outputs (label_width,))."""

    units: int
    heads: int
    usage_decay: float
    sharpness: float
    label_width: int

    @nn.compact
    def __call__(self, carry: Carry, x: Array) -> tuple[Carry, Array]:
        width = carry.memory.shape[1]
        lstm, hidden = nn.OptimizedLSTMCell(self.units, name="lstm")(carry.lstm, jnp.concatenate([x, carry.read]))
        keys = jnp.tanh(nn.Dense(self.heads * width, name="keys")(hidden)).reshape(self.heads, width)
        gate = nn.sigmoid(nn.Dense(self.heads, name="gate")(hidden))[:, None]
        carry = access(carry._replace(lstm=lstm), keys, gate, self.usage_decay, self.sharpness)
        return carry, nn.Dense(self.label_width, name="labels")(jnp.concatenate([hidden, carry.read]))


@dataclass(frozen=True)
class MANN:
    """Meta-learns a recurrent network that binds what it sees to labels in an external memory, to be found again.

    An episode is one sequence of all its examples, each with the label of the one before it (figure 1), and every
    step counts in the loss. To adapt is to run over the support set; a query is one more step from there.
    """

    units: Count  # of the LSTM controller
    memory: tuple[Count, Count]  # slots, and the width of a slot
    heads: Count  # that read and write
    usage_decay: Annotated[float, Ge(0), Le(1)]  # gamma
    sharpness: Positive  # similarities are multiplied by it before the softmax; equation 3 has 1
    label_width: Count  # most ways there may be: labels are one-hot

    def __post_init__(self) -> None:
        if self.heads > self.memory[0]:
            raise ConfigError("heads", self.heads, f"at most {self.memory[0]}, the slots of the memory")

    def check(self, tasks: Tasks) -> None:
        sequence.check(self, self.label_width, tasks)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder."""

    def reader(self) -> sequence.Reader:
        slots, width = self.memory
        blank = Carry(
            lstm=(jnp.zeros(self.units), jnp.zeros(self.units)),
            memory=jnp.zeros((slots, width)),
            usage=jnp.zeros(slots),
            read_weights=jnp.zeros((self.heads, slots)),
            read=jnp.zeros(self.heads * width),
        )
        return sequence.Reader(
            Cell(self.units, self.heads, self.usage_decay, self.sharpness, self.label_width), blank, self.label_width
        )

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return sequence.init(self.reader(), net, key, x)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        return sequence.adapt(self.reader(), net, params, support, key)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return sequence.predict(self.reader(), net, fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return sequence.meta_grad(self.reader(), net, params, episodes, keys)

    def measure(self, net: Net, params: PyTree, episode: Episode, key: Key) -> Metrics:
        return sequence.measure(self.reader(), net, params, episode, key)
