"""Hand-drawn-like characters from a random key alone: an endless Omniglot that needs no download."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, Count, Episode, Key, Metrics, NonNegative, PyTree
from metarun.tasks.episode import by_class

SIDE = 28  # pixels
STROKES = 4  # at most, in one character
POINTS = 20  # at which the pen is put down along a stroke

# Every class has a number, and each split draws its numbers from a range of its own.
CLASSES = 2**29
FIRST_CLASS = {"train": 0, "val": CLASSES, "test": 2 * CLASSES}


class Program(NamedTuple):
    """A character: how to draw it. Coordinates run from -1 to 1 across the image."""

    control: Array  # (STROKES, 3, 2): start, bend and end of each quadratic Bezier curve
    pressure: Array  # (STROKES,): 1 for a stroke that is drawn, 0 for one that is not


def program(number: Array) -> Program:
    """The character of a class number (): different numbers give independent characters."""
    k_count, k_start, k_end, k_bend, k_joined = jax.random.split(
        jax.random.fold_in(jax.random.key(0), number), 5
    )
    count = jax.random.randint(k_count, (), 1, STROKES + 1)
    start = jax.random.uniform(k_start, (STROKES, 2), minval=-0.7, maxval=0.7)
    end = jax.random.uniform(k_end, (STROKES, 2), minval=-0.7, maxval=0.7)
    bend = (start + end) / 2 + 0.5 * jax.random.normal(k_bend, (STROKES, 2))
    # Half of the strokes go on where the one before them ended, as a pen that is not lifted.
    joined = jax.random.bernoulli(k_joined, shape=(STROKES, 1)).at[0].set(False)
    start = jnp.where(joined, jnp.roll(end, 1, axis=0), start)
    return Program(jnp.stack([start, bend, end], axis=1), (jnp.arange(STROKES) < count).astype(start.dtype))


def draw(program: Program, key: Key, jitter: float) -> Array:
    """One person's drawing of a character: an image (SIDE, SIDE, 1) in [0, 1], ink = 1."""
    k_control, k_affine, k_shift, k_width = jax.random.split(key, 4)
    control = program.control + 0.07 * jitter * jax.random.normal(k_control, program.control.shape)

    # Rotation (radians), scale and shear, then a shift: the whole character moves.
    rotation, log_scale, stretch, shear = (
        jitter * jnp.array([0.22, 0.12, 0.10, 0.15]) * jax.random.normal(k_affine, (4,))
    )
    cos, sin = jnp.cos(rotation), jnp.sin(rotation)
    turn = jnp.array([[cos, -sin], [sin, cos]])
    distort = jnp.exp(log_scale) * jnp.array([[jnp.exp(stretch), shear], [0.0, jnp.exp(-stretch)]])
    shift = 0.09 * jitter * jax.random.normal(k_shift, (2,))
    control = control @ (turn @ distort).T + shift

    # The pen's path, and how far it moves at each of its points.
    t = (jnp.arange(POINTS) + 0.5)[:, None] / POINTS
    start, bend, end = (control[:, None, i] for i in range(3))  # (STROKES, 1, 2)
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end  # (STROKES, POINTS, 2)
    velocity = 2 * (1 - t) * (bend - start) + 2 * t * (end - bend)
    moved = jnp.linalg.norm(velocity, axis=-1) / POINTS

    # A brush with a Gaussian tip: separable, so an image is one matrix product over the path's points.
    # Ink adds up along the path and saturates, which leaves a smooth, anti-aliased edge.
    width = 0.055 * jnp.exp(0.25 * jitter * jax.random.normal(k_width))
    pixels = (jnp.arange(SIDE) + 0.5) * 2 / SIDE - 1
    tip = jnp.exp(-0.5 * jnp.square((path[..., None] - pixels) / width))  # (STROKES, POINTS, 2, SIDE)
    ink = program.pressure[:, None] * moved / width
    image = jnp.einsum("sp,spy,spx->yx", ink, tip[:, :, 1], tip[:, :, 0])
    return jnp.minimum(image, 1.0)[..., None]


@dataclass(frozen=True)
class Strokes:
    """N-way classification of characters that nobody has seen before: 1 to 4 curved strokes each."""

    ways: Count
    shots: Count
    queries: Count  # per class
    jitter: NonNegative  # how much drawings of one character differ; 0: not at all
    metric = "accuracy"

    @property
    def n_out(self) -> int:
        return self.ways

    def check(self, split: str) -> None:
        """Any number of ways, shots and queries can be drawn."""

    def load(self, split: str) -> PyTree:
        return np.int32(FIRST_CLASS[split])

    def digest(self, split: str) -> str:
        return f"{FIRST_CLASS[split]}-{FIRST_CLASS[split] + CLASSES - 1}"

    def classes(self, first: Array, key: Key) -> Array:
        """The numbers (ways,) of an episode's classes, all different."""
        k_number, k_order = jax.random.split(key)
        # One number from each of `ways` residues, so no two agree; the labels then get a random order.
        base = jax.random.randint(k_number, (self.ways,), 0, CLASSES // self.ways) * self.ways
        return first + jax.random.permutation(k_order, base + jnp.arange(self.ways))

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_classes, k_drawings = jax.random.split(key)
        programs = jax.vmap(program)(self.classes(data, k_classes))
        keys = jax.random.split(k_drawings, (self.ways, self.shots + self.queries))
        draw_all = jax.vmap(jax.vmap(draw, in_axes=(None, 0, None)), in_axes=(0, 0, None))
        return by_class(draw_all(programs, keys, self.jitter), self.shots)

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.cross_entropy(outputs, y)
