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


def smoothed_cross_entropy(smoothing: float, outputs: Array, y: Array) -> tuple[Array, Metrics]:
    """`cross_entropy` whose target gives `smoothing` of each label to the other ways. Lee et al. 2019, section 4.1."""
    ways = outputs.shape[-1]
    target = jax.nn.one_hot(y, ways) * (1 - smoothing * ways / (ways - 1)) + smoothing / (ways - 1)
    loss = optax.softmax_cross_entropy(outputs, target).mean()
    return loss, cross_entropy(outputs, y)[1] | {"loss": loss}


def squared_error(outputs: Array, y: Array) -> tuple[Array, Metrics]:
    """Regression. outputs and y are (n, d); the mean runs over both axes."""
    mse = jnp.square(outputs - y).mean()
    return mse, {"loss": mse, "mse": jax.lax.stop_gradient(mse)}
