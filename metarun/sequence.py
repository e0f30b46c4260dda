"""What learners that read an episode as a sequence share: a recurrent network over its examples, labels one step late.

Santoro et al. 2016, section 2: the inputs are (x_1, null), (x_2, y_1), ..., (x_T, y_T-1), so an answer must come from
what was seen before. The classes of an episode have a new random order, so labels are bound to classes anew each time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import label_codes
from metarun.core import Array, Batch, ConfigError, Episode, Key, Metrics, Net, PyTree, Tasks, examples, must_classify
from metarun.label_codes import Code

# How a training sequence comes by its labels. `iid`: each step's class is drawn anew, all equally likely, so that how
# often a label was seen says nothing of the next. `balanced`: every example once, in a random order.
Labels = Literal["iid", "balanced"]
Product = Callable[[str, Array], Array]  # (name, v) -> v times the matrix of this name, plus what is added to it
GATES = "ifgo"  # of an LSTM: input, forget, candidate, output


class Reader(NamedTuple):
    """A recurrent network, the state in which it begins an episode, and what it is given.

    Its parts take one sequence or many side by side: states and features are (..., k).
    """

    init: Callable[[Key, int], PyTree]  # (key, an input's width) -> its parameters
    prepare: Callable[[PyTree, Array], tuple[PyTree, PyTree]]  # parameters, inputs (n, ..., d) -> see `scan`
    step: Callable[[Product, PyTree], tuple[PyTree, Array]]  # (product, carry) -> carry, features
    blank: PyTree
    label_width: int  # of a label as it is told, and of an answer
    labels: Labels
    standardise: bool  # inputs, each with mean 0 and variance 1
    code: Code


class Reads(Protocol):
    """A learner that reads episodes: `init`, `adapt`, `predict`, `meta_grad` and `measure` here are its methods."""

    def reader(self) -> Reader: ...


class Memory(NamedTuple):
    """What a reader knows after a support set."""

    params: PyTree
    carry: PyTree
    label: Array  # (label_width,): the last label, which comes with the next input
    strings: Array | None  # (ways, label_width) of the classes, where labels are strings


def told_width(code: Code, ways: int) -> int:
    """Of a label as it is told, where there are at most so many ways."""
    return ways if code == "one_hot" else label_codes.WIDTH


def check(learner: object, label_width: int, tasks: Tasks, code: Code = "one_hot") -> None:
    """Raises ConfigError unless the tasks are classifications of at most `label_width` ways, each with a label."""
    must_classify(learner, tasks)
    if code == "strings" and tasks.n_out > label_codes.STRINGS:
        raise ConfigError("task.ways", tasks.n_out, f"at most {label_codes.STRINGS}: there are no more strings")
    if tasks.n_out > label_width:
        raise ConfigError(
            "learner.label_width", label_width, f"at least {tasks.n_out}, the task's ways: it is the most there may be"
        )


def init(self: Reads, net: Net, key: Key, x: Array) -> PyTree:
    """{"encoder": the model's parameters, "cell": the reader's}."""
    reader = self.reader()
    k_encoder, k_cell = jax.random.split(key)
    encoder = net.init(k_encoder, x)
    width = jax.eval_shape(net.features, encoder, x).shape[1]
    return {"encoder": encoder, "cell": reader.init(k_cell, width + reader.label_width)}


def adapt(self: Reads, net: Net, params: PyTree, support: Batch, key: Key) -> Memory:
    """The reader's memory after the support set, read in a random order."""
    reader = self.reader()
    key, strings = named(reader, key, net.n_out)
    carry, _, label = read(reader, net, params, shuffled(support, key), strings)
    return Memory(params, carry, label, strings)


def named(reader: Reader, key: Key, ways: int) -> tuple[Key, Array | None]:
    """A key for all else, and what an episode's classes are called where they are not numbered."""
    if reader.code == "one_hot":
        return key, None
    key, k_strings = jax.random.split(key)
    return key, label_codes.drawn(k_strings, ways)


def predict(self: Reads, net: Net, memory: Memory, x: Array) -> Array:
    """x (n, ...) -> logits (n, net.n_out): each query is one more step from the memory, and leaves no trace in it."""
    reader = self.reader()
    z = embed(net, memory.params["encoder"], x, reader.standardise)

    def one(z: Array) -> Array:
        return steps(reader, memory.params, memory.carry, jnp.concatenate([z, memory.label])[None])[1][0]

    outputs = jax.vmap(one)(z)
    return outputs[:, : net.n_out] if memory.strings is None else label_codes.log_probabilities(outputs, memory.strings)


def meta_grad(
    self: Reads, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array
) -> tuple[PyTree, Metrics]:
    """The gradient of the loss at every step of the sequences, and metrics: means over tasks.

    The sequences go side by side through ONE scan, in whose products their rows stand together.
    """
    reader = self.reader()
    sequence = partial(drawn, ways=net.n_out) if reader.labels == "iid" else whole
    keys, strings = jax.vmap(partial(named, reader, ways=net.n_out))(keys)
    x, y = jax.vmap(sequence)(episodes, keys)

    def mean_loss(params: PyTree) -> tuple[Array, Metrics]:
        z = jax.vmap(lambda x: embed(net, params["encoder"], x, reader.standardise))(x)
        inputs = jax.vmap(lambda z, *given: one_step_late(z, told(reader, *given))[0])(z, y, strings)
        blank = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(y), *leaf.shape)), reader.blank)
        outputs = steps(reader, params, blank, inputs.swapaxes(0, 1))[1].swapaxes(0, 1)
        losses, metrics = jax.vmap(partial(judged, net))(outputs, y, strings)
        return losses.mean(), jax.tree.map(jnp.mean, metrics)

    return jax.grad(mean_loss, has_aux=True)(params)


def measure(self: Reads, net: Net, params: PyTree, episode: Episode, key: Key) -> Metrics:
    """Accuracy by instance over the whole episode as one sequence, as the paper reports it."""
    reader = self.reader()
    key, strings = named(reader, key, net.n_out)
    batch = whole(episode, key)
    outputs = read(reader, net, params, batch, strings)[1]
    if strings is None:
        right = outputs[:, : net.n_out].argmax(-1) == batch.y
    else:
        right = label_codes.are_right(outputs, strings[batch.y])
    return instance_accuracy(right, batch.y, net.n_out)


def judged(net: Net, outputs: Array, y: Array, strings: Array | None) -> tuple[Array, Metrics]:
    """outputs (n, label_width), y (n,) -> the mean loss () and metrics."""
    return net.loss(outputs[:, : net.n_out], y) if strings is None else label_codes.loss(outputs, y, strings)


def read(
    reader: Reader, net: Net, params: PyTree, batch: Batch, strings: Array | None = None
) -> tuple[PyTree, Array, Array]:
    """(carry at the end, outputs (n, label_width), the last label), after one scan over the batch in its order."""
    z = embed(net, params["encoder"], batch.x, reader.standardise)
    inputs, last = one_step_late(z, told(reader, batch.y, strings))
    return *steps(reader, params, reader.blank, inputs), last


def steps(reader: Reader, params: PyTree, carry: PyTree, inputs: Array) -> tuple[PyTree, Array]:
    """inputs (n, ..., d) -> the carry after them, and outputs (n, ..., label_width); leaves of the carry (..., k)."""
    matrices, added = reader.prepare(params["cell"], inputs)
    kind = jnp.result_type(*jax.tree.leaves((matrices, added)))  # a blank carry's may be another: see jax_enable_x64
    carry, features = scan(reader.step, jax.tree.map(lambda leaf: leaf.astype(kind), carry), matrices, added)
    return carry, affine(features, params["cell"]["labels"]["kernel"], params["cell"]["labels"]["bias"])


def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """x (..., d), kernel (d, k), bias (k,) -> (..., k)."""
    return x @ kernel + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))


def scan(
    step: Callable[[Product, PyTree], tuple[PyTree, Array]], carry: PyTree, matrices: PyTree, added: PyTree
) -> tuple[PyTree, Array]:
    """`step` once for each of the n rows of what `added` (n, ..., k) holds by name -> the last carry, features.

    In a step product(name, v) is v @ matrices[name] + the step's row of added[name], for each name once: an input's
    share or a bias is known for all steps before the first. A matrix's derivative is then the sum over steps of v and
    the derivative of that row: ONE product after the loop, and not a matrix added to at every step.
    """

    def run(carry: PyTree, added: PyTree, matrices: PyTree) -> tuple[tuple[PyTree, Array], PyTree]:
        def one(carry: PyTree, rows: PyTree) -> tuple[PyTree, Any]:
            given = {}

            def product(name: str, v: Array) -> Array:
                given[name] = v
                return v @ matrices[name] + rows[name]

            carry, features = step(product, carry)
            return carry, (features, given)

        if jax.tree.leaves(added)[0].shape[0] > 1:
            carry, (features, given) = jax.lax.scan(one, carry, added)
            return (carry, features), given
        # Of one step, as each query is, the carry is left as it is. A scan under vmap makes a copy of it for each, and
        # XLA (jax 0.10.2, on a CPU) may have wrong numbers for the softmax of a product with such copies.
        carry, found = one(carry, jax.tree.map(lambda rows: rows[0], added))
        features, given = jax.tree.map(lambda leaf: leaf[None], found)
        return (carry, features), given

    @jax.custom_vjp
    def of_all(carry: PyTree, added: PyTree, matrices: PyTree) -> tuple[PyTree, Array]:
        return run(carry, added, matrices)[0]

    def forward(carry: PyTree, added: PyTree, matrices: PyTree) -> tuple[Any, Any]:
        result, back, given = jax.vjp(lambda carry, added: run(carry, added, matrices), carry, added, has_aux=True)
        return result, (back, given)

    def backward(kept: Any, cotangents: Any) -> tuple[PyTree, PyTree, PyTree]:
        back, given = kept
        carry, added = back(cotangents)
        rows = {name: v.reshape(-1, v.shape[-1]) for name, v in given.items()}
        sums = {name: v.T @ added[name].reshape(len(v), -1) for name, v in rows.items()}
        return carry, added, {name: of.astype(matrices[name].dtype) for name, of in sums.items()}

    of_all.defvjp(forward, backward)
    return of_all(carry, added, matrices)


def lstm_parameters(key: Key, width: int, units: int, forget_bias: float) -> PyTree:
    """Of an LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000) over inputs (width,): a kernel and bias a gate."""
    zeros = jnp.zeros(units)
    params = nn.OptimizedLSTMCell(units).init(key, (zeros, zeros), jnp.zeros(width))["params"]
    forget = params["hf"]
    return {**params, "hf": {**forget, "bias": forget["bias"] + forget_bias}}


def lstm_kernels(lstm: PyTree) -> tuple[Array, Array, Array]:
    """The kernel of the inputs (width, 4 units), that of the hidden state (units, 4 units), and the bias (4 units,)."""
    of_inputs = jnp.concatenate([lstm[f"i{gate}"]["kernel"] for gate in GATES], axis=1)
    of_hidden = jnp.concatenate([lstm[f"h{gate}"]["kernel"] for gate in GATES], axis=1)
    return of_inputs, of_hidden, jnp.concatenate([lstm[f"h{gate}"]["bias"] for gate in GATES])


def lstm_step(cell: Array, gates: Array) -> tuple[Array, Array]:
    """cell (..., units), gates (..., 4 units) before their nonlinearities -> cell, hidden (..., units)."""
    let_in, keep, candidate, out = jnp.split(gates, len(GATES), axis=-1)
    cell = nn.sigmoid(keep) * cell + nn.sigmoid(let_in) * jnp.tanh(candidate)
    return cell, nn.sigmoid(out) * jnp.tanh(cell)


def embed(net: Net, encoder: PyTree, x: Array, standardise: bool = True) -> Array:
    """x (n, ...) -> features (n, d), with `standardise` each example's with mean 0 and variance 1.

    A convolution's features are positive and much alike, and a recurrent network takes very long to tell them apart.
    But what an example's features have in common is lost: of two of them all but which is larger. A single one stays
    as it is.
    """
    z = net.features(encoder, x)
    if not standardise or z.shape[1] == 1:
        return z
    centred = z - z.mean(1, keepdims=True)  # first: of E[z^2] - E[z]^2 nothing is left where all numbers are large
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(1, keepdims=True) + 1e-3)


def told(reader: Reader, y: Array, strings: Array | None) -> Array:
    """Labels y (n,) as they are told, (n, label_width)."""
    return jax.nn.one_hot(y, reader.label_width) if strings is None else strings[y]


def one_step_late(z: Array, labels: Array) -> tuple[Array, Array]:
    """z (n, d), labels (n, l) -> inputs (n, d + l), each z_t with the label before it; and the last label."""
    labels = labels.astype(z.dtype)
    return jnp.concatenate([z, jnp.roll(labels, 1, axis=0).at[0].set(0.0)], axis=1), labels[-1]


def shuffled(batch: Batch, key: Key) -> Batch:
    """The batch in a random order: an episode stands class by class, and a sequence must not."""
    order = jax.random.permutation(key, len(batch.y))
    return Batch(batch.x[order], batch.y[order])


def whole(episode: Episode, key: Key) -> Batch:
    """All examples of an episode, support and query alike, in a random order."""
    return shuffled(examples(episode), key)


def drawn(episode: Episode, key: Key, ways: int) -> Batch:
    """A sequence as long as the episode: each step's class is drawn anew, with the next of its examples.

    A class that has none left begins again with its first. Every class has as many examples.
    """
    k_classes, k_order = jax.random.split(key)
    mixed = whole(episode, k_order)
    y = jax.random.randint(k_classes, mixed.y.shape, 0, ways)
    mine = jnp.argsort(mixed.y).reshape(ways, -1)  # (ways, examples of a class)
    earlier = instances(y, ways) - 1
    return Batch(mixed.x[mine[y, earlier % mine.shape[1]]], y)


def instances(y: Array, ways: int) -> Array:
    """y (n,) -> (n,): how often each label has been there, itself included."""
    return jnp.take_along_axis(jnp.cumsum(jax.nn.one_hot(y, ways, dtype=y.dtype), axis=0), y[:, None], axis=1)[:, 0]


def instance_accuracy(right: Array, y: Array, ways: int) -> Metrics:
    """{"accuracy_instance_01": ...}: accuracy at the first, second, ... time that a class is seen (table 1).

    right (n,) bool and y (n,) in the order of the sequence, every class as often: n / ways times.
    """
    instance = instances(y, ways)
    return {
        f"accuracy_instance_{k:02}": jnp.where(instance == k, right, 0.0).sum() / ways
        for k in range(1, len(y) // ways + 1)
    }
