"""Omniglot: 1,623 handwritten characters from 50 alphabets, each drawn by 20 people. Lake et al. 2015."""

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from metarun import losses
from metarun.core import Array, ConfigError, Count, DataError, Episode, Key, Metrics, PyTree, Ways
from metarun.data import Image, Pool, cached, draw, fetched, find
from metarun.tasks.episode import by_class

SIDE = 28
IMAGE = Image(SIDE, "grey", "pad", invert=True)  # what a drawing is brought to
DRAWERS = 20
MOST_BYTES = 2**26  # of an archive's drawings, unpacked: four times what they take
HOME = "https://github.com/brendenlake/omniglot/raw/master/python/"


class Archive(NamedTuple):
    """One of the data set's two zip files, and what its drawings must be."""

    name: str
    characters: int
    digest: str  # sha256 over the .png members by name, of name + NUL + sha256(bytes)


BACKGROUND = Archive("images_background.zip", 964, "07356096b8076fcf915341f8715e94822249e2a4d5b999fd2d0f6cf9ebffebd5")
EVALUATION = Archive("images_evaluation.zip", 659, "f5165eb5f20d18e13c6515650b69a42a2c0507506969d410ba5e4a1c572bd542")


class Drawings(NamedTuple):
    """What `sample` needs of a split."""

    pool: Pool  # x (characters * DRAWERS, SIDE, SIDE) uint8, ink = 255; a character's turned classes share its rows
    turns: Array | np.ndarray  # (classes,) int32: by how many quarter turns a class is always turned


@dataclass(frozen=True)
class Omniglot:
    """N-way classification of characters that were not seen in training.

    split `finn` (Finn et al. 2017): all characters shuffled by a fixed seed, 1,100 / 100 / 423; in every
        episode each class is turned by a random multiple of 90 degrees, at test too.
    split `vinyals` (Vinyals et al. 2016): the published list, 1,028 / 172 / 423 characters; each of a
        character's four rotations is a class of its own, in every split.
    split `lake`: the background alphabets for training and the evaluation alphabets (659 characters) for
        test, nothing turned; the 5 smallest background alphabets (81 characters) are the validation set,
        as in Meta-Dataset (Triantafillou et al. 2020).
    split `reptile` (Nichol et al. 2018): all characters shuffled by a fixed seed, 1,150 / 50 / 423 (the authors'
        code has 1,200 to train on and nothing to validate with; Antoniou et al. 2019 have these numbers); each of a
        character's four rotations is a class of its own in training, and at val and test nothing is turned.
    """

    ways: Ways
    shots: Count
    queries: Count  # per class
    split: Literal["finn", "vinyals", "lake", "reptile"]
    data_dir: str | None
    # As Santoro et al. 2016 (section 4.1) do; not at all where a run has no key for it.
    rotate: Annotated[float, Ge(0), Le(180)] = 0.0  # each drawing by at most so many degrees, either way
    shift: Annotated[float, Ge(0), Le(0.5)] = 0.0  # and by at most this part of its side, down or up, right or left
    prepares = IMAGE
    metric = "accuracy"

    @property
    def n_out(self) -> int:
        return self.ways

    def check(self, split: str) -> None:
        classes = len(characters(self.split)[split]) * len(self.turns(split))
        if self.ways > classes:
            raise ConfigError("ways", self.ways, f"at most {classes}, the {split} classes of {self.split}")
        if self.shots + self.queries > DRAWERS:
            raise ConfigError(
                "shots+queries",
                f"{self.shots}+{self.queries}",
                f"at most {DRAWERS} together, the drawings of a character",
            )

    def turns(self, split: str) -> range:
        """By how many quarter turns a character becomes a class of its own."""
        return range(4 if self.split == "vinyals" or (self.split, split) == ("reptile", "train") else 1)

    def n_classes(self, split: str) -> int:
        return len(characters(self.split)[split]) * (4 if self.split == "finn" else len(self.turns(split)))

    def class_names(self, split: str) -> list[str]:
        """The names of the classes by the numbers that `Episode.classes` has: characters, however turned."""
        times = self.n_classes(split) // len(characters(self.split)[split])
        return [character for character in characters(self.split)[split] for _ in range(times)]

    def load(self, split: str) -> PyTree:
        names, images = load_drawings(self.data_dir)
        row = {name: i for i, name in enumerate(names)}
        chosen = characters(self.split)[split]
        turns = self.turns(split)
        x = images[[row[name] for name in chosen]].reshape(-1, SIDE, SIDE)
        first = np.repeat(np.arange(0, len(x), DRAWERS, dtype=np.int32), len(turns))
        return Drawings(
            Pool(x, first, np.full(len(first), DRAWERS, np.int32)), np.tile(np.array(turns, np.int32), len(chosen))
        )

    def examples(self, split: str, data: PyTree) -> dict[str, np.ndarray]:
        drawings = data.pool.x.reshape(-1, DRAWERS, SIDE, SIDE)
        return dict(zip(characters(self.split)[split], drawings, strict=True))

    def digest(self, split: str) -> str:
        return hashlib.sha256("\n".join(characters(self.split)[split]).encode()).hexdigest()[:16]

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_draw, k_turns, k_moves = jax.random.split(key, 3)
        chosen, rows = draw(data.pool, k_draw, self.ways, self.shots + self.queries)
        turns = data.turns[chosen]
        if self.split == "finn":
            turns = jax.random.randint(k_turns, (self.ways,), 0, 4)
            chosen = 4 * chosen + turns
        by = moves(k_moves, rows.shape, self.rotate, self.shift) if self.rotate or self.shift else None
        return by_class(look(data.pool.x, rows, turns, by)[..., None] / 255, self.shots, chosen)

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.cross_entropy(outputs, y)


def moves(key: Key, shape: tuple[int, ...], rotate: float, shift: float) -> Array:
    """(*shape, 3): for `look`, evenly within `rotate` degrees and the part `shift` of a side, either way."""
    most = jnp.array([math.radians(rotate), shift * SIDE, shift * SIDE])
    return jax.random.uniform(key, (*shape, 3), minval=-most, maxval=most)


def look(x: Array, rows: Array, turns: Array, by: Array | None = None) -> Array:
    """The drawings `rows` (ways, each) of x (n, side, side), turned: (ways, each, side, side) float32.

    Each is turned counter-clockwise by its class's `turns` (ways,) times 90 degrees. `by` (ways, each, 3) then turns it
    about its middle by by[..., 0] radians, counter-clockwise, and moves it by by[..., 1] pixels down and by[..., 2] to
    the right; between pixels it is interpolated, linearly each way, and beyond its edge there is no ink.

    Every pixel is fetched from where it comes from, and that is told by a matrix product. Turned copies to choose from,
    or angles whose cosine is taken at each pixel, are computed anew by XLA for each of the pixels that look at them.
    """
    side, pixels = x.shape[-1], x.reshape(len(x), -1)
    last, shape = side - 1, (*rows.shape, side, side)
    grid = jnp.stack(jnp.meshgrid(*2 * [2 * jnp.arange(side) - last], indexing="ij")).reshape(2, -1)  # in half pixels
    turn = jnp.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])[turns]
    if by is None:
        down, right = jnp.moveaxis((turn @ grid + last) // 2, 1, 0)[..., None, :]  # (ways, 1, side * side) each
        return pixels[rows[..., None], side * down + right].astype(jnp.float32).reshape(shape)

    cos, sin = jnp.cos(by[..., 0]), jnp.sin(by[..., 0])
    angle = jnp.stack([cos, sin, -sin, cos], -1).reshape(*rows.shape, 2, 2)
    back = jnp.einsum("wij,wejk->weik", turn, angle, precision="highest")
    at = jnp.einsum("weik,kp->weip", back, grid / 2, precision="highest")
    at = at - jnp.einsum("weik,wek->wei", back, by[..., 1:], precision="highest")[..., None] + last / 2
    down, right = jnp.moveaxis(at, 2, 0)  # (ways, each, side * side) each
    top, left = jnp.floor(down), jnp.floor(right)

    def corner(i: Array, j: Array) -> Array:
        """What the pixels (i, j) add: their ink, by how near they are."""
        near = (1 - jnp.abs(down - i)) * (1 - jnp.abs(right - j))
        inside = (i >= 0) & (i <= last) & (j >= 0) & (j <= last)
        i, j = (jnp.clip(index, 0, last).astype(jnp.int32) for index in (i, j))
        return jnp.where(inside, near * pixels[rows[..., None], side * i + j], 0)

    ink = corner(top, left) + corner(top, left + 1) + corner(top + 1, left) + corner(top + 1, left + 1)
    return ink.reshape(shape)


@cache
def characters(split: str) -> dict[str, list[str]]:
    """The characters, `<Alphabet>/character<NN>`, of train, val and test under a named split."""
    published = json.loads(Path(__file__).with_name("omniglot_characters.json").read_text())
    names = {
        archive: [f"{alphabet}/character{i + 1:02}" for alphabet, n in alphabets.items() for i in range(n)]
        for archive, alphabets in published["alphabets"].items()
    }
    if split == "lake":
        sizes = published["alphabets"]["background"]
        held_out = sorted(sizes, key=lambda alphabet: (sizes[alphabet], alphabet))[:5]
        is_val = [name.split("/")[0] in held_out for name in names["background"]]
        val = [name for name, held in zip(names["background"], is_val, strict=True) if held]
        train = [name for name, held in zip(names["background"], is_val, strict=True) if not held]
        return {"train": train, "val": val, "test": names["evaluation"]}
    everything = sorted(names["background"] + names["evaluation"])
    if split in ("finn", "reptile"):
        order = np.random.RandomState(1).permutation(len(everything))
        shuffled = [everything[i] for i in order]
        n = 1100 if split == "finn" else 1150
        return {"train": shuffled[:n], "val": shuffled[n:1200], "test": shuffled[1200:]}
    held = {part: set(_expand(published["vinyals"][part])) for part in ("val", "test")}
    return {
        "train": [name for name in everything if name not in held["val"] | held["test"]],
        "val": [name for name in everything if name in held["val"]],
        "test": [name for name in everything if name in held["test"]],
    }


def _expand(numbers: dict[str, list[int]]) -> list[str]:
    return [f"{alphabet}/character{i:02}" for alphabet, ids in numbers.items() for i in ids]


def load_drawings(data_dir: str | None) -> tuple[list[str], np.ndarray]:
    """All characters' names and their drawings (1623, DRAWERS, SIDE, SIDE) uint8, ink = 255.

    Found in `data_dir`/omniglot, else downloaded; decoded once and kept in the user's cache directory.
    Raises DataError.
    """
    folder = find("omniglot", data_dir, [BACKGROUND.name, EVALUATION.name])

    def part(archive: Archive) -> dict[str, np.ndarray]:
        if folder is not None:
            return read(folder / archive.name, archive)
        return fetched(HOME + archive.name, "omniglot", data_dir, partial(read, archive=archive))

    def decode(_: Path) -> dict[str, np.ndarray]:
        parts = [part(archive) for archive in (BACKGROUND, EVALUATION)]
        names = [name for part in parts for name in part]
        return {"names": np.array(names), "images": np.stack([part[n] for part in parts for n in part])}

    def is_whole(arrays: dict[str, np.ndarray]) -> bool:
        total = BACKGROUND.characters + EVALUATION.characters
        return (
            arrays.keys() == {"names", "images"}
            and arrays["names"].shape == (total,)
            and arrays["images"].shape == (total, DRAWERS, SIDE, SIDE)
        )

    arrays = cached(f"omniglot-{BACKGROUND.digest[:8]}-{EVALUATION.digest[:8]}-{SIDE}", decode, is_whole)
    return arrays["names"].tolist(), arrays["images"]


def read(path: Path, archive: Archive) -> dict[str, np.ndarray]:
    """Character name -> drawings (DRAWERS, SIDE, SIDE) uint8 of one checked archive. Raises DataError."""
    from PIL import Image

    refused = f"{path} is not Omniglot's {archive.name}"
    remedy = "delete it and fetch it again with: metarun data omniglot"
    try:
        with zipfile.ZipFile(path) as file:
            infos = {info.filename: info for info in file.infolist() if info.filename.endswith(".png")}
            unpacked = sum(info.file_size for info in infos.values())
            if unpacked > MOST_BYTES:
                raise DataError(f"{refused}: its drawings unpack to {unpacked:,} bytes; {remedy}")
            members = {name: unpack(file, infos[name]) for name in sorted(infos)}
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{refused}: it cannot be read ({error}); {remedy}") from error

    drawn = Counter(name.rsplit("/", 1)[0] for name in members)
    if len(drawn) != archive.characters or set(drawn.values()) != {DRAWERS}:
        found = f"{len(members)} drawings of {len(drawn)} characters"
        raise DataError(f"{refused}: it holds {found}, not {DRAWERS} of each of {archive.characters}; {remedy}")
    total = hashlib.sha256()
    for name, content in members.items():
        total.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    if total.hexdigest() != archive.digest:
        raise DataError(f"{refused}: its drawings are not the published ones; {remedy}")

    # Nothing is decoded, nor any name used, before all of it is known to be the published data set.
    drawings: dict[str, list[np.ndarray]] = {}
    for name, content in members.items():
        image = Image.open(io.BytesIO(content)).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        drawings.setdefault("/".join(name.split("/")[1:3]), []).append(255 - np.asarray(image))
    return {name: np.stack(images) for name, images in drawings.items()}


def unpack(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's content; no more than it claims to have, which `read` of a whole member does not promise."""
    with file.open(info) as member:
        content = member.read(info.file_size)
        if member.read(1):
            raise zipfile.BadZipFile(f"{info.filename} is longer than it claims")
    return content
