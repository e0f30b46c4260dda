"""A user's folder, zip or tar of images: what they look like, and how they come into memory."""

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from folders import GREY, SMALL, every, expected, found, of_classes, png, written
from PIL import Image as Pillow

from metarun.data import Image

pytestmark = pytest.mark.usefixtures("own_cache")


def test_files_come_into_memory_once_for_the_same_settings_and_files(tmp_path, monkeypatch):
    path = written(tmp_path / "mine", of_classes("abcd"))
    assert every(found(path)) == expected("abcd")
    decode = Image.decode
    asked = []
    monkeypatch.setattr(Image, "decode", lambda self, content: asked.append(1) or decode(self, content))
    assert every(found(path)) == expected("abcd")
    assert not asked
    found(path, GREY)
    assert len(asked) == 12
    written(path, {"a/0.png": png((1, 2, 3))})
    assert every(found(path))["a"][0] == (1, 2)
    assert len(asked) == 24


def test_an_image_is_brought_to_the_shape_that_is_asked_for():
    half = np.zeros((4, 8, 3), np.uint8)
    half[:, 4:] = [200, 100, 0]
    file = io.BytesIO()
    Pillow.fromarray(half).save(file, "PNG")
    content = file.getvalue()

    def decoded(fit, colour="rgb", invert=False):
        return Image(4, colour, fit, invert).decode(content)

    np.testing.assert_array_equal(decoded("crop"), half[:, 2:6])
    assert decoded("stretch")[0, :, 0].tolist() == sorted(decoded("stretch")[0, :, 0].tolist())
    padded = decoded("pad")
    assert (padded[[0, 3]] == 0).all()
    assert padded[1:3, 3, 0].min() > 150
    assert (decoded("pad", invert=True)[[0, 3]] == 0).all()  # the frame is black in the end
    np.testing.assert_array_equal(decoded("crop", invert=True), 255 - half[:, 2:6])
    grey = decoded("crop", "grey")
    assert grey.shape == (4, 4, 1)
    assert abs(int(grey[0, 3, 0]) - (0.299 * 200 + 0.587 * 100)) < 1.5


def test_sixteen_bits_transparency_and_a_cameras_turn_are_seen_as_a_viewer_shows_them(tmp_path):
    def content(image, **how):
        file = io.BytesIO()
        image.save(file, "PNG", **how)
        return file.getvalue()

    deep = Pillow.fromarray(np.full((4, 4), 0x80FF, np.uint16))
    assert (GREY.decode(content(deep)) == 0x80).all()
    clear = Pillow.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (SMALL.decode(content(clear)) == 255).all()
    upper = np.zeros((4, 4), np.uint8)
    upper[:2] = 255
    exif = Pillow.Exif()
    exif[0x0112] = 3  # upside down
    turned = GREY.decode(content(Pillow.fromarray(upper), exif=exif))
    np.testing.assert_array_equal(turned[..., 0], upper[::-1])


def test_images_that_are_not_of_a_kind_are_told(tmp_path):
    path = written(tmp_path / "mine", of_classes("abcd") | {"a/1.png": png(7, "L"), "b/0.png": png(9, "L")})
    deep = io.BytesIO()
    Pillow.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(deep, "PNG")
    written(path, {"c/2.png": deep.getvalue()})
    for _ in range(2):
        kinds = "9 in colour (a/0.png), 2 grey (a/1.png), 1 grey of 16 bits (c/2.png)"
        assert found(path).told == (f"{path}: its images are not of a kind: {kinds}; all become rgb, of 8 bits",)
    assert found(path, GREY).told[0].endswith("all become grey, of 8 bits")


def test_a_compressed_tar_is_read_from_its_start_to_its_end_once(tmp_path, monkeypatch):
    """Each step back unpacks it anew: of many images that would take for ever."""
    path = written(tmp_path / "mine", of_classes("abcdef", 2))
    with tarfile.open(tmp_path / "mine.tar.gz", "w:gz") as file:
        for i, name in ((i, name) for i in range(2) for name in "fbdace"):  # in no order that splits or names have
            file.add(path / name / f"{i}.png", f"{name}/{i}.png")
    asked = []
    extract = tarfile.TarFile.extractfile
    monkeypatch.setattr(
        tarfile.TarFile, "extractfile", lambda self, member: asked.append(member.offset) or extract(self, member)
    )
    assert every(found(tmp_path / "mine.tar.gz")) == expected("abcdef", 2)
    assert len(asked) == 12
    assert asked == sorted(asked)


def test_what_a_killed_process_left_half_made_is_removed_and_what_a_living_one_makes_is_not(tmp_path):
    path = written(tmp_path / "mine", of_classes("abcd"))
    found(path)
    (kept,) = (tmp_path / "cache").glob("images-*")
    shutil.rmtree(kept)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    beside = {pid: kept.with_name(f".{kept.name}.{socket.gethostname()}-{pid}.partial") for pid in (ended.pid, 1)}
    for folder in beside.values():
        written(folder, {"images.npy": b"half"})
    assert every(found(path)) == expected("abcd")
    assert [folder.exists() for folder in beside.values()] == [False, True]

    shutil.rmtree(kept)
    own = written(kept.with_name(f".{kept.name}.{socket.gethostname()}-{os.getpid()}.partial"), {"images.npy": b"half"})
    os.utime(own, (1, 1))  # of a process that had this one's number before it began, as in a container
    assert every(found(path)) == expected("abcd")
    assert not own.exists()
    assert kept.exists()


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_no_image(tmp_path, monkeypatch):
    path = written(tmp_path / "mine", of_classes("abcd"))
    found(path)
    (kept,) = (tmp_path / "cache").glob("images-*/images.npy")
    kept.write_bytes(kept.read_bytes()[:-30])
    assert every(found(path)) == expected("abcd")
    assert kept.stat().st_size > 200
    kept.write_bytes(kept.read_bytes().replace(b"}", b"=", 1))  # of its head
    assert every(found(path)) == expected("abcd")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("not a directory")
    assert every(found(path)) == expected("abcd")
