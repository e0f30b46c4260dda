"""What learners that read an episode as a sequence share: a recurrent network over its examples, labels one step late.

Santoro et al. 2016, section 2: the inputs are (x_1, null), (x_2, y_1), ..., (x_T, y_T-1), so an answer must come from
what was seen before. The classes of an episode have a new random order, so labels are bound to classes anew each time.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import inner
from metarun.core import Array, Batch, ConfigError, Episode, Key, Metrics, Net, PyTree, Tasks, examples, must_classify


class Reader(NamedTuple):
    """A recurrent network and the state in which it begins an episode."""

    cell: nn.Module  # (carry, input (d,)) -> (carry, outputs (label_width,))
    blank: PyTree
    label_width: int


class Memory(NamedTuple):
    """What a reader knows after a support set."""

    params: PyTree
    carry: PyTree
    label: Array  # (label_width,): the last label, which comes with the next input


def check(learner: object, label_width: int, tasks: Tasks) -> None:
    """Raises ConfigError unless the tasks are classifications of at most `label_width` ways."""
    must_classify(learner, tasks)
    if tasks.n_out > label_width:
        raise ConfigError(
            "learner.label_width", label_width, f"at least {tasks.n_out}, the task's ways: its labels are one-hot"
        )


def init(reader: Reader, net: Net, key: Key, x: Array) -> PyTree:
    """{"encoder": the model's parameters, "cell": the reader's}."""
    k_encoder, k_cell = jax.random.split(key)
    encoder = net.init(k_encoder, x)
    inputs, _ = one_step_late(embed(net, encoder, x[:1]), jnp.zeros(1, jnp.int32), reader.label_width)
    return {"encoder": encoder, "cell": reader.cell.init(k_cell, reader.blank, inputs[0])["params"]}


def adapt(reader: Reader, net: Net, params: PyTree, support: Batch, key: Key) -> Memory:
    """The reader's memory after the support set, read in a random order."""
    carry, _, label = read(reader, net, params, shuffled(support, key))
    return Memory(params, carry, label)


def predict(reader: Reader, net: Net, memory: Memory, x: Array) -> Array:
    """x (n, ...) -> logits (n, net.n_out): each query is one more step from the memory, and leaves no trace in it."""

    def one(z: Array) -> Array:
        return step(reader, memory.params, memory.carry, jnp.concatenate([z, memory.label]))[1]

    return jax.vmap(one)(embed(net, memory.params["encoder"], x))[:, : net.n_out]


def meta_grad(reader: Reader, net: Net, params: PyTree, episodes: Episode, keys: Key) -> tuple[PyTree, Metrics]:
    """The gradient of the loss at every step of the sequence, and metrics: means over tasks."""

    def sequence_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
        batch = whole(episode, key)
        outputs = read(reader, net, params, batch)[1]
        return net.loss(outputs[:, : net.n_out], batch.y)

    return inner.mean_grad(sequence_loss, params, episodes, keys)


def measure(reader: Reader, net: Net, params: PyTree, episode: Episode, key: Key) -> Metrics:
    """Accuracy by instance over the whole episode as one sequence, as the paper reports it."""
    batch = whole(episode, key)
    return instance_accuracy(read(reader, net, params, batch)[1], batch.y, net.n_out)


def read(reader: Reader, net: Net, params: PyTree, batch: Batch) -> tuple[PyTree, Array, Array]:
    """(carry at the end, outputs (n, label_width), the last label), after one scan over the batch in its order."""
    z = embed(net, params["encoder"], batch.x)
    inputs, last = one_step_late(z, batch.y, reader.label_width)
    carry, outputs = jax.lax.scan(lambda carry, x: step(reader, params, carry, x), reader.blank, inputs)
    return carry, outputs, last


def embed(net: Net, encoder: PyTree, x: Array) -> Array:
    """x (n, ...) -> features (n, d), each example's with mean 0 and variance 1.

    A convolution's features are positive and much alike, and a recurrent network takes very long to tell them apart.
    A single feature stays as it is.
    """
    z = net.features(encoder, x)
    return jax.nn.standardize(z, epsilon=1e-3) if z.shape[1] > 1 else z


def step(reader: Reader, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, Array]:
    return reader.cell.apply({"params": params["cell"]}, carry, x)  # type: ignore[return-value]


def one_step_late(z: Array, y: Array, label_width: int) -> tuple[Array, Array]:
    """z (n, d), y (n,) -> inputs (n, d + label_width), each z_t with the label before it; and the last label."""
    labels = jax.nn.one_hot(y, label_width, dtype=z.dtype)
    return jnp.concatenate([z, jnp.roll(labels, 1, axis=0).at[0].set(0.0)], axis=1), labels[-1]


def shuffled(batch: Batch, key: Key) -> Batch:
    """The batch in a random order: an episode stands class by class, and a sequence must not."""
    order = jax.random.permutation(key, len(batch.y))
    return Batch(batch.x[order], batch.y[order])


def whole(episode: Episode, key: Key) -> Batch:
    """All examples of an episode, support and query alike, in a random order."""
    return shuffled(examples(episode), key)


def instance_accuracy(outputs: Array, y: Array, ways: int) -> Metrics:
    """{"accuracy_instance_01": ...}: accuracy at the first, second, ... time that a class is seen (table 1).

    outputs (n, at least ways) and y (n,) in the order of the sequence, every class as often: n / ways times.
    """
    seen = jnp.cumsum(jax.nn.one_hot(y, ways), axis=0)  # (n, ways)
    instance = jnp.take_along_axis(seen, y[:, None], axis=1)[:, 0]
    right = (outputs[:, :ways].argmax(-1) == y).astype(outputs.dtype)
    return {
        f"accuracy_instance_{k:02}": jnp.where(instance == k, right, 0.0).sum() / ways
        for k in range(1, len(y) // ways + 1)
    }
