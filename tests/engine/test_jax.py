"""What the installed jax must get right; a version that does not is left out in pyproject.toml."""

import jax
import jax.numpy as jnp
import numpy as np


def test_the_softmax_of_a_product_with_copies_of_a_matrix_is_that_with_the_matrix():
    """jax 0.10.2 to 0.11.2 are off by 0.99 on a CPU, silently: as where each query looks up one memory."""
    random = np.random.default_rng(0)
    memory, keys = (random.normal(size=shape).astype(np.float32) for shape in ((128, 40), (32, 4, 40)))

    @jax.jit
    def read(keys, memory):
        return jax.nn.softmax(keys @ jnp.broadcast_to(memory, (len(keys), *memory.shape)).swapaxes(-1, -2))

    powers = np.exp(keys @ memory.T - (keys @ memory.T).max(-1, keepdims=True))
    np.testing.assert_allclose(read(keys, memory), powers / powers.sum(-1, keepdims=True), atol=1e-5)
