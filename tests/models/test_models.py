"""Products, totals, pooling and normalisation against their definitions; the papers' models."""

import itertools
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_close, derivatives, reference, value_and_derivatives
from support import drawn_like

from metarun.core import ConfigError
from metarun.models.adapter import Adapter
from metarun.models.conv4 import Conv4
from metarun.models.conv4_wide import Conv4Wide
from metarun.models.layers import Normalisation, convolve
from metarun.models.mlp import MLP
from metarun.models.pooling import max_pool_2x2
from metarun.models.product import product
from metarun.models.resnet12 import ResNet12
from metarun.models.total import spread, total


def test_a_product_has_the_first_and_second_derivatives_of_jaxs():
    """Forward over reverse, as inner loops take them, and reverse over reverse, for all ways to vmap it twice."""
    draw = np.random.default_rng(0)

    def reverse_twice(f, point, direction):
        gradient = jax.grad(lambda point: jnp.sin(f(*point)).sum())
        return jax.vjp(gradient, point)[1](direction)

    ways = [(None, None), (0, None), (None, 0), (0, 0), (1, 0), (0, 1)]
    for outer, inner in itertools.product(ways[1:4], ways):
        shapes = []
        for i, shape in enumerate(((5, 4), (4, 2))):
            for axis, size in ((inner[i], 3), (outer[i], 2)):
                shape = shape if axis is None else (*shape[:axis], size, *shape[axis:])
            shapes.append(shape)
        point, direction = (tuple(np.float32(draw.normal(size=shape)) for shape in shapes) for _ in "pd")

        def mapped(f, inner=inner, outer=outer):
            for axes in (inner, outer):
                f = f if axes == (None, None) else jax.vmap(f, axes)
            return f

        @jax.jit
        def of(point, direction, mapped=mapped):
            both = [mapped(f) for f in (product, jnp.matmul)]
            return [[way(f, point, direction) for way in (derivatives, reverse_twice)] for f in both]

        found, expected = of(point, direction)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    ones = (np.ones(shape, np.float32) for shape in ((5, 4), (4, 2)))
    np.testing.assert_allclose(jax.jit(product)(*ones), np.full((5, 2), 4))


@pytest.mark.parametrize(("tasks", "shape"), [((), (7, 3)), ((2,), (2, 3, 4, 5)), ((3, 2), (2, 5, 3))])
def test_a_total_and_what_is_spread_have_the_first_and_second_derivatives_of_jaxs(tasks, shape):
    """Of one task, of tasks, and of tasks of tasks; both, for each is the other's derivative."""
    draw, shapes = np.random.default_rng(0), ((*tasks, *shape), (*tasks, shape[-1]))
    point, direction = (tuple(np.float32(draw.normal(size=shape)) for shape in shapes) for _ in "pd")

    def on_tasks(total, spread):
        def f(x, row):
            return jnp.sin(spread(jnp.sin(total(jnp.sin(x) * spread(row)))))

        for _ in tasks:
            f = jax.vmap(f)
        return f

    kept = tuple(range(len(shape) - 1))
    plain = on_tasks(lambda x: x.sum(kept), lambda row: jnp.broadcast_to(jnp.expand_dims(row, kept), shape))
    ours, theirs = (
        value_and_derivatives(f, point, direction)
        for f in (on_tasks(total, lambda row: spread(row, shape[:-1])), plain)
    )
    assert_close(ours, theirs)
    compiled = jax.jit(total).lower(np.ones(shape, np.float32)).compile().as_text()
    assert "dot" in compiled  # or a CPU computes one by one all that leads to it


def test_rows_of_tasks_with_one_matrix_are_one_product_in_both_directions():
    rows, matrix = np.ones((3, 5, 4), np.float32), np.ones((4, 2), np.float32)
    of_all = jax.vmap(product, (0, None))
    text = str(jax.make_jaxpr(jax.grad(lambda matrix: of_all(rows, matrix).sum()))(matrix))
    assert "f32[15,2]" in text
    assert "f32[3,4,2]" not in text


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 2), (3, 4)])
def test_max_pool_is_flaxs_with_its_first_and_second_derivatives(size, stride):
    x, v = np.float32(np.random.default_rng(0).normal(size=(2, 3, *size, 4)))
    ours, theirs = (
        value_and_derivatives(f, (x,), (v,))
        for f in (lambda x: max_pool_2x2(x, stride), lambda x: nn.max_pool(x, (2, 2), strides=(stride, stride)))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pools_derivative_is_that_of_the_largest_whatever_is_fused_with_it(stride):
    """By equality with the maximum it was 0 / 0 for some windows, with jax 0.10.1 and the settings of these tests."""
    draw = np.random.default_rng(0)
    point = [np.float32(draw.normal(size=shape)) for shape in ((2, 5, 6, 6, 2), (2, 3, 3, 2, 4))]
    layer = Normalisation("batch")
    params = {"params": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}}

    def normalised(x, kernel):
        return jax.vmap(lambda *of: layer.apply(params, convolve(*of, (1, 1), "SAME")))(x, kernel)

    def loss(y):
        return jnp.sin(jax.vmap(partial(max_pool_2x2, stride=stride))(y)).sum()

    @jax.jit
    def one_after_the_other(y, x, kernel):
        return jax.vjp(normalised, x, kernel)[1](jax.grad(loss)(y))

    fused = jax.jit(jax.grad(lambda *of: loss(normalised(*of)), (0, 1)))(*point)
    expected = one_after_the_other(jax.jit(normalised)(*point), *point)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), fused, expected)


@pytest.mark.parametrize(("kind", "axes"), [("batch", (0, 1, 2)), ("layer", (1, 2, 3))])
def test_normalisation_leaves_mean_0_and_variance_1(kind, axes):
    x = np.float32(3 + 2 * np.random.default_rng(0).normal(size=(6, 5, 5, 4)))
    layer = Normalisation(kind)
    y = np.asarray(jax.jit(lambda key, x: layer.apply(layer.init(key, x), x))(jax.random.key(1), x))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(axes), 1, atol=1e-2)


def test_normalisation_scales_then_shifts():
    x = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
    apply = jax.jit(Normalisation("batch").apply)
    scaled, plain = (
        np.asarray(apply({"params": {"scale": np.full(4, scale, np.float32), "bias": np.full(4, bias, np.float32)}}, x))
        for scale, bias in ((2, 5), (1, 0))
    )
    np.testing.assert_allclose(scaled, 2 * plain + 5, rtol=1e-5)


def test_the_papers_variants_have_their_papers_sizes():
    """Finn et al.: 64 for Omniglot, 32 * 5 * 5 = 800 for mini-ImageNet; Bertinetto et al.: 31,104 + 41,472 features."""

    def head(model, shape):
        params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((2, *shape), np.float32))["params"]
        return params["head"]["kernel"].shape

    assert head(Conv4(64, "stride", "batch", 5), (28, 28, 1)) == (64, 5)
    assert head(Conv4(32, "max_pool", "batch", 5), (84, 84, 3)) == (800, 5)
    assert head(Conv4(64, "stride", "batch", 5, "all"), (28, 28, 1)) == (256, 5)  # Reptile's authors'
    assert head(Conv4(32, "max_pool", "batch", 5, "mean"), (84, 84, 3)) == (32, 5)
    wide = Conv4Wide((96, 192, 384, 512), 0.1, "batch", 5)
    assert head(wide, (84, 84, 3)) == (31104 + 41472, 5)
    assert head(wide, (28, 28, 1)) == (1536 + 2048, 5)
    resnet = ResNet12((64, 160, 320, 640), 0.1, "batch", None)
    features, params = jax.eval_shape(resnet.init_with_output, jax.random.key(0), np.zeros((2, 84, 84, 3), np.float32))
    assert features.shape == (2, 640 * 5 * 5)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 12_424_320


def test_an_untrained_adapter_gives_what_it_was_given_and_a_trained_one_adds_to_it():
    draw = np.random.default_rng(0)
    x, up = np.float32(draw.normal(size=(5, 6))), np.float32(draw.normal(size=(3, 6)))
    features = Adapter(hidden=3, scale=4.0, n_out=None)
    params, apply = jax.device_get(jax.jit(features.init)(jax.random.key(1), x)), jax.jit(features.apply)
    np.testing.assert_allclose(apply(params, x), 4 * x, rtol=1e-6)
    found = params["params"] | {"up": {"kernel": up, "bias": np.ones(6, np.float32)}, "scale": np.float32(2.0)}
    down = np.maximum(x @ found["down"]["kernel"] + found["down"]["bias"][None], 0)
    np.testing.assert_allclose(apply({"params": found}, x), 2 * (x + down @ up + 1), rtol=1e-4, atol=1e-5)
    head = Adapter(hidden=3, scale=1.0, n_out=2)
    params = jax.device_get(jax.jit(head.init)(jax.random.key(3), x)["params"])
    expected = x @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(jax.jit(head.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_conv4_and_the_mlp_are_what_their_papers_say():
    """Four times convolution, batch statistics, ReLU and a stride or a pooling of 2; dense layers with ReLU."""

    def normalised(x, of):
        axes = tuple(range(x.ndim - 1))
        x = (x - x.mean(axes, keepdims=True)) / (x.var(axes, keepdims=True) + 1e-3) ** 0.5
        return x * of["scale"].reshape((1,) * len(axes) + (-1,)) + of["bias"].reshape((1,) * len(axes) + (-1,))

    x = np.float32(np.random.default_rng(0).normal(size=(3, 17, 16, 2)))
    for downsample in ("stride", "max_pool"):
        conv4 = Conv4(4, downsample, "batch", None)
        params = drawn_like(lambda of=conv4: of.init(jax.random.key(0), x))

        @jax.jit
        def by_the_paper(params, x, downsample=downsample):
            strides = (2, 2) if downsample == "stride" else (1, 1)
            for i in range(4):
                layer = params["params"][f"conv{i}"]
                convolved = reference(x, layer["kernel"], strides, "SAME") + layer["bias"].reshape(1, 1, 1, 4)
                x = nn.relu(normalised(convolved, params["params"][f"norm{i}"]))
                x = x if downsample == "stride" else nn.max_pool(x, (2, 2), strides=(2, 2))
            return x.mean((1, 2)) if downsample == "stride" else x.reshape(3, -1)

        np.testing.assert_allclose(jax.jit(conv4.apply)(params, x), by_the_paper(params, x), rtol=1e-3, atol=1e-4)

    mlp = MLP((6,), "batch", 2)
    params = drawn_like(lambda: mlp.init(jax.random.key(0), x))
    p = params["params"]
    hidden = np.maximum(normalised(x.reshape(3, -1) @ p["dense0"]["kernel"], p["norm0"]), 0)
    expected = hidden @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(jax.jit(mlp.apply)(params, x), expected, rtol=1e-3, atol=1e-4)


def test_a_residual_block_adds_what_it_convolves_to_what_it_was_given():
    """Its last norm turned off, a block is the pooled, rectified shortcut."""
    x = np.float32(np.random.default_rng(0).normal(size=(2, 4, 4, 3)))
    resnet = ResNet12((5,), 0.1, "batch", None)
    params = jax.device_get(jax.jit(resnet.init)(jax.random.key(1), x)["params"])
    params["block0_conv2_norm"]["scale"] = np.zeros(5, np.float32)
    shortcut = np.asarray(x) @ np.asarray(params["block0_shortcut"]["kernel"][0, 0])
    shortcut = (shortcut - shortcut.mean((0, 1, 2))) / np.sqrt(shortcut.var((0, 1, 2)) + 1e-3)
    rectified = np.where(shortcut > 0, shortcut, 0.1 * shortcut)
    pooled = rectified.reshape(2, 2, 2, 2, 2, 5).max((2, 4))
    outputs = jax.jit(resnet.apply)({"params": params}, x)
    np.testing.assert_allclose(outputs, pooled.reshape(2, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (ResNet12((4, 4, 4, 4), 0.1, "batch", 3), (1, 16, 16, 1), None),
        (ResNet12((4, 4, 4, 4), 0.1, "batch", 3), (1, 16, 15, 1), "of 16 x 16 and more, not (1, 16, 15, 1); use"),
        (ResNet12((4, 4, 4), 0.1, "batch", 3), (1, 7, 8, 1), "of 8 x 8 and more, not (1, 7, 8, 1); use model=conv4"),
        (Conv4Wide((4, 4, 4, 4), 0.1, "batch", 3), (1, 16, 16, 1), None),
        (Conv4Wide((4, 4, 4, 4), 0.1, "batch", 3), (1, 15, 16, 1), "of 16 x 16 and more, not (1, 15, 16, 1); use"),
        (Conv4Wide((4, 4, 4, 4), 0.1, "batch", 3), (5, 3), "of 16 x 16 and more, not (5, 3); use model=mlp"),
        (Conv4(4, "stride", "batch", 3), (1, 1, 1, 1), None),
        (Conv4(4, "stride", "batch", 3), (5, 3), "images (n, height, width, channels), not (5, 3); use model=mlp"),
    ],
)  # fmt: skip
def test_images_that_are_too_small_for_a_model_are_refused_with_another(model, shape, says):
    def outputs():
        return model.init_with_output(jax.random.key(0), jnp.zeros(shape))[0]

    if says is None:
        assert jax.eval_shape(outputs).shape == (shape[0], 3)
        return
    with pytest.raises(ConfigError, match=re.escape(says)):
        jax.eval_shape(outputs)
