"""The convolution with a kernel of 3 x 3 at every pixel, as an operation of its own: fast on a CPU, and closed.

It is linear in the image and in the kernel. Its derivative in the image is such a convolution again, that in the kernel
another operation of two arguments, whose derivatives are such convolutions. So none of any order keeps more than the
images and kernels, and each platform computes every one of them in its own way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from metarun.core import Array
from metarun.models import winograd
from metarun.models.patches import block_of, patches_times_matrix
from metarun.models.winograd import Pads

Computed = Callable[[Array, Array, Pads], Array]  # an operation, of one task
Shape = Callable[[tuple[int, ...], tuple[int, ...], Pads], tuple[int, ...]]  # of its result, by its operands'

FEW_CHANNELS = 32  # with fewer, the transformations cost what the products gain
FEW_TILES = 64  # likewise, of all images of a task
GAIN = 1.5  # the least number of multiplications for each one of Winograd's that is worth them


def suits(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> bool:
    """Whether this is such a convolution, large enough that Winograd's way may pay."""
    if kernel.shape[:2] != (3, 3) or strides != (1, 1) or min(kernel.shape[2:]) < FEW_CHANNELS:
        return False
    if x.dtype != kernel.dtype or x.dtype not in (jnp.float32, jnp.float64):
        return False
    if not all(0 <= pad <= 2 for pair in pads for pad in pair):
        return False
    height, width = winograd.output(x.shape, pads)
    down, across = winograd.tiles(height, width)
    return min(height, width) > 0 and 9 * height * width >= GAIN * 16 * down * across


def convolution_3x3(x: Array, kernel: Array, pads: Pads) -> Array:
    """x (n, height, width, c), kernel (3, 3, c, features) -> (n, height', width', features).

    `pads` are 0 to 2 pixels of zeros above and below, left and right. All of jax's transformations pass. It is as
    precise as jax's setting says here, where it is traced, and so are its derivatives: see `product`.
    """
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return convolution_p.bind(x, kernel, pads=tuple(map(tuple, pads)), precision=precision)


# Of operands (n, height, width, c) and (3, 3, c, features), or with one more axis in front of both: tasks that each
# have a kernel. The other's second operand is (n, height', width', features), and its result such a kernel.
convolution_p = Primitive("convolution_3x3")
correlation_p = Primitive("correlation_3x3")


def _transposed(kernel: Array) -> Array:
    """The kernel of the derivative in the image."""
    return jnp.flip(kernel, (-4, -3)).swapaxes(-2, -1)


def _back(pads: Pads) -> Pads:
    """The pads with which a derivative in the image has the image's size."""
    return tuple(tuple(2 - pad for pad in pair) for pair in pads)


def _convolution_of_x(y: Array, x: Any, kernel: Array, *, pads: Pads, **precision: Any) -> Array:
    return convolution_p.bind(y, _transposed(kernel), pads=_back(pads), **precision)


def _convolution_of_kernel(y: Array, x: Array, kernel: Any, **how: Any) -> Array:
    return correlation_p.bind(x, y, **how)


def _correlation_of_x(kernel: Array, x: Any, y: Array, *, pads: Pads, **precision: Any) -> Array:
    return convolution_p.bind(y, _transposed(kernel), pads=_back(pads), **precision)


def _correlation_of_y(kernel: Array, x: Array, y: Any, **how: Any) -> Array:
    return convolution_p.bind(x, kernel, **how)


def _in_front(operands: tuple[Array, Array], axes: tuple[int | None, int | None]) -> tuple[Array, Array]:
    """Both with the new axis in front, repeated where it had none."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    first, second = (
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    )
    return first, second


def _batch_each(primitive: Primitive, first: Array, second: Array, **how: Any) -> tuple[Array, int]:
    """Operands that both have a new axis in front: it joins the tasks'."""
    if first.ndim == 5:
        return primitive.bind(first, second, **how), 0
    y = primitive.bind(*(x.reshape(-1, *x.shape[2:]) for x in (first, second)), **how)
    return y.reshape(*first.shape[:2], *y.shape[1:]), 0


def _batch_convolution(
    operands: tuple[Array, Array], axes: tuple[int | None, int | None], **how: Any
) -> tuple[Array, int]:
    """One kernel for all: the images of all are images of ONE convolution."""
    if axes[1] is not None:
        return _batch_each(convolution_p, *_in_front(operands, axes), **how)
    x = jnp.moveaxis(operands[0], axes[0] or 0, -5)  # in front of the images
    y = convolution_p.bind(x.reshape(*x.shape[:-5], -1, *x.shape[-3:]), operands[1], **how)
    return y.reshape(*x.shape[:-3], *y.shape[-3:]), x.ndim - 5


def _batch_correlation(
    operands: tuple[Array, Array], axes: tuple[int | None, int | None], **how: Any
) -> tuple[Array, int]:
    return _batch_each(correlation_p, *_in_front(operands, axes), **how)


def _patches(x: Array, kernel: Array, pads: Pads) -> Array:
    return patches_times_matrix(x, kernel, (1, 1), pads)


def _correlated_patches(x: Array, y: Array, pads: Pads) -> Array:
    shape = (3, 3, x.shape[-1], y.shape[-1])
    return winograd.transposed(lambda kernel: _patches(x, kernel, pads), shape, y)


def _winograd(x: Array, kernel: Array, pads: Pads) -> Array:
    matrices = winograd.of_kernel(kernel)
    (n, *one), block = x.shape, _block(x, kernel.shape[-1], pads)
    if block is None:
        return winograd.convolved(x, matrices, pads)
    whole = n - n % block
    y = jax.lax.map(lambda x: winograd.convolved(x, matrices, pads), x[:whole].reshape(-1, block, *one))
    y = y.reshape(whole, *y.shape[2:])
    return y if whole == n else jnp.concatenate([y, winograd.convolved(x[whole:], matrices, pads)])


def _correlated_winograd(x: Array, y: Array, pads: Pads) -> Array:
    shape, n, block = (3, 3, x.shape[-1], y.shape[-1]), len(x), _block(x, y.shape[-1], pads)
    if block is None:
        return winograd.transposed(winograd.of_kernel, shape, winograd.correlated(x, y, pads))

    def add(total: Array, block: tuple[Array, ...]) -> tuple[Array, None]:
        x, y = block
        return total + winograd.correlated(x, y, pads), None

    whole = n - n % block
    start = jnp.zeros((16, *shape[2:]), x.dtype) if whole == n else winograd.correlated(x[whole:], y[whole:], pads)
    blocks = [part[:whole].reshape(-1, block, *part.shape[1:]) for part in (x, y)]
    total, _ = jax.lax.scan(add, start, tuple(blocks))
    return winograd.transposed(winograd.of_kernel, shape, total)


def _block(x: Array, features: int, pads: Pads) -> int | None:
    down, across = winograd.tiles(*winograd.output(x.shape, pads))
    return block_of(x.shape[0], 16 * down * across * (x.shape[-1] + features) * x.dtype.itemsize)


def _are_few(x: Array, pads: Pads) -> bool:
    """Whether Winograd's way does not pay for so few images; of an exported program the number is not known."""
    down, across = winograd.tiles(*winograd.output(x.shape, pads))
    return isinstance(x.shape[0], int) and x.shape[0] * down * across < FEW_TILES


def _on_a_cpu(few: Computed, many: Computed) -> Computed:
    return lambda x, other, pads: (few if _are_few(x, pads) else many)(x, other, pads)


def _register(primitive: Primitive, computed: Computed, on_a_cpu: Computed, shape: Shape) -> None:
    def lowering(one: Computed) -> Any:
        def of_all(x: Array, other: Array, *, pads: Pads, precision: str | None) -> Array:
            def of_task(x: Array, other: Array) -> Array:
                return one(x, other, pads)

            with jax.default_matmul_precision(precision):
                return of_task(x, other) if x.ndim == 4 else jax.vmap(of_task)(x, other)

        return mlir.lower_fun(of_all, multiple_results=False)

    def abstract(x: Any, other: Any, *, pads: Pads, precision: str | None) -> Any:
        return jax.core.ShapedArray(shape(x.shape, other.shape, pads), x.dtype)

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("pads", "precision")))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lowering(computed))
    mlir.register_lowering(primitive, lowering(on_a_cpu), platform="cpu")


_register(
    convolution_p,
    _patches,
    _on_a_cpu(_patches, _winograd),
    lambda x, kernel, pads: (*x[:-3], *winograd.output(x, pads), kernel[-1]),
)
_register(
    correlation_p,
    _correlated_patches,
    _on_a_cpu(_correlated_patches, _correlated_winograd),
    lambda x, y, pads: (*x[:-4], 3, 3, x[-1], y[-1]),
)
ad.defbilinear(convolution_p, _convolution_of_x, _convolution_of_kernel)
ad.defbilinear(correlation_p, _correlation_of_x, _correlation_of_y)
batching.primitive_batchers[convolution_p] = _batch_convolution
batching.primitive_batchers[correlation_p] = _batch_correlation
