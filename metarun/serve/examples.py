"""What is drawn, dropped or written on the page as inputs of the model, decoded as the files of `metarun adapt` are."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metarun.core import ConfigError
from metarun.data import Encoder, Image
from metarun.learned import Learned
from metarun.serve.refused import Refused
from metarun.text import first_line

# Of the formats that Pillow reads those whose first bytes tell: none that runs a program, as PostScript would.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
PIXELS = 2**26  # of all images of a request: a file of kilobytes may claim gigabytes
CHARACTERS = 10_000  # of a text


class Given(NamedTuple):
    """An example as it was sent."""

    where: str  # in words, for who has sent it
    content: str


@dataclass(frozen=True)
class Images:
    """Files of images, in base64."""

    image: Image
    kind = "images"

    @property
    def says(self) -> str:
        colour = {"grey": "grey", "rgb": "colour"}[self.image.colour]
        return f"{colour} images of {self.image.side} x {self.image.side} pixels"

    def inputs(self, given: Sequence[Given]) -> np.ndarray:
        """(n, side, side, 1 or 3) uint8. Raises Refused."""
        contents = [content_of(one) for one in given]
        pixels = 0
        for one, content in zip(given, contents, strict=True):
            pixels += pixels_of(one, content)
            if pixels > PIXELS:
                raise Refused(f"{one.where}: with it the images have {pixels:,} pixels together, at most {PIXELS:,}")
        found = []
        for one, content in zip(given, contents, strict=True):
            try:
                found.append(self.image.decode(content))
            except ValueError as error:
                raise Refused(f"{one.where}: no image that can be read ({first_line(error)})") from error
        return np.stack(found)


def content_of(one: Given) -> bytes:
    try:
        return base64.b64decode(one.content, validate=True)
    except ValueError as error:
        raise Refused(f"{one.where}: must be an image's file in base64") from error


def pixels_of(one: Given, content: bytes) -> int:
    """How many pixels the file says that it has; they are not decoded."""
    from PIL import Image as Pillow

    try:
        width, height = Pillow.open(io.BytesIO(content), formats=FORMATS).size
    except Pillow.DecompressionBombError as error:
        raise Refused(f"{one.where}: it has more pixels than all images together may have, {PIXELS:,}") from error
    except Exception as error:  # each of Pillow's formats raises its own
        raise Refused(f"{one.where}: no image that can be read; allowed: {', '.join(FORMATS)}") from error
    return width * height


@dataclass(frozen=True)
class Texts:
    encoder: Encoder
    kind = "texts"
    says = "texts"

    def inputs(self, given: Sequence[Given]) -> np.ndarray:
        """(n, dimension) float32. Raises Refused."""
        for one in given:
            if not one.content.strip():
                raise Refused(f"{one.where}: an empty text")
            if len(one.content) > CHARACTERS:
                raise Refused(f"{one.where}: {len(one.content):,} characters; at most {CHARACTERS:,}")
        return self.encoder.encode([one.content.strip() for one in given])


def examples_of(learned: Learned) -> Images | Texts:
    """What its examples are made of. Raises ConfigError unless people can draw or write them."""
    prepares: Any = learned.purpose.prepares
    if learned.classification and isinstance(prepares, Image):
        return Images(prepares)
    if learned.classification and isinstance(prepares, Encoder):
        prepares.encode(["a text"])  # which may need a package
        return Texts(prepares)
    what = "arrays or rows of numbers" if learned.classification else "a regression's numbers"
    raise ConfigError("serve", f"a learner of {what}", "serves classes of images and of texts; others: metarun adapt")
