"""mini-ImageNet: its episodes, and one line for each way in which its files can be amiss."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import run_of

from metarun.core import ConfigError, DataError
from metarun.tasks import miniimagenet
from metarun.tasks.miniimagenet import MiniImageNet


@pytest.fixture
def folder(miniimagenet_dir, tmp_path, monkeypatch) -> Path:
    """A copy to damage, and a cache of its own."""
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(Path(miniimagenet_dir) / "miniimagenet", tmp_path / "miniimagenet")
    return tmp_path / "miniimagenet"


def test_an_episode_shows_the_images_of_its_classes(miniimagenet_dir):
    task = MiniImageNet(ways=3, shots=2, queries=4, data_dir=miniimagenet_dir)
    support, query, classes = task.sample(task.load("val"), jax.random.key(0))
    assert support.x.shape == (6, 84, 84, 3)
    assert [task.class_names("val")[c] for c in classes] == [f"n1{c}" for c in classes]
    for x, y in ((support.x, support.y), (query.x, query.y)):
        assert 0 <= x.min() <= x.max() <= 1
        red, green, _ = np.asarray(x[:, 42, 42] * 255).T
        np.testing.assert_allclose(red, 80, atol=3)  # of val
        np.testing.assert_allclose(green, 40 * classes[y], atol=3)  # of the class


def test_the_published_lists_have_the_papers_classes_and_no_class_is_in_two():
    assert [listed.classes for listed in miniimagenet.LISTS.values()] == [64, 16, 20]
    for override, wrong in (
        ("task.ways=17", "at most 16, the val classes"),
        ("task.queries=600", "at most 600 together"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            run_of("task=miniimagenet", "data_dir=/nowhere", override)


def test_images_are_found_by_class_too(folder):
    together = miniimagenet.photographs(str(folder.parent), "test")
    for path in (folder / "images").glob("n2*"):
        (folder / "test" / path.name[:3]).mkdir(parents=True, exist_ok=True)
        path.rename(folder / "test" / path.name[:3] / path.name)
    np.testing.assert_array_equal(miniimagenet.photographs(str(folder.parent), "test"), together)


def test_what_is_kept_is_of_the_files_as_they_are(folder):
    first = miniimagenet.photographs(str(folder.parent), "train")
    Image.new("RGB", (84, 84), (255, 255, 255)).save(folder / "images" / "n0000.jpg")
    again = miniimagenet.photographs(str(folder.parent), "train")
    assert (again[0, 0] == 255).all()
    np.testing.assert_array_equal(again[0, 1:], first[0, 1:])


def test_a_photograph_of_another_size_is_resized_whole(tmp_path):
    halves = np.zeros((50, 200, 3), np.uint8)
    halves[:, 100:] = 255
    Image.fromarray(halves).save(tmp_path / "a.png")
    image = miniimagenet.read(tmp_path / "a.png")
    assert image.shape == (84, 84, 3)
    assert image[:, :40].max() < 10
    assert image[:, 44:].min() > 245


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


DAMAGES = {
    "no lists": (lambda f: (f / "train.csv").unlink(), "train.csv cannot be read .*it is to be had from github.com"),
    "another list": (lambda f: (f / "train.csv").write_text("filename,label\na.jpg,b\n"), "is not the published list"),
    "not text": (lambda f: (f / "train.csv").write_bytes(b"\xff\xfe"), "train.csv cannot be read"),
    "an image gone": (
        lambda f: (f / "images" / "n0103.jpg").unlink(),
        "lacks 1 of the 120 images .*first n0103.jpg",
    ),
    "half an image": (
        lambda f: truncate(f / "images" / "n0103.jpg"),
        "n0103.jpg cannot be read as an image",
    ),
    "no image": (lambda f: (f / "images" / "n0103.jpg").write_text("<html>"), "n0103.jpg cannot be read as an image"),
    "nothing": (shutil.rmtree, "miniimagenet is no folder; it is to hold train.csv"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_amiss_with_the_files_is_said_in_one_line(folder, damage):
    do, said = DAMAGES[damage]
    do(folder)
    with pytest.raises(DataError, match=said) as error:
        miniimagenet.photographs(str(folder.parent), "train")
    assert "\n" not in str(error.value)
    assert not list((folder.parent / "cache").glob("*"))
