"""mini-ImageNet: 100 classes of ImageNet, 600 images each. Vinyals et al. 2016, split by Ravi and Larochelle 2017."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarun import losses
from metarun.core import Array, ConfigError, Count, DataError, Episode, Key, Metrics, PyTree, Ways
from metarun.data import cached, choose, must_be_a_folder
from metarun.tasks.episode import by_class, must_fit
from metarun.text import first_line

SIDE = 84
PER_CLASS = 600
LISTS_HOME = "github.com/twitter-research/meta-learning-lstm, data/miniImagenet"


class Published(NamedTuple):
    """What a split's list must be."""

    classes: int
    digest: str  # sha256 over its lines, sorted, with a line feed between them


LISTS = {
    "train": Published(64, "04248b9d354668fcf26c53aab36b722818cb21ea1e592b5e2598497f5151ec04"),
    "val": Published(16, "dd3f05f2e6ffc6ee100b97c214cdddc207a7fca3e8c5e8172d59d69f63cff8ae"),
    "test": Published(20, "1fbcd7418801a5f7179eab6f8cab9f19d345e24733d46d3ac8ff2a1d8f5233ad"),
}


@dataclass(frozen=True)
class MiniImageNet:
    """N-way classification of photographs, 84x84 in colour, of classes that were not seen in training.

    The images are ImageNet's and may not be passed on, so nothing is downloaded: whoever has them puts them, of any
    size, beside the three published lists, as data_dir/miniimagenet/{train,val,test}.csv and images/NAME, or
    SPLIT/CLASS/NAME, as the code of Finn et al. leaves them.
    """

    ways: Ways
    shots: Count
    queries: Count  # per class
    data_dir: str | None
    metric = "accuracy"

    @property
    def n_out(self) -> int:
        return self.ways

    def check(self, split: str) -> None:
        if self.ways > LISTS[split].classes:
            raise ConfigError("ways", self.ways, f"at most {LISTS[split].classes}, the {split} classes")
        if self.shots + self.queries > PER_CLASS:
            raise ConfigError(
                "shots+queries", f"{self.shots}+{self.queries}", f"at most {PER_CLASS} together, the images of a class"
            )
        must_fit((SIDE, SIDE, 3), self.shots, self.queries, self.ways)

    def n_classes(self, split: str) -> int:
        return LISTS[split].classes

    def class_names(self, split: str) -> list[str]:
        """WordNet's numbers of the classes."""
        return list(listed(self.data_dir, split))

    def load(self, split: str) -> PyTree:
        """(classes, PER_CLASS, SIDE, SIDE, 3) uint8."""
        return photographs(self.data_dir, split)

    def examples(self, split: str, data: PyTree) -> dict[str, np.ndarray]:
        return dict(zip(self.class_names(split), data, strict=True))

    def digest(self, split: str) -> str:
        return LISTS[split].digest[:16]

    def sample(self, data: PyTree, key: Key) -> Episode:
        k_classes, k_images = jax.random.split(key)
        classes = choose(k_classes, len(data), self.ways)
        images = jax.vmap(lambda key: choose(key, PER_CLASS, self.shots + self.queries))(
            jax.random.split(k_images, self.ways)
        )
        return by_class(data[classes[:, None], images].astype(jnp.float32) / 255, self.shots, classes)

    def loss(self, outputs: Array, y: Array) -> tuple[Array, Metrics]:
        return losses.cross_entropy(outputs, y)


def home(data_dir: str | None) -> Path:
    """The folder of the lists and images. Raises DataError, and ConfigError for a data_dir that is no folder."""
    if data_dir is None:
        raise DataError(
            "no miniimagenet data: neither data_dir= nor METARUN_DATA_DIR is set, and ImageNet's images may not be "
            "passed on, so they are not downloaded; put them and their lists into data_dir/miniimagenet"
        )
    must_be_a_folder(data_dir)
    folder = Path(data_dir).expanduser() / "miniimagenet"
    if not folder.is_dir():
        raise DataError(
            f"no miniimagenet data: {folder} is no folder; it is to hold train.csv, val.csv, test.csv ({LISTS_HOME}) "
            "and the images of ImageNet that they name, which may not be passed on, so they are not downloaded"
        )
    return folder


def listed(data_dir: str | None, split: str) -> dict[str, list[str]]:
    """Class -> the names of its images, both in alphabetical order. Raises DataError."""
    path = home(data_dir) / f"{split}.csv"
    try:
        lines = sorted(path.read_text(encoding="ascii").split())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); it is to be had from {LISTS_HOME}") from error
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != LISTS[split].digest:
        raise DataError(f"{path} is not the published list of Ravi and Larochelle 2017; it is at {LISTS_HOME}")
    names: dict[str, list[str]] = {}
    for name, label in (line.split(",") for line in lines if line != "filename,label"):
        names.setdefault(label, []).append(name)
    return dict(sorted(names.items()))


def photographs(data_dir: str | None, split: str) -> np.ndarray:
    """A split's images (classes, PER_CLASS, SIDE, SIDE, 3) uint8, in the order of `listed`. Raises DataError.

    Decoded once and kept in the user's cache directory for as long as the files stay as they are.
    """
    names = listed(data_dir, split)
    paths = find_images(home(data_dir), split, names)
    state = hashlib.sha256()
    for path in paths:
        found = path.stat()
        state.update(f"{path.absolute()} {found.st_size} {found.st_mtime_ns}\n".encode())
    shape = (len(names), PER_CLASS, SIDE, SIDE, 3)

    def decode(_: Path) -> dict[str, np.ndarray]:
        from rich.console import Console
        from rich.progress import track

        images = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = track(
                pool.map(read, paths), f"miniimagenet {split}", len(paths), console=Console(stderr=True), transient=True
            )
            for i, image in enumerate(decoded):
                images[i] = image
        return {"images": images.reshape(shape)}

    def is_whole(arrays: dict[str, np.ndarray]) -> bool:
        return arrays.keys() == {"images"} and arrays["images"].shape == shape

    return cached(f"miniimagenet-{split}-{state.hexdigest()[:16]}-{SIDE}", decode, is_whole)["images"]


def find_images(folder: Path, split: str, names: dict[str, list[str]]) -> list[Path]:
    """Where the images are, class by class. Raises DataError."""
    paths, missing = [], []
    for label, of_class in names.items():
        for name in of_class:
            path = next((p for p in (folder / "images" / name, folder / split / label / name) if p.is_file()), None)
            paths.append(path) if path else missing.append(name)
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing):,} of the {len(paths) + len(missing):,} images of {split}.csv, the first "
            f"{missing[0]}; put them into {folder / 'images'}, or into {folder / split}/CLASS"
        )
    return paths


def read(path: Path) -> np.ndarray:
    """One image, (SIDE, SIDE, 3) uint8. Raises DataError."""
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({first_line(error)}); replace it") from error
