"""A recurrent network without external memory: the baseline of Santoro et al. 2016, after Hochreiter et al. 2001."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun import sequence
from metarun.core import Array, Count, Key, PyTree, Tasks
from metarun.label_codes import Code


@dataclass(frozen=True)
class LSTM:
    """Meta-learns an LSTM that reads an episode as `mann` does, with nothing but its own state to remember it in."""

    units: Count
    label_width: Count  # most ways there may be
    # As runs were that have no key for it; so are the next three.
    code: Code = "one_hot"  # of labels: one-hot numbers, or strings of letters
    labels: sequence.Labels = "balanced"
    standardise: bool = True  # inputs, each example's alone
    forget_bias: float = 0.0
    network = "encoder"

    def check(self, tasks: Tasks) -> None:
        sequence.check(self, self.label_width, tasks, self.code)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder."""

    def reader(self) -> sequence.Reader:
        blank = (jnp.zeros(self.units), jnp.zeros(self.units))
        width = self.told_width
        return sequence.Reader(self.parameters, prepare, step, blank, width, self.labels, self.standardise, self.code)

    @property
    def told_width(self) -> int:
        return sequence.told_width(self.code, self.label_width)

    def parameters(self, key: Key, width: int) -> PyTree:
        """The parameters of LSTM and labels, for inputs (width,)."""
        k_lstm, k_labels = jax.random.split(key)
        return {
            "lstm": sequence.lstm_parameters(k_lstm, width, self.units, self.forget_bias),
            "labels": nn.Dense(self.told_width).init(k_labels, jnp.zeros(self.units))["params"],
        }

    init, adapt, predict = sequence.init, sequence.adapt, sequence.predict
    meta_grad, measure = sequence.meta_grad, sequence.measure


def prepare(cell: PyTree, inputs: Array) -> tuple[PyTree, PyTree]:
    of_inputs, of_hidden, bias = sequence.lstm_kernels(cell["lstm"])
    return {"gates": of_hidden}, {"gates": sequence.affine(inputs, of_inputs, bias)}


def step(product: sequence.Product, carry: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
    """(cell, hidden) -> the next, and hidden."""
    cell, hidden = sequence.lstm_step(carry[0], product("gates", carry[1]))
    return (cell, hidden), hidden
