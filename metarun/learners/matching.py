"""Matching networks, with or without full-context embeddings. Vinyals et al. 2016."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metarun import inner, sequence
from metarun.core import Array, Batch, CountOrZero, Episode, Key, Metrics, Net, Positive, PyTree, Tasks, must_classify
from metarun.learners import lstm
from metarun.learners.protonet import Distance, similarity


@dataclass(frozen=True)
class Matching:
    """Meta-learns an embedding in which a query attends to the support set, and takes over its labels.

    With full-context embeddings (appendix A) a support example's embedding depends on the others, through a
    bidirectional LSTM over the support set in a random order, and a query's on all of them, through an LSTM that reads
    them by attention, `context_steps` times.
    """

    distance: Distance  # the paper has cosine
    temperature: Positive  # similarities are divided by it before the softmax; the paper has 1
    context_steps: CountOrZero = 0  # K of the full-context embeddings; 0: there are none

    @property
    def network(self) -> str:
        return "embedding" if self.context_steps else ""

    def check(self, tasks: Tasks) -> None:
        must_classify(self, tasks)

    def width(self, n_out: int) -> None:
        """None: the model is an embedding."""

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        """The model's parameters; with full-context embeddings {"embedding": those, and an LSTM for each use}."""
        if not self.context_steps:
            return net.init(key, x)
        k_embedding, k_forwards, k_backwards, k_query = jax.random.split(key, 4)
        embedding = net.init(k_embedding, x)
        d = jax.eval_shape(net.features, embedding, x).shape[1]
        return {
            "embedding": embedding,
            "forwards": sequence.lstm_parameters(k_forwards, d, d, 0.0),
            "backwards": sequence.lstm_parameters(k_backwards, d, d, 0.0),
            "query": sequence.lstm_parameters(k_query, 2 * d, d, 0.0),  # of [f', what was read]
        }

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        if not self.context_steps:
            return {"params": params, "z": net.features(params, support.x), "y": support.y}
        x, y = sequence.shuffled(support, key)
        z = net.features(params["embedding"], x)
        forwards = states(params["forwards"], z)
        backwards = states(params["backwards"], z[::-1])[::-1]
        return {"params": params, "z": z + forwards + backwards, "y": y}  # appendix A.2

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        params, g = fast["params"], fast["z"]
        if self.context_steps:
            z = in_context(params["query"], net.features(params["embedding"], x), g, self.context_steps)
        else:
            z = net.features(params, x)
        similarities = similarity(self.distance, z, g) / self.temperature
        # P(y | x) = sum_i a(x, x_i) y_i with a the softmax over the support set (equation 1), as logarithms.
        attention = jax.nn.log_softmax(similarities)[:, :, None]  # (n, support, 1)
        labelled = fast["y"][:, None] == jnp.arange(net.n_out)[None]  # (support, ways)
        return jax.nn.logsumexp(attention, axis=1, where=labelled[None])

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)


def states(params: PyTree, z: Array) -> Array:
    """z (n, d) -> the LSTM's hidden states (n, d) after each of them."""
    blank = jnp.zeros_like(z[0])
    return sequence.scan(lstm.step, (blank, blank), *lstm.prepare({"lstm": params}, z))[1]


def in_context(params: PyTree, z: Array, g: Array, steps: int) -> Array:
    """f of appendix A.1: z (n, d) = f'(x), support g (m, d) -> (n, d), each query read on its own.

    h_k = LSTM([z, r_{k-1}], h_{k-1}) + z, with r the support set weighted by the softmax of h . g; what an LSTM is
    given of r stands in the paper beside its hidden state, which is the same.
    """
    of_inputs, of_hidden, bias = sequence.lstm_kernels(params)
    of_z, of_read = jnp.split(of_inputs, 2)
    gates = sequence.affine(z, of_z, bias)
    hidden = cell = read = jnp.zeros_like(z)
    for _ in range(steps):
        cell, out = sequence.lstm_step(cell, gates + hidden @ of_hidden + read @ of_read)
        hidden = out + z
        read = jax.nn.softmax(hidden @ g.T) @ g
    return hidden
