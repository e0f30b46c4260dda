"""The losses of task distributions: mean over the batch, with the metrics that go with them."""

import jax
import jax.numpy as jnp
import optax

from metarun.core import Array, Metrics


def cross_entropy(outputs: Array, y: Array) -> tuple[Array, Metrics]:
    """Classification. outputs (n, ways) are logits, y (n,) int labels."""
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
    accuracy = (outputs.argmax(-1) == y).mean(dtype=outputs.dtype)
    return loss, {"loss": loss, "accuracy": accuracy}


def squared_error(outputs: Array, y: Array) -> tuple[Array, Metrics]:
    """Regression. outputs and y are (n, d); the mean runs over both axes."""
    mse = jnp.square(outputs - y).mean()
    return mse, {"loss": mse, "mse": jax.lax.stop_gradient(mse)}
