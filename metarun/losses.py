"""The losses of task distributions: mean over the batch, with the metrics that go with them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metarun.core import Array, Metrics

Loss = Callable[[Array, Array], tuple[Array, Metrics]]


def cross_entropy(outputs: Array, y: Array) -> tuple[Array, Metrics]:
    """Classification. outputs (n, ways) are logits, y (n,) int labels. An answer that is no number is a wrong one."""
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
    right = (outputs.argmax(-1) == y) & ~jnp.isnan(outputs).any(-1)
    accuracy = right.mean(dtype=outputs.dtype)
    return loss, {"loss": loss, "accuracy": accuracy}


def smoothed(loss: Loss, smoothing: float) -> Loss:
    """`loss`, a cross-entropy, with `smoothing` of each label given to the other ways. Lee et al. 2019, section 4.1."""

    def smoothed_loss(outputs: Array, y: Array) -> tuple[Array, Metrics]:
        plain, metrics = loss(outputs, y)
        ways = outputs.shape[-1]
        uniform = smoothing * ways / max(ways - 1, 1)  # the others' share, and as much for the label itself
        value = (1 - uniform) * plain - uniform * jax.nn.log_softmax(outputs).mean()
        return value, metrics | {"loss": value}

    return smoothed_loss


def squared_error(outputs: Array, y: Array) -> tuple[Array, Metrics]:
    """Regression. outputs and y are (n, d); the mean runs over both axes."""
    mse = jnp.square(outputs - y).mean()
    return mse, {"loss": mse, "mse": jax.lax.stop_gradient(mse)}
