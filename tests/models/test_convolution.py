"""The convolution, in each of its ways, against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_close, derivatives, reference, value_and_derivatives

from metarun.engine.speed import flops
from metarun.models import layers, patches
from metarun.models.layers import Convolution, computed, convolve


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(1, 2), (0, 3)]])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("size", [(7, 7), (8, 5)])
def test_convolve_is_the_convolution_with_its_first_and_second_derivatives(size, strides, padding):
    k_x, k_kernel, k_vx, k_vk = jax.random.split(jax.random.key(0), 4)
    point = (jax.random.normal(k_x, (2, *size, 3)), jax.random.normal(k_kernel, (3, 3, 3, 4)))
    direction = (jax.random.normal(k_vx, point[0].shape), jax.random.normal(k_vk, point[1].shape))

    def with_settings(f):
        return lambda x, kernel: f(x, kernel, strides, padding)

    ours, theirs = (value_and_derivatives(with_settings(f), point, direction) for f in (convolve, reference))
    assert_close(ours, theirs)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("images", "joined"), [(67, 4), (66, 2)])
def test_convolve_in_blocks_is_the_convolution_of_each_task(images, joined, monkeypatch):
    """67 images in blocks of 4 and a rest of 3, 66 in blocks of 3 without one; for two tasks with a kernel each."""
    one_image = 7 * 7 * 3 * 3 * 3 * 4
    monkeypatch.setattr(patches, "BLOCK_BYTES", 4 * one_image)
    k_x, k_kernel, k_vx, k_vk = jax.random.split(jax.random.key(0), 4)
    point = (jax.random.normal(k_x, (2, images, 7, 7, 3)), jax.random.normal(k_kernel, (2, 3, 3, 3, 4)))
    direction = (jax.random.normal(k_vx, point[0].shape), jax.random.normal(k_vk, point[1].shape))

    def by_task(f):
        return jax.vmap(lambda x, kernel: f(x, kernel, (1, 1), "SAME"))

    program = str(jax.make_jaxpr(by_task(convolve))(*point))
    assert "scan" in program
    assert program.count("concatenate[") == joined  # a block's patches, all at once on another device; rest, and both
    ours, theirs = (value_and_derivatives(by_task(f), point, direction) for f in (convolve, reference))
    assert_close(ours, theirs)


def test_many_images_with_one_kernel_are_a_cpus_own_convolution_and_those_with_a_kernel_each_are_not(monkeypatch):
    """Vmapped over images, over nothing, over kernels too: the convolution, with its first and second derivatives."""
    monkeypatch.setattr(layers, "MANY_IMAGES", 6)
    layers._convolution.cache_clear()
    k_x, k_kernel, k_vx, k_vk = jax.random.split(jax.random.key(0), 4)
    x, kernel = jax.random.normal(k_x, (3, 2, 7, 5, 3)), jax.random.normal(k_kernel, (3, 3, 3, 3, 4))
    vx, vk = jax.random.normal(k_vx, x.shape), jax.random.normal(k_vk, kernel.shape)

    def conv(f):
        return lambda x, kernel: f(x, kernel, (2, 2), "SAME")

    cases = {
        "one kernel for all": (lambda f: jax.vmap(conv(f), (0, None)), (x, kernel[0]), (vx, vk[0]), True),
        "a kernel each": (lambda f: jax.vmap(conv(f)), (x, kernel), (vx, vk), False),
        "an image each, twice": (
            lambda f: jax.vmap(jax.vmap(conv(f), (0, None)), (None, 0)), (x, kernel), (vx, vk), False,
        ),
        "few images": (conv, (x[0], kernel[0]), (vx[0], vk[0]), False),
    }  # fmt: skip
    for case, (way, point, direction, own) in cases.items():
        assert "conv_general_dilated" not in str(jax.make_jaxpr(way(convolve))(*point)), case
        with layers.answering():
            program = str(jax.make_jaxpr(way(convolve))(*point))
            ours = value_and_derivatives(way(convolve), point, direction)
        assert ("conv_general_dilated" in program) is own, case
        assert_close(ours, value_and_derivatives(way(reference), point, direction))
    layers._convolution.cache_clear()


def both_ways(f, point, direction):
    """f and all its derivatives, the second ones forward over reverse and reverse over reverse."""
    gradient = jax.grad(lambda *point: jnp.sin(f(*point)).sum(), (0, 1))
    return f(*point), jax.jvp(gradient, point, direction), jax.vjp(gradient, *point)[1](direction)


def one_by_one(f, axes):
    """f for each of what is mapped over, alone."""
    if axes == (None, None):
        return f
    return lambda *of: jnp.stack(
        [
            f(*(x if axis is None else x[i] for x, axis in zip(of, axes, strict=True)))
            for i in range(next(len(x) for x, axis in zip(of, axes, strict=True) if axis is not None))
        ]
    )


@pytest.mark.parametrize(
    ("size", "padding", "block"),
    [
        ((5, 8, 7), "SAME", None),
        ((23, 8, 7), "SAME", 2),  # and a rest of one
        ((4, 11, 8), "VALID", None),
        ((4, 7, 9), [(0, 2), (2, 1)], None),
        ((1, 6, 6), "SAME", None),  # too few for Winograd's way
    ],
)
def test_a_convolution_of_3_x_3_is_exact_with_its_first_and_second_derivatives(size, padding, block, monkeypatch):
    if block is not None:
        monkeypatch.setattr(patches, "BLOCK_BYTES", block * 16 * 16 * (32 + 33) * 8)
    draw = np.random.default_rng(0)
    with jax.enable_x64(True), jax.debug_key_reuse(False):
        point, direction = ((draw.normal(size=(*size, 32)), draw.normal(size=(3, 3, 32, 33))) for _ in "pd")

        @jax.jit
        def of(point, direction):
            return [
                both_ways(lambda x, kernel, f=f: f(x, kernel, (1, 1), padding), point, direction)
                for f in (convolve, reference)
            ]

        program = str(jax.make_jaxpr(lambda *of: convolve(*of, (1, 1), padding))(*point))
        assert "convolution_3x3" in program
        ours, theirs = of(point, direction)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max()), ours, theirs)


@pytest.mark.parametrize("outer", [(None, None), (0, None), (0, 0)])
def test_a_convolution_of_3_x_3_of_many_tasks_is_that_of_each(outer):
    """Vmapped over images and kernels, once and twice."""
    draw = np.random.default_rng(0)
    ways = [(0, None), (None, 0), (0, 0), (1, 0)]

    def shaped(shape, of, way):
        for axis, length in ((way[of], 2), (outer[of], 3)):
            shape = shape if axis is None else (*shape[:axis], length, *shape[axis:])
        return draw.normal(size=shape)

    with jax.enable_x64(True), jax.debug_key_reuse(False):
        shapes = ((4, 8, 8, 32), (3, 3, 32, 32))
        points = [
            [tuple(shaped(shape, of, way) for of, shape in enumerate(shapes)) for way in ways] for _ in ("p", "d")
        ]

        def same(x, kernel):
            return convolve(x, kernel, (1, 1), "SAME")

        @jax.jit
        def of(points, directions):
            found = []
            for way, *at in zip(ways, points, directions, strict=True):
                mapped = jax.vmap(same, way)
                mapped = mapped if outer == (None, None) else jax.vmap(mapped, outer)
                alone = [
                    one_by_one(one_by_one(lambda *of: reference(*of, (1, 1), "SAME"), (way[0] and 0, way[1])), outer)
                ]
                if way[0] == 1:  # an axis behind the images' is one in front of them, moved
                    moved = 1 if outer[0] is None else 2
                    alone = [lambda x, kernel, f=alone[0], moved=moved: f(jnp.moveaxis(x, moved, moved - 1), kernel)]
                found.append([derivatives(f, *at) for f in (mapped, *alone)])
            return found

        for ours, theirs in of(*points):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max()), ours, theirs
            )


def test_winograds_way_multiplies_less_on_a_cpu_and_is_nowhere_else():
    x, kernel = jnp.zeros((10, 14, 14, 32)), jnp.zeros((3, 3, 32, 64))
    traced = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), "SAME")).trace(x, kernel)
    assert flops(traced.lower().compile().as_text()) == 2 * 10 * 7 * 7 * 16 * 32 * 64
    assert "16x490x32" in traced.lower().as_text()
    assert "1960x288" in traced.lower(lowering_platforms=("tpu",)).as_text()
    few = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), "SAME")).lower(x[:1], kernel)  # 49 tiles
    assert "196x288" in few.as_text()

    both = jax.jit(
        lambda x, kernel: jax.vjp(lambda *of: convolve(*of, (1, 1), "SAME"), x, kernel)[1](jnp.zeros((10, 14, 14, 64)))
    )
    assert flops(both.lower(x, kernel).compile().as_text()) == 2 * 2 * 10 * 7 * 7 * 16 * 32 * 64


@pytest.mark.parametrize(
    ("x", "kernel", "strides", "padding"),
    [
        ((4, 8, 8, 32), (3, 3, 32, 32), (2, 2), "SAME"),
        ((4, 8, 8, 32), (5, 5, 32, 32), (1, 1), "SAME"),
        ((4, 8, 8, 31), (3, 3, 31, 32), (1, 1), "SAME"),
        ((4, 3, 3, 32), (3, 3, 32, 32), (1, 1), "SAME"),  # tiles of 4 x 4 for an output of 3 x 3
        ((4, 8, 8, 32), (3, 3, 32, 32), (1, 1), [(3, 1), (1, 1)]),
    ],
)
def test_what_does_not_suit_winograds_way_is_patches_times_a_matrix(x, kernel, strides, padding):
    point = np.ones(x, np.float32), np.ones(kernel, np.float32)
    program = str(jax.make_jaxpr(lambda *of: convolve(*of, strides, padding))(*point))
    assert "convolution_3x3" not in program
    both = jax.jit(lambda *of: [f(*of, strides, padding) for f in (convolve, reference)])
    np.testing.assert_allclose(*both(*point), rtol=1e-5)


@pytest.mark.parametrize("settings", [{"stride": 2}, {"side": 1, "use_bias": False}, {"dtype": "bfloat16"}])
def test_a_convolution_is_flaxs_and_begins_as_it_does(settings):
    x = np.float32(np.random.default_rng(0).normal(size=(5, 9, 8, 3)))
    side, stride, rest = settings.get("side", 3), settings.get("stride", 1), ("use_bias", "dtype")
    same = {name: value for name, value in settings.items() if name in rest}
    ours, theirs = Convolution(4, **settings), nn.Conv(4, (side, side), stride, **same)
    begun = jax.jit(lambda key: [layer.init(jax.random.clone(key), x) for layer in (ours, theirs)])
    mine, params = begun(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, mine, params)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.1), params)
    y, expected = jax.jit(lambda params, x: (computed(ours.apply(params, x)), theirs.apply(params, x)))(params, x)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(
        y.astype(np.float32), expected.astype(np.float32), rtol=0.02 if "dtype" in settings else 1e-5, atol=1e-5
    )
