"""Hand-drawn-like characters from a random key alone: an endless Omniglot that needs no download."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, ConfigError, Count, Episode, Key, Metrics, NonNegative, PyTree, Ways
from metarun.data import Image, choose
from metarun.tasks.episode import by_class, must_fit

SIDE = 28  # pixels
STROKES = 4  # at most, in one character
POINTS = 32  # at which the pen is put down along a stroke

# Every class has a number, and each split draws its numbers from a range of its own.
CLASSES = 2**29
FIRST_CLASS = {"train": 0, "val": CLASSES, "test": 2 * CLASSES}


class Program(NamedTuple):
    """A character: how to draw it. Coordinates run from -1 to 1 across the image."""

    control: Array  # (STROKES, 3, 2): start, bend and end of each quadratic Bezier curve
    pressure: Array  # (STROKES,): 1 for a stroke that is drawn, 0 for one that is not


def program(number: Array) -> Program:
    """The character of a class number (): different numbers give independent characters."""
    k_uniform, k_normal = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
    # One draw for all that is uniform: every separate draw is a kernel more to compile.
    u = jax.random.uniform(k_uniform, (1 + STROKES + 4 * STROKES,))
    count = 1 + jnp.floor(STROKES * u[0])
    start, end = u[1 + STROKES :].reshape(2, STROKES, 2)
    bend = (start + end) / 2 + 0.35 * jax.random.normal(k_normal, (STROKES, 2))
    # Half of the strokes go on where the one before them ended, as with a pen that is not lifted.
    joined = (u[1 : 1 + STROKES] < 0.5) & (jnp.arange(STROKES) > 0)
    start = jnp.where(joined[:, None], jnp.roll(end, 1, axis=0), start)
    drawn = (jnp.arange(STROKES) < count)[:, None, None]
    # Every character fills the same square, about its middle: three points of each curve tell where it is.
    on_curve = jnp.stack([start, (start + 2 * bend + end) / 4, end], axis=1)
    low = jnp.where(drawn, on_curve, jnp.inf).min((0, 1), keepdims=True)
    high = jnp.where(drawn, on_curve, -jnp.inf).max((0, 1), keepdims=True)
    control = jnp.stack([start, bend, end], axis=1) - (low + high) / 2
    return Program(1.2 * control / (high - low).max(), drawn[:, 0, 0].astype(u.dtype))


def draw(program: Program, key: Key, jitter: float) -> Array:
    """One person's drawing of a character: an image (SIDE, SIDE, 1) in [0, 1], ink = 1."""
    normal = jitter * jax.random.normal(key, (program.control.size + 7,))
    control = program.control + 0.05 * normal[7:].reshape(program.control.shape)

    # Rotation (radians), size, stretch and shear, then a shift: the whole character moves.
    rotation, size, stretch, shear = jnp.array([0.28, 0.12, 0.10, 0.15]) * normal[:4]
    cos, sin = jnp.cos(rotation), jnp.sin(rotation)
    turn = jnp.array([[cos, -sin], [sin, cos]])
    distort = jnp.exp(size) * jnp.array([[jnp.exp(stretch), shear], [0.0, jnp.exp(-stretch)]])
    control = control @ (turn @ distort).T + 0.09 * normal[None, None, 4:6]
    width = 0.06 * jnp.exp(0.3 * normal[6])

    # The pen's path, and how far it moves at each of its points. Both are matrix products, for XLA computes anew for
    # every pixel what only loops lead to: the character's normals, three times as long as all else here.
    t = (jnp.arange(POINTS) + 0.5) / POINTS
    position = jnp.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])  # (3, POINTS) of start, bend and end
    velocity = 2 * jnp.stack([t - 1, 1 - 2 * t, t])
    x, y = jnp.einsum("kp,skc->csp", position, control, precision="highest").reshape(2, -1)  # (STROKES * POINTS,)
    moved = jnp.linalg.norm(jnp.einsum("kp,skc->spc", velocity, control, precision="highest"), axis=-1) / POINTS

    # A brush with a Gaussian tip: separable, so an image is one matrix product over the path's points.
    # Ink adds up along the path and saturates, which leaves a smooth, anti-aliased edge.
    pixels = (jnp.arange(SIDE) + 0.5) * 2 / SIDE - 1
    ink = (program.pressure[:, None] * moved / width).reshape(-1)
    across = jnp.exp(-0.5 * jnp.square((x[:, None] - pixels[None]) / width))  # (STROKES * POINTS, SIDE)
    down = ink[None] * jnp.exp(-0.5 * jnp.square((y[None] - pixels[:, None]) / width))
    image = down @ across
    return jnp.minimum(image, 1.0)[..., None]


@dataclass(frozen=True)
class Strokes:
    """N-way classification of characters that nobody has seen before: 1 to 4 curved strokes each."""

    ways: Ways
    shots: Count
    queries: Count  # per class
    jitter: NonNegative  # how much drawings of one character differ; 0: not at all
    pool: Count | None  # training draws from so many classes only; null: no end of them
    prepares = Image(SIDE, "grey", "pad", invert=True)  # dark ink on white paper, as people draw
    metric = "accuracy"

    @property
    def n_out(self) -> int:
        return self.ways

    def check(self, split: str) -> None:
        classes = self.n_classes(split)
        if classes and self.ways > classes:
            raise ConfigError("ways", self.ways, f"at most task.pool={classes}")
        must_fit((SIDE, SIDE), self.shots, self.queries, self.ways)

    def n_classes(self, split: str) -> int | None:
        return self.pool if split == "train" else None

    def load(self, split: str) -> PyTree:
        """The first class (), or all (pool,) where there is an end of them."""
        classes = self.n_classes(split)
        return np.int32(FIRST_CLASS[split]) + (np.arange(classes, dtype=np.int32) if classes else np.int32(0))

    def digest(self, split: str) -> str:
        return f"{FIRST_CLASS[split]}-{FIRST_CLASS[split] + (self.n_classes(split) or CLASSES) - 1}"

    def classes(self, data: Array, key: Key) -> Array:
        """The numbers (ways,) of an episode's classes, all different."""
        if data.ndim:
            return data[choose(key, len(data), self.ways)]
        k_number, k_order = jax.random.split(key)
        # One number from each of `ways` residues, so no two agree; the labels then get a random order.
        base = jax.random.randint(k_number, (self.ways,), 0, CLASSES // self.ways) * self.ways
        return data + jax.random.permutation(k_order, base + jnp.arange(self.ways))

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_classes, k_drawings = jax.random.split(key)
        classes = self.classes(data, k_classes)
        programs = jax.vmap(program)(classes)
        keys = jax.random.split(k_drawings, (self.ways, self.shots + self.queries))
        draw_all = jax.vmap(jax.vmap(draw, in_axes=(None, 0, None)), in_axes=(0, 0, None))
        return by_class(draw_all(programs, keys, self.jitter), self.shots, classes)

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.cross_entropy(outputs, y)
