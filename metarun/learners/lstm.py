"""A recurrent network without external memory: the baseline of Santoro et al. 2016, after Hochreiter et al. 2001."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from metarun import sequence
from metarun.core import Array, Batch, Count, Episode, Key, Metrics, Net, PyTree, Tasks


class Cell(nn.Module):
    """One step: (carry, input (d,)) -> (carry, outputs (label_width,))."""

    units: int
    label_width: int

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        carry, hidden = nn.OptimizedLSTMCell(self.units, name="lstm")(carry, x)
        return carry, nn.Dense(self.label_width, name="labels")(hidden)


@dataclass(frozen=True)
class LSTM:
    """Meta-learns an LSTM that reads an episode as `mann` does, with nothing but its own state to remember it in."""

    units: Count
    label_width: Count  # most ways there may be: labels are one-hot

    def check(self, tasks: Tasks) -> None:
        sequence.check(self, self.label_width, tasks)

    def width(self, n_out: int) -> None:
        """None: the model is an encoder."""

    def reader(self) -> sequence.Reader:
        blank = (jnp.zeros(self.units), jnp.zeros(self.units))
        return sequence.Reader(Cell(self.units, self.label_width), blank, self.label_width)

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
