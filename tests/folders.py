"""Folders of images as a user may have them, of colours that tell class and image, and what comes of them."""

import io
from pathlib import Path

import pytest
from PIL import Image as Pillow

from metarun.data import Image, images_in

SMALL = Image(side=4, colour="rgb", fit="stretch", invert=False)
GREY = Image(side=4, colour="grey", fit="stretch", invert=False)
FRACTIONS = (0.5, 0.25, 0.25)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    images_in.cache_clear()


def png(colour, mode="RGB", size=(6, 6)) -> bytes:
    file = io.BytesIO()
    Pillow.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def written(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def of_classes(classes: str, count=3, before="") -> dict[str, bytes]:
    """`count` images of each class; its red tells the class, its green the image."""
    return {f"{before}{c}/{i}.png": png((ord(c), i, 0)) for c in classes for i in range(count)}


def found(path, image=SMALL, fractions=FRACTIONS, seed=0):
    images_in.cache_clear()
    return images_in(str(path), image, fractions, seed)


def seen(classes) -> dict[str, list[tuple[int, int]]]:
    """Class -> red and green of each of its images, in the middle."""
    pool = classes.pool
    return {
        name: [tuple(pool.x[i, 2, 2, :2].tolist()) for i in range(first, first + size)]
        for name, first, size in zip(classes.names, pool.first, pool.size, strict=True)
    }


def expected(classes: str, count=3) -> dict[str, list[tuple[int, int]]]:
    return {c: [(ord(c), i) for i in range(count)] for c in classes}


def every(data) -> dict[str, list[tuple[int, int]]]:
    return {name: images for split in data.splits.values() for name, images in seen(split).items()}
