"""Layers that models share: a convolution that is fast to differentiate, and stateless normalisation."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarun.core import Array, ConfigError
from metarun.models import convolution_3x3, folded
from metarun.models.folded import Convolved
from metarun.models.patches import patches_times_matrix
from metarun.models.total import spread, total

MANY_IMAGES = 60  # with one kernel: from so many on a CPU's own convolution is faster than patches

Norm = Literal["batch", "layer", "none"]


def convolve(x: Array, kernel: Array, strides: tuple[int, int], padding: Any) -> Array:
    """A convolution that is fast where each task has its own kernel; `padding` as of `lax.conv_general_dilated`.

    x (n, height, width, c), kernel (kh, kw, c, features) -> (n, height', width', features). It is patches times a
    matrix: vmap over kernels turns that product into a batched one, and a convolution would become a grouped
    convolution, tens of times slower on a CPU. Where all that is vmapped shares ONE kernel, a CPU has a convolution
    of its own that is up to 2.5 times as fast for many images: it is taken inside `answering`. Of 3 x 3 at every pixel
    it is `convolution_3x3`, which multiplies less.
    """
    named = isinstance(padding, str)
    pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding) if named else padding
    if convolution_3x3.suits(x, kernel, strides, pads):
        return convolution_3x3.convolution_3x3(x, kernel, pads)
    if not _answering.get():
        return patches_times_matrix(x, kernel, strides, pads)
    return _convolution(tuple(strides), tuple(map(tuple, pads)))(x, kernel)


_answering: ContextVar[bool] = ContextVar("answering", default=False)


@contextmanager
def answering() -> Iterator[None]:
    """Convolutions traced inside are not meant to be differentiated (they may be): see `convolve`."""
    token = _answering.set(True)
    try:
        yield
    finally:
        _answering.reset(token)


@functools.lru_cache
def _convolution(strides: tuple[int, int], pads: tuple[tuple[int, int], ...]) -> Any:
    """(x, kernel) -> `convolve`'s result."""

    def as_patches(x: Array, kernel: Array) -> Array:
        return patches_times_matrix(x, kernel, strides, pads)

    def as_convolution(x: Array, kernel: Array) -> Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=dimensions)

    @jax.custom_batching.custom_vmap
    def one_kernel(x: Array, kernel: Array) -> Array:
        if len(x) < MANY_IMAGES:
            return as_patches(x, kernel)
        return jax.lax.platform_dependent(x, kernel, cpu=as_convolution, default=as_patches)

    @one_kernel.def_vmap
    def of_many(size: int, batched: list[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
        if batched[1]:
            return jax.vmap(as_patches, [0 if one else None for one in batched])(x, kernel), True
        y = one_kernel(x.reshape(-1, *x.shape[2:]), kernel)
        return y.reshape(size, -1, *y.shape[1:]), True

    @jax.custom_jvp
    def convolution(x: Array, kernel: Array) -> Array:
        return one_kernel(x, kernel)

    @functools.partial(convolution.defjvp, symbolic_zeros=True)
    def derivative(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
        """Of patches times a matrix, in what varies. The way there is patches, too, and the way back shares them."""
        varies = [not isinstance(tangent, jax.custom_derivatives.SymbolicZero) for tangent in tangents]

        def of(*those: Array) -> Array:
            rest = iter(those)
            return as_patches(*(next(rest) if one else primal for one, primal in zip(varies, primals, strict=True)))

        def chosen(pair: tuple[Any, Any]) -> tuple[Any, ...]:
            return tuple(part for one, part in zip(varies, pair, strict=True) if one)

        return jax.jvp(of, chosen(primals), chosen(tangents))

    return convolution


def must_be_images(model: str, x: Array, least: int = 1) -> None:
    """Raises ConfigError unless x is (n, height, width, channels), of `least` pixels or more each way."""
    if x.ndim == 4 and min(x.shape[1:3]) >= least:
        return
    large = f" of {least} x {least} and more" if least > 1 else ""
    use = f"use model={'conv4' if x.ndim == 4 else 'mlp'}"
    if x.ndim == 3 and min(x.shape[1:]) > 4:
        use = f"give grey ones a channel (numpy's x[..., None]), or {use}"
    raise ConfigError("model", model, f"takes images (n, height, width, channels){large}, not {x.shape}; {use}")


class Convolution(nn.Module):
    """x (n, height, width, c) -> (n, height', width', filters), padded with zeros; its parameters are `nn.Conv`'s.

    `Normalisation` takes it as it is given, not computed yet; `computed` gives its images.
    """

    filters: int
    side: int = 3  # of the kernel
    stride: int = 1
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: str | None = None  # to compute in

    @nn.compact
    def __call__(self, x: Array) -> Convolved:
        kernel = self.param("kernel", self.kernel_init, (self.side, self.side, x.shape[-1], self.filters))
        bias = self.param("bias", nn.initializers.zeros, (self.filters,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        strides = self.stride, self.stride
        pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, "SAME")
        return Convolved(x, kernel, bias, strides, pads)


def computed(x: Array | Convolved) -> Array:
    """The images of a convolution. Its bias is `spread`, whose derivative is fast."""
    if not isinstance(x, Convolved):
        return x
    y = convolve(x.x, x.kernel, x.strides, x.pads)
    return y if x.bias is None else y + spread(x.bias, y.shape[:-1])


class Normalisation(nn.Module):
    """x (n, ..., features), normalised with the statistics at hand; learns a scale and a bias.

    `batch` takes each feature's statistics over the batch (and the image's positions): there is no
    running average, so an output depends on what is predicted with it. `layer` takes each example's own.
    Statistics are computed in float32 at least, whatever x is in. `then` is what follows, of each image by itself.
    """

    kind: Norm
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Array | Convolved, then: Callable[[Array], Array] = lambda y: y) -> Array:
        if self.kind == "none":
            return then(computed(x))
        features = (x.kernel if isinstance(x, Convolved) else x).shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        if self.kind == "batch" and isinstance(x, Convolved) and folded.suits(x):
            return folded.folded(x, scale, bias, self.epsilon, then)
        return then(self.normalised(computed(x), scale, bias))

    def normalised(self, x: Array, scale: Array, bias: Array) -> Array:
        """x (n, ..., features), of parameters (features,)."""
        given, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))

        def everywhere(row: Array) -> Array:
            return spread(row, x.shape[:-1])

        if self.kind == "batch":
            n = x.size // x.shape[-1]
            centred = x - everywhere(total(x) / n)
            variance = total(jnp.square(centred)) / n
            factor = everywhere(scale * jax.lax.rsqrt(variance + self.epsilon))
        else:
            axes = tuple(range(1, x.ndim))
            centred = x - x.mean(axes, keepdims=True)
            variance = jnp.square(centred).mean(axes, keepdims=True)
            factor = everywhere(scale) * jax.lax.rsqrt(variance + self.epsilon)
        return (centred * factor + everywhere(bias)).astype(given)
