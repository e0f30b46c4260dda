"""Hierarchically structured meta-learning: a tree of task clusters gates the initialisation. Yao et al. 2019 (HSML)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metarun import inner, sequence
from metarun.core import (
    Array,
    Batch,
    ConfigError,
    Count,
    CountOrZero,
    Episode,
    Key,
    Metrics,
    Net,
    NonNegative,
    Positive,
    PyTree,
    Tasks,
    must_be_given,
)

UNROLL = 16  # a recurrence of at most so many examples is written out: quicker for networks this small


@dataclass(frozen=True)
class Hierarchical:
    """Meta-learns an initialisation theta, and which parts of it serve a kind of task: MAML from theta o gates.

    An autoencoder reads the support set; its embedding is shared out over the leaves of a tree by its distances to
    learned centres, and what the tree makes of that, with the embedding, sets a gate for every parameter. The centres
    stand for kinds of tasks: a task never sees the others of its meta-batch.
    """

    inner_lr: Positive
    inner_steps: CountOrZero
    inner_loss: inner.Reduction
    first_order: bool
    embed: Count  # an example (x, y) becomes so many numbers, which the autoencoder reads and reconstructs
    hidden: Count  # size of the embedding of a task, and of each node of the tree
    reconstruction: NonNegative  # weight of the autoencoder's loss: xi in the paper
    tree: tuple[Count, ...]  # nodes from the leaves up; the root is one more
    sigma: Positive  # a leaf's share falls with exp(-d^2 / 2 sigma)
    network = "theta"

    def __post_init__(self) -> None:
        if not self.tree:
            raise ConfigError("tree", list(self.tree), "needs a level of leaves at least: [4] or [4, 2]")

    def check(self, tasks: Tasks) -> None:
        """Any task whose examples are given: the loss is the tasks' own."""
        must_be_given(self, tasks)

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_theta, k_images, k_example, k_encoder, k_decoder, k_out, k_centres, k_tree, k_gates = jax.random.split(key, 9)
        theta = net.init(k_theta, x)
        # Images are embedded by a network of their own, of the model's shape; rows are read as they are.
        images = net.init(k_images, x) if net.classification else {}
        width = self.rows(net, {"images": images}, x[:1]).shape[1] + net.n_out
        leaves, *levels = self.tree
        tree = jax.random.split(k_tree, len(levels) + 2)
        return {
            "theta": theta,
            "images": images,
            "example": dense(k_example, width, self.embed),
            "encoder": recurrent(k_encoder, self.embed, self.hidden),
            "decoder": recurrent(k_decoder, self.embed, self.hidden),
            "reconstruction": dense(k_out, self.hidden, self.embed),
            "centres": jax.nn.initializers.glorot_uniform()(k_centres, (leaves, self.hidden)),
            "leaves": nodes(tree[0], leaves, self.hidden),
            "levels": [level(k, n, self.hidden) for k, n in zip(tree[1:-1], levels, strict=True)],
            "root": dense(tree[-1], self.hidden, self.hidden),
            "gates": dense(k_gates, 2 * self.hidden, sum(leaf.size for leaf in jax.tree.leaves(theta))),
        }

    def rows(self, net: Net, params: PyTree, x: Array) -> Array:
        """x (n, ...) -> what the autoencoder is given of the inputs (n, d)."""
        return net.features(params["images"], x) if net.classification else x.reshape(len(x), -1)

    def embedding(self, net: Net, params: PyTree, support: Batch, key: Key) -> tuple[Array, Array]:
        """Of a support set, in a random order: the task's embedding (hidden,), and the reconstruction's loss ()."""
        x, y = sequence.shuffled(support, key)
        y = jax.nn.one_hot(y, net.n_out) if net.classification else y
        pairs = jnp.concatenate([self.rows(net, params, x), y], axis=1)
        examples = inner.linear(params["example"], pairs)  # (n, embed)
        last, states = read(params["encoder"], examples, jnp.zeros(self.hidden))

        def back(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            given, state = carry
            state = gru(params["decoder"], added(params["decoder"], given[None])[0], state)
            given = inner.linear(params["reconstruction"], state[None])[0]
            return (given, state), given

        n = len(examples)
        _, again = jax.lax.scan(back, (jnp.zeros(self.embed), last), None, n, unroll=n <= UNROLL)
        return states.mean(0), jnp.square(examples - again[::-1]).mean()  # the last example comes first

    def assignment(self, params: PyTree, task: Array) -> Array:
        """A task's embedding (hidden,) -> how much of it each leaf has (leaves,); equation 3."""
        return jax.nn.softmax(-jnp.square(task[None] - params["centres"]).sum(1) / (2 * self.sigma))

    def clusters(self, params: PyTree, task: Array) -> Array:
        """A task's embedding (hidden,) -> what the tree makes of it (hidden,); equations 3 to 5."""
        below = self.assignment(params, task)[:, None] * through(params["leaves"], task[None])[0]  # (leaves, hidden)
        for one in params["levels"]:
            shares = jax.nn.softmax(inner.linear(one["share"], below))  # (nodes below, nodes)
            below = (shares[:, :, None] * through(one["nodes"], below)).sum(0)
        return jnp.tanh(inner.linear(params["root"], below)).sum(0)

    def gated(self, params: PyTree, task: Array) -> PyTree:
        """theta, each of its numbers times a gate between 0 and 1; equation 7."""
        theta, restored = ravel_pytree(params["theta"])
        known = jnp.concatenate([task, self.clusters(params, task)])
        return restored(theta * jax.nn.sigmoid(inner.linear(params["gates"], known[None])[0]))

    def descended(self, net: Net, params: PyTree, task: Array, support: Batch) -> PyTree:
        """What MAML's inner loop makes of the gated theta on the support set."""
        loss = inner.support_loss(net, support, self.inner_loss)
        update = inner.optimizer("sgd", self.inner_lr, self.first_order)
        start = self.gated(params, task)
        return inner.descend(lambda theta, _: loss(theta), start, update, self.inner_steps, self.first_order)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        return self.descended(net, params, self.embedding(net, params, support, key)[0], support)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def task_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
            task, reconstruction = self.embedding(net, params, episode.support, key)
            fast = self.descended(net, params, task, episode.support)
            loss, metrics = net.loss(self.predict(net, fast, episode.query.x), episode.query.y)
            return loss + self.reconstruction * reconstruction, metrics | {"reconstruction": reconstruction}

        return inner.mean_grad(task_loss, params, episodes, keys)

    def measure(self, net: Net, params: PyTree, episode: Episode, key: Key) -> Metrics:
        """How much of the task each leaf has: leaf_1, leaf_2, ..."""
        shares = self.assignment(params, self.embedding(net, params, episode.support, key)[0])
        return {f"leaf_{i + 1}": shares[i] for i in range(len(shares))}


def dense(key: Key, d: int, k: int) -> PyTree:
    """A linear layer from d numbers to k."""
    return {"kernel": jax.nn.initializers.glorot_uniform()(key, (d, k)), "bias": jnp.zeros(k)}


def nodes(key: Key, n: int, d: int) -> PyTree:
    """n linear layers from d numbers to d."""
    return {"kernel": jax.nn.initializers.glorot_uniform(batch_axis=0)(key, (n, d, d)), "bias": jnp.zeros((n, d))}


def level(key: Key, n: int, d: int) -> PyTree:
    """A level of the tree above the leaves: who of its n nodes has how much of a node below, and the nodes."""
    k_share, k_nodes = jax.random.split(key)
    return {"share": dense(k_share, d, n), "nodes": nodes(k_nodes, n, d)}


def through(layers: PyTree, x: Array) -> Array:
    """x (m, d) -> what each of the n nodes makes of each (m, n, d)."""
    return jnp.tanh(jnp.einsum("md,nde->mne", x, layers["kernel"]) + layers["bias"][None])


def recurrent(key: Key, d: int, hidden: int) -> PyTree:
    """A gated recurrent unit; its gates begin open to what it remembers, as those of the authors' framework."""
    k_x, k_gates, k_new = jax.random.split(key, 3)
    glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
    return {
        "x": glorot(k_x, (d, 3 * hidden)),
        "gates": glorot(k_gates, (hidden, 2 * hidden)),
        "new": orthogonal(k_new, (hidden, hidden)),
        "bias": jnp.concatenate([jnp.ones(2 * hidden), jnp.zeros(hidden)]),
    }


def added(unit: PyTree, x: Array) -> Array:
    """x (n, d) -> what they add to gates and candidate (n, 3 hidden)."""
    return x @ unit["x"] + unit["bias"][None]


def gru(unit: PyTree, x: Array, state: Array) -> Array:
    """The next state (hidden,), of what an input `added`, (3 hidden,). Cho et al. 2014."""
    d = len(state)
    keep, reset = jnp.split(jax.nn.sigmoid(x[: 2 * d] + state @ unit["gates"]), 2)
    new = jnp.tanh(x[2 * d :] + (reset * state) @ unit["new"])
    return keep * state + (1 - keep) * new


def read(unit: PyTree, x: Array, state: Array) -> tuple[Array, Array]:
    """The last state (hidden,), and all of them (n, hidden), on the way over x (n, d)."""

    def step(state: Array, x: Array) -> tuple[Array, Array]:
        state = gru(unit, x, state)
        return state, state

    return jax.lax.scan(step, state, added(unit, x), unroll=len(x) <= UNROLL)
