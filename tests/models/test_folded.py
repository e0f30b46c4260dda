"""The convolution that normalises itself, against the convolution and its normalisation one after the other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import reference, value_and_derivatives

from metarun.models import folded, patches
from metarun.models.folded import Convolved
from metarun.models.layers import Convolution, Normalisation
from metarun.models.pooling import max_pool_2x2

EPSILON = 1e-3
PADS = ((1, 1), (0, 2))


def pooled(x):
    return max_pool_2x2(nn.relu(x))


def in_one(strides, then):
    return lambda x, kernel, scale, bias: folded.folded(
        Convolved(x, kernel, None, strides, PADS), scale, bias, EPSILON, then
    )


def one_after_the_other(strides, then):
    def normalised(x, kernel, scale, bias):
        y = reference(x, kernel, strides, PADS)
        mean, variance = y.mean((0, 1, 2), keepdims=True), y.var((0, 1, 2), keepdims=True)
        scale, bias = (row[None, None, None] for row in (scale, bias))
        return then((y - mean) * scale / jnp.sqrt(variance + EPSILON) + bias)

    return normalised


def of_shapes(*shapes):
    return tuple(np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes))


@pytest.mark.parametrize("block", [None, 4], ids=["all at once", "in blocks"])
@pytest.mark.parametrize(("strides", "then"), [((1, 1), pooled), ((2, 2), nn.relu), ((2, 1), jnp.tanh)])
def test_it_is_the_normalised_convolution_of_each_task_with_its_first_and_second_derivatives(
    strides, then, block, monkeypatch
):
    """In all that it is given: images, kernel, scale and bias; 67 images are 16 blocks of 4 and a rest of 3."""
    images = 67 if block else 5
    monkeypatch.setattr(patches, "BLOCK_BYTES", (block or 100) * 6 * 6 * (18 + 4) * 8)
    with jax.enable_x64(True):
        shapes = (2, images, 6, 6, 2), (2, 3, 3, 2, 4), (2, 4), (2, 4)
        point, direction = (of_shapes(*shapes), of_shapes(*reversed(shapes))[::-1])
        ours, theirs = (
            value_and_derivatives(jax.vmap(f(strides, then)), point, direction) for f in (in_one, one_after_the_other)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), ours, theirs)


def test_in_float32_it_is_as_exact_as_the_two():
    """Of pixels around 230, of which neighbours are nearly alike, by a kernel that sees their differences."""

    @jax.jit
    def drawn(k_images, k_kernel):
        smooth = jax.image.resize(jax.random.uniform(k_images, (20, 4, 4, 3)), (20, 28, 28, 3), "cubic")
        kernel = jax.random.normal(k_kernel, (3, 3, 3, 8))
        return 230 + 20 * smooth, kernel - kernel.mean((0, 1, 2), keepdims=True), jnp.ones(8), jnp.zeros(8)

    point = jax.device_get(drawn(jax.random.key(0), jax.random.key(1)))
    with jax.enable_x64(True):
        exact = jax.jit(one_after_the_other((1, 1), nn.relu))(*(np.float64(leaf) for leaf in point))
    of_one, of_two = (
        np.abs(np.asarray(jax.jit(f((1, 1), nn.relu))(*point)) - np.asarray(exact)).max()
        for f in (in_one, one_after_the_other)
    )
    assert of_one < of_two


def test_slopes_and_a_large_kernel_that_sees_none_of_them_give_numbers():
    """The variance is nought, and by rounding less than that for some of the features."""
    down, across = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    slopes = np.stack([np.ones((8, 8)), down, across], axis=-1)
    x = np.float32(slopes @ np.random.default_rng(1).uniform(size=(30, 1, 3, 3)))  # (30, 8, 8, 3)
    kernel = 1e4 * np.random.default_rng(0).normal(size=(9, 3 * 64))
    seen, _ = np.linalg.qr(slopes[:3, :3].reshape(9, 3))
    kernel = np.float32((kernel - seen @ (seen.T @ kernel)).reshape(3, 3, 3, 64))
    inner = (0, 0), (0, 0)  # no window with an edge

    @jax.jit
    def found(x, kernel, scale, bias):
        return jax.value_and_grad(f, argnums=(1, 2, 3))(x, kernel, scale, bias)

    def f(x, kernel, scale, bias):
        of = Convolved(x, kernel, None, (1, 1), inner)
        return folded.folded(of, scale, bias, EPSILON, nn.relu).sum()

    numbers = found(x, kernel, np.ones(64, np.float32), np.zeros(64, np.float32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers))


@pytest.mark.parametrize(
    ("side", "channels", "dtype", "kind", "folds"),
    [
        (3, 3, None, "batch", True),
        (1, 32, None, "batch", True),
        (1, 33, None, "batch", False),
        (3, 3, "bfloat16", "batch", False),
        (3, 3, None, "layer", False),
        (3, 3, None, "none", False),
    ],
)
def test_what_is_folded_and_that_the_layers_give_the_same(side, channels, dtype, kind, folds, monkeypatch):
    x = np.float32(np.random.default_rng(0).normal(size=(5, 6, 6, channels)))
    convolution, normalisation = Convolution(4, side, dtype=dtype), Normalisation(kind)

    @jax.jit
    def begun(k_params, k_norm):
        params = jax.tree.map(lambda leaf: leaf + 0.1, convolution.init(k_params, x))
        norm = normalisation.init(k_norm, convolution.apply(params, x))
        return params, jax.tree.map(lambda leaf: leaf + 0.5, norm)

    def applied(params, norm, x, folds):
        of = convolution.apply(params, x)
        assert (kind == "batch" and folded.suits(of)) == folds
        return normalisation.apply(norm, of, pooled)

    given = (*begun(jax.random.key(1), jax.random.key(2)), x)
    y = jax.jit(lambda *given: applied(*given, folds))(*given)
    monkeypatch.setattr(folded, "FEW", 0)
    expected = jax.jit(lambda *given: applied(*given, False))(*given)
    np.testing.assert_array_equal(y, expected) if not folds else np.testing.assert_allclose(y, expected, atol=1e-5)
