"""Images of any size, format and colour, as arrays of one shape."""

import errno
import io
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from metarun.text import first_line

if TYPE_CHECKING:
    from PIL import Image as Pillow

FORMATS = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".avif",
}  # fmt: skip
NOT_READ = {".heic", ".heif", ".jxl", ".psd", ".svg", ".dcm"}  # images, too


class Decoded(NamedTuple):
    """A file's image, and what it was."""

    pixels: np.ndarray
    kind: str  # of `kind_of`
    size: tuple[int, int]  # width and height that it had


@dataclass(frozen=True)
class Image:
    """The shape that every image is brought to: (side, side, 1 or 3) uint8."""

    side: Annotated[int, Ge(4), Le(1024)]  # pixels
    colour: Literal["grey", "rgb"]
    # One that is no square: its middle, all of it drawn out, or all of it in a black frame.
    fit: Literal["crop", "stretch", "pad"]
    invert: bool  # dark ink on white paper becomes light on black

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.side, self.side, 1 if self.colour == "grey" else 3)

    def decode(self, content: bytes) -> np.ndarray:
        """A file's content as an image, its camera's turn undone, on white where it is transparent.

        Raises ValueError.
        """
        from PIL import Image as Pillow
        from PIL import ImageOps

        try:
            image = in_eight_bits(ImageOps.exif_transpose(Pillow.open(io.BytesIO(content))))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if self.colour == "grey" else "RGB")
            size, how = (self.side, self.side), Pillow.Resampling.LANCZOS
            if self.fit == "crop":
                image = ImageOps.fit(image, size, how)
            elif self.fit == "pad":
                image = ImageOps.pad(image, size, how, color="white" if self.invert else "black")  # black in the end
            else:
                image = image.resize(size, how)
        except MemoryError:  # tells nothing of the image
            raise
        except Exception as error:  # each of Pillow's formats raises its own
            raise ValueError(re.sub(r" <_io\.BytesIO object at \w+>$", "", first_line(error))) from error
        pixels = np.asarray(image, np.uint8).reshape(self.shape)
        return 255 - pixels if self.invert else pixels


def kind_of(mode: str) -> str:
    """What pixels of a mode of Pillow's are: `grey` or `in colour`, `of 16 bits` where they have more than is kept."""
    return "grey of 16 bits" if mode.startswith("I;16") else "grey" if mode in ("1", "L", "LA") else "in colour"


def in_eight_bits(image: "Pillow.Image") -> "Pillow.Image":
    """The image with 8 bits a colour: one of 16 scaled, where Pillow would cut off what is brighter than 255."""
    if image.mode.startswith("I;16"):
        from PIL import Image as Pillow

        return Pillow.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}, without a known range; save it with 8 or 16 bits")
    return image


def decoded(
    contents: Iterable[tuple[int, Callable[[], bytes]]], image: Image
) -> Iterator[tuple[int, Decoded | ValueError | OSError]]:
    """(number, how to read a file) -> (number, its image, or why there is none), in order, on all cores.

    ValueError: what it holds is no image. OSError: it could not be read this time.
    """

    from PIL import Image as Pillow

    def one(read: Callable[[], bytes]) -> Decoded | ValueError | OSError:
        try:
            content = read()
            pixels, was = image.decode(content), Pillow.open(io.BytesIO(content))
            return Decoded(pixels, kind_of(was.mode), was.size)
        except ValueError as error:
            return error
        except OSError as error:  # without a number it is of an archive, whose bytes are not what they were
            return ValueError(first_line(error)) if error.errno is None else error
        except MemoryError:
            return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    # An image of so many pixels that Pillow warns of it is refused: a small file may claim gigabytes.
    warnings.simplefilter("error", Pillow.DecompressionBombWarning)
    ahead = 4 * (os.cpu_count() or 1)  # so many files are in memory
    waiting: deque[tuple[int, Future[Decoded | ValueError | OSError]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, read in contents:
            waiting.append((number, pool.submit(one, read)))
            if len(waiting) >= ahead:
                n, future = waiting.popleft()
                yield n, future.result()
        for n, future in waiting:
            yield n, future.result()
