"""A user's own images: which class each is of, by where it stands or what it is called."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from metarun.core import ConfigError
from metarun.data import Image, images_of_task
from metarun.data.own_images import labels_of

FOLDER, ARCHIVE = Path("folder"), Path(__file__)  # an archive is a file


@pytest.mark.parametrize(
    ("place", "names", "known", "labels"),
    [
        (FOLDER, ["a/1.png", "b/x/2.png", "3.png"], None, ("a", "b/x", None)),
        (FOLDER, ["all/a/1.png", "all/b/2.png"], None, ("a", "b")),  # nothing but one directory at the top
        (FOLDER, ["Greek/a/1.png"], {"Greek/a", "Latin/b"}, ("Greek/a",)),  # unless that is part of a class's name
        (FOLDER, ["all/a/1.png"], {"a", "b"}, ("a",)),
        (FOLDER, ["1.png", "a_2.png"], {"a", "b"}, (None, None)),  # names tell nothing of queries
        (FOLDER, ["a/1.png", "2.png"], {"a", "b"}, ("a", None)),
        (FOLDER, ["c/1.png"], {"a", "b"}, ("c",)),  # for the caller to refuse
        (ARCHIVE, ["queries/1.png", "queries/2.png"], {"a", "b"}, (None, None)),
        (ARCHIVE, ["a/1.png", "a/2.png"], {"a", "b"}, ("a", "a")),
        (ARCHIVE, ["support/a_1.png", "support/b_1.png"], None, ("a", "b")),
        (FOLDER, ["a_1.png", "a-02.jpg", "b b (3).png", "0001_07.png"], None, ("a", "a", "b b", "0001")),
    ],
)
def test_a_class_is_a_directory_or_stands_in_the_name(place, names, known, labels):
    assert labels_of(place, names, known) == tuple(labels)


def test_a_name_that_tells_no_class_is_refused():
    with pytest.raises(ConfigError, match=r"no class stands in the name 7.png; give a directory"):
        labels_of(FOLDER, ["a_1.png", "7.png"], None)


def test_what_cannot_be_read_is_left_out_and_told(tmp_path):
    for i, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "0.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Pillow.new("RGB", (8, 4), (10 * i, 0, 0)).save(tmp_path / name)
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    image = Image(4, "rgb", "stretch", invert=False)
    found = images_of_task(str(tmp_path), image)
    assert (found.labels, found.targets) == (("a", "a", "b"), None)
    assert found.names == tuple(f"{tmp_path}/{name}" for name in ("a/1.png", "a/2.png", "b/1.png"))
    np.testing.assert_array_equal(found.x[:, 0, 0, 0], [0, 10, 20])
    loose, bad, size = (line.removeprefix(f"{tmp_path}: ") for line in found.told)
    assert loose == "1 images are in no class's directory and are left out: 0.png"
    assert bad.startswith("1 files cannot be read as images and are left out: a/3.png (")
    assert size == "3 images, as the run had them: 8x4 becomes 4x4"
    queries = images_of_task(str(tmp_path), image, {"a", "b"})
    assert queries.labels == (None, "a", "a", "b")
