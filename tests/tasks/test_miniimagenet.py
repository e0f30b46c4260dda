"""mini-ImageNet: its episodes, and one line for each way in which its files can be amiss."""

import pickle
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import run_of

from metarun.core import ConfigError, DataError
from metarun.data import images_in
from metarun.tasks import miniimagenet
from metarun.tasks.miniimagenet import CLASSES, MiniImageNet

SPLITS = ("train", "val", "test")


@pytest.fixture
def folder(miniimagenet_dir, tmp_path, monkeypatch) -> Path:
    """A copy to damage, and a cache of its own."""
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(Path(miniimagenet_dir) / "miniimagenet", tmp_path / "miniimagenet")
    return tmp_path / "miniimagenet"


def pools(folder: Path) -> list[np.ndarray]:
    """The images of the splits, read by a new process, as it were."""
    images_in.cache_clear()
    task = MiniImageNet(ways=3, shots=1, queries=1, data_dir=str(folder.parent), augment=None)
    return [np.array(task.load(split).x) for split in SPLITS]


def into_directories(folder: Path, split: str, number: int) -> None:
    for path in (folder / "images").glob(f"n{number}*"):
        (folder / split / path.name[:3]).mkdir(parents=True, exist_ok=True)
        path.rename(folder / split / path.name[:3] / path.name)


def test_an_episode_shows_the_images_of_its_classes(miniimagenet_dir):
    task = MiniImageNet(ways=3, shots=2, queries=4, data_dir=miniimagenet_dir, augment=None)
    support, query, classes, *_ = task.sample(task.load("val"), jax.random.key(0))
    assert support.x.shape == (6, 84, 84, 3)
    assert [task.class_names("val")[c] for c in classes] == [f"n1{c}" for c in classes]
    for x, y in ((support.x, support.y), (query.x, query.y)):
        assert 0 <= x.min() <= x.max() <= 1
        red, green, _ = np.asarray(x[:, 42, 42] * 255).T
        np.testing.assert_allclose(red, 80, atol=3)  # of val
        np.testing.assert_allclose(green, 40 * classes[y], atol=3)  # of the class


def test_the_published_lists_have_the_papers_classes_and_no_class_is_in_two():
    assert [len(CLASSES[split]) for split in SPLITS] == [64, 16, 20]
    assert len({name for names in CLASSES.values() for name in names}) == 100
    for override, wrong in (
        ("task.ways=17", "at most 16, the val classes"),
        ("task.queries=600", "at most 600 together"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            run_of("task=miniimagenet", "data_dir=/nowhere", override)


def test_images_are_found_beside_lists_by_class_beside_lists_and_by_split_and_class_alone(folder):
    together = pools(folder)
    into_directories(folder, "test", 2)
    lists = pools(folder)
    for split, number in (("train", 0), ("val", 1)):
        into_directories(folder, split, number)
        (folder / f"{split}.csv").unlink()
    (folder / "test.csv").unlink()
    (folder / "images").rmdir()
    alone = pools(folder)
    for one, other, last in zip(together, lists, alone, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, last)


def test_the_order_of_a_list_changes_nothing(folder):
    first = pools(folder)
    for split in SPLITS:
        head, *lines = (folder / f"{split}.csv").read_text().split()
        random.Random(0).shuffle(lines)
        (folder / f"{split}.csv").write_text("\n".join([head, *lines]) + "\n")
    for one, other in zip(first, pools(folder), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_kept_is_of_the_files_as_they_are(folder):
    first = pools(folder)[0]
    Image.new("RGB", (84, 84), (255, 255, 255)).save(folder / "images" / "n0000.jpg")
    again = pools(folder)[0]
    assert (again[0] == 255).all()
    np.testing.assert_array_equal(again[1:], first[1:])


def test_a_photograph_of_another_size_is_resized_whole(tmp_path):
    halves = np.zeros((50, 200, 3), np.uint8)
    halves[:, 100:] = 255
    Image.fromarray(halves).save(tmp_path / "a.png")
    image = miniimagenet.IMAGE.decode((tmp_path / "a.png").read_bytes())
    assert image.shape == (84, 84, 3)
    assert image[:, :40].max() < 10
    assert image[:, 44:].min() > 245


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


class Program:
    """What a pickle can hold: opened, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return self.file.touch, ()


def only_pickles(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    for split in SPLITS:
        (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(Program(folder.parent / "opened")))


def another_class(folder: Path) -> None:
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        into_directories(folder, split, number)
        (folder / f"{split}.csv").unlink()
    (folder / "val" / "n13").rename(folder / "val" / "n99")


DAMAGES = {
    "no list": (lambda f: (f / "train.csv").unlink(), "train.csv cannot be read .*it is to be had from github.com"),
    "another list": (lambda f: (f / "train.csv").write_text("filename,label\na.jpg,b\n"), "is not the published list"),
    "not text": (lambda f: (f / "train.csv").write_bytes(b"\xff\xfe"), "train.csv cannot be read"),
    "an image gone": (lambda f: (f / "images" / "n0103.jpg").unlink(), "1 names of train.csv .*: n0103.jpg"),
    "half an image": (
        lambda f: truncate(f / "images" / "n0103.jpg"),
        "train's class n01 has 19 images, not 20; .*n0103.jpg",
    ),
    "no image": (
        lambda f: (f / "images" / "n0103.jpg").write_text("<html>"),
        "train's class n01 has 19 images, not 20; .*n0103.jpg",
    ),
    "nothing": (shutil.rmtree, "miniimagenet is no folder; it is to hold train.csv"),
    "pickles": (only_pickles, "mini-imagenet-cache-test.pkl, a pickle, .*runs whatever program is in it.*files once"),
    "a class of another name": (
        another_class,
        "val images are of 5 classes, not of the 5 .*it lacks n13; .*task=folder",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_amiss_with_the_files_is_said_in_one_line(folder, damage):
    do, said = DAMAGES[damage]
    do(folder)
    with pytest.raises(DataError, match=said) as error:
        pools(folder)
    assert "\n" not in str(error.value)
    assert not (folder.parent / "opened").exists()


def test_an_image_that_was_mended_is_read_anew(folder):
    whole = (folder / "images" / "n0103.jpg").read_bytes()
    first = pools(folder)
    truncate(folder / "images" / "n0103.jpg")
    with pytest.raises(DataError):
        pools(folder)
    (folder / "images" / "n0103.jpg").write_bytes(whole)
    np.testing.assert_array_equal(pools(folder)[0], first[0])
