"""What the operations of models are held against: XLA's own convolution, and derivatives of all that there is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def reference(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def assert_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-3), ours, theirs)


def value_and_derivatives(f, point, direction):
    """f, the gradient of the sum of its sine, and that gradient's derivative along the direction; compiled."""
    return jax.jit(partial(derivatives, f))(point, direction)


def derivatives(f, point, direction):
    gradient, hessian_vector = jax.jvp(jax.grad(lambda point: jnp.sin(f(*point)).sum()), (point,), (direction,))
    return f(*point), gradient, hessian_vector
