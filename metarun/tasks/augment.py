"""Training images changed at random, each by itself, on the device: support and query sets apart.

A task distribution of images has a field `augment`, and `sample = sample_images`. Evaluation is of images as they are:
its task distribution is the same value with `augment` None, which metarun.config.run sees to.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from metarun.core import Array, Batch, ConfigError, CountOrZero, Episode, Key, PyTree, Share
from metarun.tasks import classes


@dataclass(frozen=True)
class Augment:
    """How an image is changed, in this order; 0, or false, leaves it out."""

    rotate: Annotated[float, Ge(0), Le(180)]  # by at most so many degrees, either way; black comes in from outside
    crop: CountOrZero  # pixels of a black frame, of which with the image a window of its size is kept
    flip: bool  # left and right exchanged, or not, evenly
    brightness: Share  # times 1 - this to 1 + this
    contrast: Share  # likewise, the distance from the image's mean grey
    saturation: Share  # likewise, each pixel's distance from its grey
    cutout: CountOrZero  # pixels, the side of a square made black, wholly within the image

    @property
    def off(self) -> bool:
        return not any(vars(self).values())


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a training episode."""

    support: Augment
    query: Augment


class InImages(classes.InClasses, Protocol):
    """N-way K-shot tasks of images, (side, side, 1 or 3) uint8."""

    @property
    def augment(self) -> Augmentation | None: ...


def must_suit(how: Augmentation | None, shape: tuple[int, ...]) -> None:
    """Raises ConfigError for what images of this shape (side, side, channels) have no room, or no colour, for."""
    for part, its in {"support": how.support, "query": how.query}.items() if how else ():
        for name, pixels in {"crop": its.crop, "cutout": its.cutout}.items():
            if pixels >= shape[0]:
                raise ConfigError(f"augment.{part}.{name}", pixels, f"less than {shape[0]}, the images' side in pixels")
        if its.saturation and shape[-1] == 1:
            raise ConfigError(f"augment.{part}.saturation", its.saturation, "0, as the images are grey")


def sample_images(self: InImages, data: PyTree, key: Key) -> Episode:
    """An episode as `classes.sample` draws it, its images changed as `augment` says."""
    how = self.augment
    if how is None or (how.support.off and how.query.off):
        return classes.sample(self, data, key)
    k_draw, k_support, k_query = jax.random.split(key, 3)
    (x, y), (query_x, query_y), chosen, _ = classes.sample(self, data, k_draw)
    support = Batch(augmented(x, k_support, how.support), y)
    return Episode(support, Batch(augmented(query_x, k_query, how.query), query_y), chosen)


def augmented(images: Array, key: Key, how: Augment) -> Array:
    """images (n, side, side, channels) float32 from 0 to 1, each changed by itself."""
    if how.off:
        return images
    # One draw for all of it: every separate draw is a kernel more to compile. What is switched on moves nothing else.
    return jax.vmap(lambda image, u: changed(image, u, how))(images, jax.random.uniform(key, (len(images), 9)))


def changed(image: Array, u: Array, how: Augment) -> Array:
    """image (side, side, channels), changed by the random numbers u (9,) from 0 to 1."""
    side = len(image)
    if how.rotate:
        image = turned(image, math.radians(how.rotate) * (2 * u[0] - 1))
    if how.crop:
        framed = jnp.pad(image, ((how.crop, how.crop), (how.crop, how.crop), (0, 0)))
        down, right = place(u[1], 2 * how.crop + 1), place(u[2], 2 * how.crop + 1)
        image = jax.lax.dynamic_slice(framed, (down, right, 0), image.shape)
    if how.flip:
        image = jnp.where(u[3] < 0.5, image[:, ::-1], image)
    if how.brightness:
        image = jnp.clip(image * factor(u[4], how.brightness), 0, 1)
    if how.contrast:
        image = away_from(grey(image.mean((0, 1), keepdims=True)), image, factor(u[5], how.contrast))
    if how.saturation:
        image = away_from(grey(image), image, factor(u[6], how.saturation))
    if how.cutout:
        top, left = place(u[7], side - how.cutout + 1), place(u[8], side - how.cutout + 1)
        at = jnp.arange(side)
        rows, columns = ((at >= start) & (at < start + how.cutout) for start in (top, left))
        image = jnp.where((rows[:, None] & columns[None])[..., None], 0.0, image)
    return image


def place(u: Array, n: int) -> Array:
    """One of n places (), each equally likely."""
    return jnp.floor(u * n).astype(jnp.int32)


def factor(u: Array, part: float) -> Array:
    return 1 + part * (2 * u - 1)


def grey(image: Array) -> Array:
    """(side, side, 1): how bright the eye finds each pixel (ITU-R 601)."""
    if image.shape[-1] == 1:
        return image
    return (image @ jnp.array([0.299, 0.587, 0.114]))[..., None]


def away_from(middle: Array, image: Array, by: Array) -> Array:
    middle = jnp.broadcast_to(middle, image.shape)
    return jnp.clip(middle + by * (image - middle), 0, 1)


def turned(image: Array, angle: Array) -> Array:
    """image (side, side, channels) about its middle by angle () radians, counter-clockwise, black beyond its edge.

    Between pixels it is interpolated, linearly each way.
    """
    middle = (len(image) - 1) / 2
    down, right = jnp.meshgrid(*2 * [jnp.arange(len(image)) - middle], indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    at = [cos * down + sin * right + middle, cos * right - sin * down + middle]
    return jax.vmap(lambda colour: jax.scipy.ndimage.map_coordinates(colour, at, order=1), 2, 2)(image)
