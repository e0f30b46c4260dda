"""CIFAR-100: 100 classes of 600 photographs, 32x32 in colour. Krizhevsky 2009.

Few-shot sets are made of it by sharing out its classes; its own training and test images are pooled. Read from the
authors' binary archive, which holds nothing but labels and pixels.
"""

import hashlib
import json
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from metarun.core import DataError
from metarun.data import SPLITS, Classes, Found, Image, Pool, cached, empty, fetched, find
from metarun.tasks.published import Facts
from metarun.text import first_line

SIDE = 32
IMAGE = Image(SIDE, "rgb", "crop", invert=False)  # what a photograph of one's own is brought to
EACH = 600  # images of a class
RECORD = 2 + 3 * SIDE * SIDE  # bytes: coarse label, fine label, then red, green and blue planes, row by row
ARCHIVE = "cifar-100-binary.tar.gz"
HOME = "https://www.cs.toronto.edu/~kriz/"


class Part(NamedTuple):
    """One of the archive's two files, and what its records must be."""

    name: str
    records: int
    digest: str  # sha256 over the records, sorted


PARTS = (
    Part("train.bin", 50_000, "e087818905fce27ff63616d8f344858809aab7e66060ba0e155a3bb18453ec1e"),
    Part("test.bin", 10_000, "b8278c7d1bf36d32ce3e9f2a02eb2c80c9458dcf9a15571d082434cc68f5f5ce"),
)
# The fine labels of each set's splits, by the set's name.
CLASSES: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("cifar100_classes.json").read_text())
LABELS = sorted(name for names in CLASSES["cifar_fs"].values() for name in names)  # a label is its place here


def facts(name: str) -> Facts:
    return Facts({split: tuple(sorted(CLASSES[name][split])) for split in SPLITS}, EACH, (SIDE, SIDE, 3))


@lru_cache(maxsize=4)
def found(name: str, data_dir: str | None) -> Found:
    """The splits of the set `name`, found in `data_dir`/cifar100, else downloaded. Raises DataError.

    Decoded once and kept in the user's cache directory. The images of a class stand in the order of their bytes,
    training's before the test's: copies of the archive differ in the order of their records, episodes do not.
    """
    folder = find("cifar100", data_dir, [ARCHIVE])
    splits = facts(name).classes
    order = [label for split in SPLITS for label in splits[split]]
    shape = (len(order) * EACH, SIDE, SIDE, 3)

    def make(place: Path) -> dict[str, np.ndarray]:
        rows = records(folder / ARCHIVE) if folder else fetched(HOME + ARCHIVE, "cifar100", data_dir, records)
        images = empty(place, "images", shape, np.uint8)
        for i, label in enumerate(order):
            of_class = rows[rows[:, 1] == LABELS.index(label), 2:]
            images[i * EACH : (i + 1) * EACH] = of_class.reshape(EACH, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        return {"images": images}

    def is_whole(arrays: dict[str, np.ndarray]) -> bool:
        return arrays.keys() == {"images"} and arrays["images"].shape == shape

    content = "-".join(part.digest[:8] for part in PARTS)
    images = cached(f"{name}-{content}", make, is_whole)["images"]
    classes, start = {}, 0
    for split, names in splits.items():
        end = start + EACH * len(names)
        first = np.arange(0, end - start, EACH, dtype=np.int32)
        classes[split] = Classes(names, Pool(images[start:end], first, np.full(len(names), EACH, np.int32)))
        start = end
    return Found(classes, (), f"{name} {content}")


def records(path: Path) -> np.ndarray:
    """All records (60,000, RECORD) uint8 of a checked archive, each part's in the order of their bytes.

    Raises DataError.
    """
    refused, remedy = f"{path} is not CIFAR-100's {ARCHIVE}", f"delete it and get it from {HOME}{ARCHIVE}"
    contents: dict[str, bytes] = {}
    sizes = {part.name: part.records * RECORD for part in PARTS}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and sizes.get(name) == member.size and name not in contents:
                    file = archive.extractfile(member)
                    contents[name] = file.read() if file is not None else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{refused}: it cannot be read ({first_line(error)}); {remedy}") from error
    if missing := [part.name for part in PARTS if len(contents.get(part.name, b"")) != sizes[part.name]]:
        raise DataError(f"{refused}: it lacks {' and '.join(missing)}, whole; {remedy}")

    every = []
    for part in PARTS:
        content = contents.pop(part.name)
        in_order = sorted(content[i : i + RECORD] for i in range(0, len(content), RECORD))
        content = b"".join(in_order)
        if hashlib.sha256(content).hexdigest() != part.digest:
            raise DataError(f"{refused}: its {part.name} does not hold the published images; {remedy}")
        every.append(np.frombuffer(content, np.uint8).reshape(-1, RECORD))
    return np.concatenate(every)
