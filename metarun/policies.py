"""Distributions over actions, by what a policy answers to an observation."""

import math

import jax
import jax.numpy as jnp

from metarun.core import Array, Key, Policy


def halves(outputs: Array) -> tuple[Array, Array]:
    """Outputs (n, 2 d) -> means and logarithms of standard deviations, (n, d) each; a deviation is 1e-6 or more."""
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    return mean, jnp.maximum(log_std, math.log(1e-6))


def _gaussian_sample(outputs: Array, key: Key) -> Array:
    mean, log_std = halves(outputs)
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)


def _gaussian_log_probability(outputs: Array, actions: Array) -> Array:
    mean, log_std = halves(outputs)
    z = (actions - mean) * jnp.exp(-log_std)
    return -(jnp.square(z) / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)


def _gaussian_divergence(old: Array, new: Array) -> Array:
    (mean, log_std), (new_mean, new_log_std) = halves(old), halves(new)
    variance, new_variance = jnp.exp(2 * log_std), jnp.exp(2 * new_log_std)
    return (new_log_std - log_std + (jnp.square(mean - new_mean) + variance) / (2 * new_variance) - 0.5).sum(-1)


def _gaussian_entropy(outputs: Array) -> Array:
    return (halves(outputs)[1] + math.log(2 * math.pi * math.e) / 2).sum(-1)


def _categorical_sample(outputs: Array, key: Key) -> Array:
    return jax.random.categorical(key, outputs)


def _categorical_log_probability(outputs: Array, actions: Array) -> Array:
    return jnp.take_along_axis(jax.nn.log_softmax(outputs), actions[:, None], axis=-1)[:, 0]


def _categorical_divergence(old: Array, new: Array) -> Array:
    old, new = jax.nn.log_softmax(old), jax.nn.log_softmax(new)
    return (jnp.exp(old) * (old - new)).sum(-1)


def _categorical_entropy(outputs: Array) -> Array:
    log_p = jax.nn.log_softmax(outputs)
    return -(jnp.exp(log_p) * log_p).sum(-1)


# Actions (n, d) of independent normal distributions: outputs are d means, then the logarithms of d deviations.
GAUSSIAN = Policy(_gaussian_sample, _gaussian_log_probability, _gaussian_divergence, _gaussian_entropy)

# Actions (n,) int32, one of n_out: outputs are logits.
CATEGORICAL = Policy(_categorical_sample, _categorical_log_probability, _categorical_divergence, _categorical_entropy)
