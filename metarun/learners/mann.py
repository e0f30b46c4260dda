"""Memory-augmented neural networks with least-recently-used access. Santoro et al. 2016."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import sequence
from metarun.core import Array, ConfigError, Count, Key, NonNegative, Positive, PyTree, Share, Tasks
from metarun.label_codes import Code


class Carry(NamedTuple):
    """What the network remembers from one step to the next."""

    lstm: tuple[Array, Array]  # (units,) each
    memory: Array  # M (slots, width)
    usage: Array  # w^u (slots,)
    read_weights: Array  # w^r (heads, slots)
    read: Array  # r (heads * width,)


def cosine(keys: Array, memory: Array) -> Array:
    """Equation 2: keys (..., heads, width), memory (..., slots, width) -> similarities (..., heads, slots)."""

    def inverse_norm(v: Array) -> Array:
        return jax.lax.rsqrt(jnp.square(v).sum(-1) + 1e-6)  # an empty slot is like nothing

    similar = keys @ memory.swapaxes(-1, -2)
    return similar * inverse_norm(keys)[..., None] * inverse_norm(memory)[..., None, :]


def least_used(usage: Array, heads: int) -> Array:
    """Equation 6: usage (..., slots) -> one-hot rows (..., heads, slots), the least used slot first."""
    return jax.nn.one_hot(jax.lax.top_k(-usage, heads)[1], usage.shape[-1], dtype=usage.dtype)


@dataclass(frozen=True)
class MANN:
    """Meta-learns a recurrent network that binds what it sees to labels in an external memory, to be found again.

    An episode is one sequence of all its examples, each with the label of the one before it (figure 1), and every
    step counts in the loss. To adapt is to run over the support set; a query is one more step from there.
    """

    units: Count  # of the LSTM controller
    memory: tuple[Count, Count]  # slots, and the width of a slot
    heads: Count  # that read and write
    usage_decay: Share  # gamma
    sharpness: Positive  # similarities are multiplied by it before the softmax; equation 3 has 1
    label_width: Count  # most ways there may be
    # As runs were that have no key for it; so are all the next.
    code: Code = "one_hot"  # of labels: one-hot numbers, or strings of letters
    labels: sequence.Labels = "balanced"
    standardise: bool = True  # inputs, each example's alone
    forget_bias: float = 0.0
    written: Literal["key", "own"] = "key"  # what a head writes: its key (equation 8), or a vector of its own
    addressed: Literal["before", "after"] = "after"  # reading weights are found in the memory before, or after writing
    free: Literal["each", "all"] = "each"  # a head may write in one of the least used slots, or in all (equation 6)
    emptied: Literal["one", "all"] = "all"  # of the least used slots, before anything is written
    memory_start: NonNegative = 0.0  # in all of an empty memory
    weights_start: Literal["none", "first"] = "none"  # which slot counts as read and used before anything was
    network = "encoder"

    def __post_init__(self) -> None:
        if self.heads > self.memory[0]:
            raise ConfigError("heads", self.heads, f"at most {self.memory[0]}, the slots of the memory")

    def check(self, tasks: Tasks) -> None:
        sequence.check(self, self.label_width, tasks, self.code)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder."""

    def reader(self) -> sequence.Reader:
        return sequence.Reader(
            self.parameters, self.prepare, self.step, self.blank(), self.told_width, self.labels, self.standardise,
            self.code,
        )  # fmt: skip

    @property
    def told_width(self) -> int:
        return sequence.told_width(self.code, self.label_width)

    def blank(self) -> Carry:
        slots, width = self.memory
        first = jnp.zeros(slots).at[0].set(1.0 if self.weights_start == "first" else 0.0)
        return Carry(
            lstm=(jnp.zeros(self.units), jnp.zeros(self.units)),
            memory=jnp.full((slots, width), self.memory_start),
            usage=first,
            read_weights=jnp.tile(first, (self.heads, 1)),
            read=jnp.zeros(self.heads * width),
        )

    def parameters(self, key: Key, width: int) -> PyTree:
        """The parameters of controller, memory and labels, for inputs (width,)."""
        k_lstm, *keys = jax.random.split(key, 5)
        read = self.heads * self.memory[1]
        layers = {"keys": read, "gate": self.heads} | ({"writes": read} if self.written == "own" else {})
        hidden, features = jnp.zeros(self.units), jnp.zeros(self.units + read)
        return {
            "lstm": sequence.lstm_parameters(k_lstm, width + read, self.units, self.forget_bias),
            "labels": nn.Dense(self.told_width).init(keys[0], features)["params"],
            **{
                name: nn.Dense(size).init(k, hidden)["params"]
                for k, (name, size) in zip(keys[1:], layers.items(), strict=False)
            },
        }

    def prepare(self, cell: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
        of_inputs, of_hidden, bias = sequence.lstm_kernels(cell["lstm"])
        width = inputs.shape[-1]
        layers = [cell[name] for name in ("gate", "keys", "writes") if name in cell]
        heads, of_heads = (jnp.concatenate([layer[part] for layer in layers], axis=-1) for part in ("kernel", "bias"))
        matrices = {"gates": jnp.concatenate([of_inputs[width:], of_hidden]), "heads": heads}
        rows = jnp.broadcast_to(of_heads, (*inputs.shape[:-1], len(of_heads)))
        return matrices, {"gates": sequence.affine(inputs, of_inputs[:width], bias), "heads": rows}

    def step(self, product: sequence.Product, carry: Carry) -> tuple[Carry, Array]:
        """One step of controller and memory: carry -> the next, and [hidden, read]."""
        cell, hidden = carry.lstm
        cell, hidden = sequence.lstm_step(cell, product("gates", jnp.concatenate([carry.read, hidden], axis=-1)))
        ends = [self.heads, self.heads * (1 + self.memory[1])]
        gate, *vectors = jnp.split(product("heads", hidden), ends, axis=-1)
        keys, *own = (jnp.tanh(v).reshape(*v.shape[:-1], self.heads, -1) for v in vectors if v.shape[-1])
        carry = carry._replace(lstm=(cell, hidden))
        carry = self.access(carry, keys, own[0] if own else keys, nn.sigmoid(gate)[..., None])
        return carry, jnp.concatenate([hidden, carry.read], axis=-1)

    def access(self, carry: Carry, keys: Array, written: Array, gate: Array) -> Carry:
        """Writes `written` (..., heads, width) and reads by `keys`, as many; `gate` (..., heads, 1): sigma(alpha)."""
        least = least_used(carry.usage, self.heads)  # w^lu, by the usage before this step
        free = least if self.free == "each" else least.sum(-2, keepdims=True)
        write_weights = gate * carry.read_weights + (1 - gate) * free  # eq. 7
        # Of the least used slots, those to be emptied are set to zero before anything is written (section 3.2).
        emptied = least.sum(-2) if self.emptied == "all" else least[..., 0, :]
        memory = carry.memory * (1 - emptied)[..., None] + write_weights.swapaxes(-1, -2) @ written  # eq. 8
        addressed = carry.memory if self.addressed == "before" else memory
        read_weights = jax.nn.softmax(self.sharpness * cosine(keys, addressed))  # eq. 3
        used = jax.lax.stop_gradient(read_weights.sum(-2) + write_weights.sum(-2))  # it decides on slots alone
        usage = self.usage_decay * carry.usage + used  # eq. 5
        read = read_weights @ memory  # eq. 4
        return Carry(carry.lstm, memory, usage, read_weights, read.reshape(*read.shape[:-2], -1))

    init, adapt, predict = sequence.init, sequence.adapt, sequence.predict
    meta_grad, measure = sequence.meta_grad, sequence.measure
