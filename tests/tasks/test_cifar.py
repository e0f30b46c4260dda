"""CIFAR-FS and FC100: the published splits, the archive's pixels, and archives that are not the published one."""

import csv
import io
import random
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import CIFAR_CLASSES, data_dir
from support import run_of

from metarun.core import ConfigError, DataError
from metarun.tasks import cifar100
from metarun.tasks.cifar_fs import CifarFS
from metarun.tasks.fc100 import FC100

TASKS = {"cifar_fs": CifarFS, "fc100": FC100}
SPLITS = ("train", "val", "test")
NAME = "cifar-100-binary.tar.gz"


@pytest.fixture
def real() -> Path:
    found = data_dir()
    if found is None or not (found / "cifar100" / NAME).exists():
        pytest.skip("CIFAR-100 is in neither $METARUN_DATA_DIR nor ../shared/data")
    return found / "cifar100"


@pytest.fixture
def folder(cifar_dir, tmp_path, monkeypatch) -> Path:
    """A data_dir/cifar100 to write another archive into, and a cache of its own."""
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cifar100").mkdir()
    return tmp_path / "cifar100"


def records(directory: str) -> dict[str, list[bytes]]:
    """What the archive of a data_dir holds."""
    found = {}
    with tarfile.open(f"{directory}/cifar100/{NAME}") as archive:
        for name in ("train.bin", "test.bin"):
            content = archive.extractfile(f"cifar-100-binary/{name}").read()
            found[name] = [content[i : i + 3074] for i in range(0, len(content), 3074)]
    return found


def write(path: Path, files: dict[str, list[bytes]]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, rows in files.items():
            member = tarfile.TarInfo(f"anywhere/{name}")
            member.size = sum(map(len, rows))
            archive.addfile(member, io.BytesIO(b"".join(rows)))


def images(folder: Path) -> list[np.ndarray]:
    """The images of the splits, read by a new process, as it were."""
    cifar100.found.cache_clear()
    return [np.array(CifarFS(3, 1, 1, str(folder.parent), None).load(split).x) for split in SPLITS]


@pytest.mark.parametrize(("name", "sizes"), [("cifar_fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_the_splits_have_the_papers_sizes_and_every_class_once(name, sizes):
    splits = TASKS[name].facts.classes
    assert tuple(len(splits[split]) for split in SPLITS) == sizes
    assert sorted(label for names in splits.values() for label in names) == cifar100.LABELS
    assert len(cifar100.LABELS) == len(set(cifar100.LABELS)) == 100


def test_the_splits_and_the_labels_are_the_published_ones(real):
    with (real / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["fine"] for row in sorted(rows, key=lambda row: int(row["fine_id"]))] == cifar100.LABELS
    for name, task in TASKS.items():
        assert {row["fine"]: row[name] for row in rows} == {
            label: split for split, names in task.facts.classes.items() for label in names
        }
    of = {row["fine"]: row["coarse"] for row in rows}
    coarse = [{of[label] for label in FC100.facts.classes[split]} for split in SPLITS]
    assert [len(found) for found in coarse] == [12, 4, 4]
    assert len(set.union(*coarse)) == 20


def test_the_real_archive_is_read_whole_and_has_the_published_mean(real):
    """0.5071, 0.4865, 0.4409 of the 50,000 that are for training; of all 60,000 as well, to 1 in 1,000."""
    sums = np.zeros(3)
    for split in SPLITS:
        pool = CifarFS(5, 1, 15, str(real.parent), None).load(split)
        assert pool.size.tolist() == [600] * len(CifarFS.facts.classes[split])
        sums += pool.x.sum((0, 1, 2), dtype=np.int64)
    np.testing.assert_allclose(sums / (60_000 * 1024 * 255), [0.5071, 0.4865, 0.4409], atol=1e-3)


@pytest.mark.parametrize("task", TASKS.values())
def test_an_episode_shows_the_images_of_its_classes(task, cifar_dir):
    tasks = task(ways=3, shots=2, queries=4, data_dir=cifar_dir, augment=None)
    support, query, classes, *_ = jax.device_get(jax.jit(tasks.sample)(tasks.load("val"), jax.random.key(0)))
    first = CIFAR_CLASSES["train"]
    assert [tasks.class_names("val")[c] for c in classes] == [chr(ord("a") + first + c) for c in classes]
    for x, y in ((support.x, support.y), (query.x, query.y)):
        assert x.shape[1:] == (32, 32, 3)
        assert (x[:, 0, :-1] == 0).all()  # the first row
        assert (x[:, :, -1] == 1).all()  # the last column
        red, green, blue = np.asarray(x[:, 5, 5] * 255).round().astype(int).T
        np.testing.assert_array_equal(red, 10 * (first + classes[y]))
        assert (green % 12 == 0).all()
        assert (blue == 7).all()


def test_training_and_test_images_of_the_archive_are_pooled(cifar_dir):
    pool = CifarFS(3, 1, 1, cifar_dir, None).load("test")
    assert pool.size.tolist() == [20] * CIFAR_CLASSES["test"]
    assert sorted(pool.x[:20, 5, 5, 1].tolist()) == [12 * i for i in range(20)]


def test_the_order_of_an_archives_records_changes_no_episode(cifar_dir, folder):
    content = records(cifar_dir)
    found = []
    for seed in (0, 1):
        for rows in content.values():
            random.Random(seed).shuffle(rows)
        write(folder / NAME, content)
        found.append(images(folder))
        cache = folder.parent / "cache"
        cache.rename(folder.parent / f"cache-{seed}")  # nothing of the first is left to find
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_start_reads_what_the_first_has_decoded(cifar_dir, folder):
    write(folder / NAME, records(cifar_dir))
    first = images(folder)
    (folder / NAME).write_text("no archive")
    for one, other in zip(first, images(folder), strict=True):
        np.testing.assert_array_equal(one, other)


def another_pixel(content: dict[str, list[bytes]]) -> None:
    content["test.bin"][3] = content["test.bin"][3][:-1] + b"\x00"


DAMAGES = {
    "another pixel": (another_pixel, "its test.bin does not hold the published images; delete it"),
    "one image less": (lambda content: content["train.bin"].pop(), "it lacks train.bin, whole"),
    "a part less": (lambda content: content.pop("test.bin"), "it lacks test.bin, whole"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_archive_that_is_not_the_published_one_is_refused_in_one_line(damage, cifar_dir, folder):
    do, said = DAMAGES[damage]
    content = records(cifar_dir)
    do(content)
    write(folder / NAME, content)
    with pytest.raises(DataError, match=said) as error:
        images(folder)
    assert "\n" not in str(error.value)
    assert not list((folder.parent / "cache").glob("*"))


def test_half_an_archive_and_none_are_refused_and_a_downloaded_one_is_fetched_again(cifar_dir, folder, monkeypatch):
    whole = Path(cifar_dir, "cifar100", NAME).read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>"):
        (folder / NAME).write_bytes(content)
        with pytest.raises(DataError, match="it cannot be read"):
            images(folder)
        assert (folder / NAME).exists()  # it is the user's
    fetched = folder.parent / "fetched.tar.gz"
    fetched.write_bytes(b"<html>")
    monkeypatch.setattr("metarun.data.fetch.download", lambda *_: fetched)
    (folder / NAME).unlink()
    with pytest.raises(DataError, match="it cannot be read"):
        images(folder)
    assert not fetched.exists()


def test_what_the_classes_cannot_give_is_refused_without_the_files():
    for task, override, said in (
        ("cifar_fs", "task.ways=17", "task.ways=17: at most 16, the val classes"),
        ("fc100", "task.ways=21", "task.ways=21: at most 20, the val classes"),
        ("cifar_fs", "task.queries=600", "at most 600 together"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_of(f"task={task}", "data_dir=/nowhere", override)
