"""How a sequence learner is told of labels, and answers: one-hot, or as strings of letters (Santoro et al. 2016, 4.1).

There are 15 classes in some of the paper's episodes, and so many that one-hot labels would not do; a class is then
called by five letters of five, drawn anew for each episode, and an answer is right if all of its letters are.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metarun.core import Array, Key, Metrics

Code = Literal["one_hot", "strings"]
LETTERS = LENGTH = 5
STRINGS = LETTERS**LENGTH
WIDTH = LETTERS * LENGTH  # of a string: its letters, one-hot, one after another


def drawn(key: Key, ways: int) -> Array:
    """The strings (ways, WIDTH) of an episode's classes, all different."""
    numbers = jax.random.choice(key, STRINGS, (ways,), replace=False)
    letters = numbers[:, None] // LETTERS ** jnp.arange(LENGTH)[None] % LETTERS  # (ways, LENGTH)
    return jax.nn.one_hot(letters, LETTERS).reshape(ways, WIDTH)


def by_letters(x: Array) -> Array:
    """(..., WIDTH) -> (..., LENGTH, LETTERS)."""
    return x.reshape(*x.shape[:-1], LENGTH, LETTERS)


def log_probabilities(outputs: Array, strings: Array) -> Array:
    """outputs (n, WIDTH), strings (ways, WIDTH) -> (n, ways): of each string, its letters independent of each other."""
    return jax.nn.log_softmax(by_letters(outputs)).reshape(outputs.shape) @ strings.T


def are_right(outputs: Array, strings: Array) -> Array:
    """outputs and the right strings (n, WIDTH) -> (n,) bool: of all strings that there are, this is the likeliest."""
    return (by_letters(outputs).argmax(-1) == by_letters(strings).argmax(-1)).all(-1)


def loss(outputs: Array, y: Array, strings: Array) -> tuple[Array, Metrics]:
    """outputs (n, WIDTH), labels y (n,), strings (ways, WIDTH) -> the letters' cross-entropy, summed over a string."""
    value = -jnp.take_along_axis(log_probabilities(outputs, strings), y[:, None], axis=1).mean()
    return value, {"loss": value, "accuracy": are_right(outputs, strings[y]).mean(dtype=outputs.dtype)}
