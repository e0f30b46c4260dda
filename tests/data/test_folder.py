"""A user's folder, zip or tar of images: whose files they are, and what is refused."""

import errno
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from folders import FRACTIONS, SMALL, every, expected, found, of_classes, png, seen, written

from metarun.core import ConfigError, DataError
from metarun.data import files, images_in
from metarun.tasks.folder import Folder

pytestmark = pytest.mark.usefixtures("own_cache")


def test_each_directory_is_a_class_and_the_classes_are_shared_out_by_the_seed(tmp_path):
    path = written(tmp_path / "mine", of_classes("abcdefgh"))
    one, same, other = found(path), found(path), found(path, seed=1)
    assert every(one) == every(other) == expected("abcdefgh")
    assert [len(one.splits[s].names) for s in ("train", "val", "test")] == [4, 2, 2]
    assert [one.splits[s].names for s in one.splits] == [same.splits[s].names for s in same.splits]
    assert [one.splits[s].names for s in one.splits] != [other.splits[s].names for s in other.splits]
    assert one.told == ()


@pytest.mark.parametrize("pack", ["zip", "tar", "tar.gz", "wrapped zip"])
def test_an_archive_is_what_the_folder_in_it_is(tmp_path, pack):
    path = written(tmp_path / "mine", of_classes("badc"))
    if "zip" in pack:
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as file:
            for name in ("d", "b", "a", "c"):
                for i in range(3):
                    file.write(path / name / f"{i}.png", f"{'top/' * ('wrapped' in pack)}{name}/{i}.png")
            file.writestr("__MACOSX/._x.png", b"")
        archive = tmp_path / "mine.zip"
    else:
        archive = tmp_path / f"mine.{pack}"
        with tarfile.open(archive, "w:gz" if pack.endswith("gz") else "w") as file:
            file.add(path, ".")
    there, here = found(archive), found(path)
    assert every(there) == expected("abcd")
    assert {s: seen(there.splits[s]) for s in there.splits} == {s: seen(here.splits[s]) for s in here.splits}


def test_splits_of_the_folder_stand_and_one_that_is_lacking_is_drawn_from_training(tmp_path):
    files = of_classes("abcdef", before="training/") | of_classes("gh", before="test/")
    data = found(written(tmp_path / "mine", files))
    assert data.splits["test"].names == ("g", "h")
    assert sorted(data.splits["train"].names + data.splits["val"].names) == list("abcdef")
    assert len(data.splits["val"].names) == 2  # a quarter to a half: a third of six
    assert every(data) == expected("abcdefgh")
    whole = found(written(tmp_path / "mine", of_classes("ij", before="valid/")))
    assert {split: "".join(classes.names) for split, classes in whole.splits.items()} == {
        "train": "abcdef",
        "val": "ij",
        "test": "gh",
    }


def test_an_image_beside_the_classes_does_not_mix_the_splits(tmp_path):
    """Nor do a folder that is no split, and what stands beside an archive's only folder."""
    files = of_classes("abc", before="mine/train/") | of_classes("de", before="mine/val/")
    files |= of_classes("fg", before="mine/test/") | {"mine/train/overview.png": png(0), "mine/docs/figure.png": png(0)}
    path = written(tmp_path / "in", files | {"README.md": "mine"})
    data = found(path)
    assert {s: "".join(c.names) for s, c in data.splits.items()} == {"train": "abc", "val": "de", "test": "fg"}
    (told,) = data.told
    assert told.startswith(f"{path}: 2 images are in no class of test or train or val and are left out: ")
    assert {"docs/figure.png", "train/overview.png"} == set(told.rpartition(": ")[2].split(", "))
    written(path, {"mine/logo.svg": b"<svg/>", "mine/logo.png": png(0)})
    logos = found(path)
    assert {s: "".join(c.names) for s, c in logos.splits.items()} == {"train": "abc", "val": "de", "test": "fg"}
    assert logos.told[0] == f"{path}: 1 images of formats that are not read are left out: mine/logo.svg"
    vehicles = {f"{name}/{i}.png": png(i) for name in ("train", "bus", "test") for i in range(2)}
    assert every(found(written(tmp_path / "vehicles", vehicles))).keys() == {"train", "bus", "test"}


def test_links_in_a_tar_and_names_that_are_no_text_are_files_as_others(tmp_path):
    with tarfile.open(tmp_path / "mine.tar", "w") as file:
        for name, content in of_classes("abc").items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        links = [(tarfile.LNKTYPE, "a/0.png"), (tarfile.SYMTYPE, "../b/1.png"), (tarfile.SYMTYPE, "../nowhere.png")]
        for i, (kind, to) in enumerate([*links, (tarfile.SYMTYPE, "3.png")]):  # the last one leads to itself
            info = tarfile.TarInfo(f"d/{i}.png")
            info.type, info.linkname = kind, to
            file.addfile(info)
    data = found(tmp_path / "mine.tar")
    assert every(data) == expected("abc") | {"d": [(97, 0), (98, 1)]}
    assert "2 files cannot be read as images and are left out: d/2.png (" in data.told[0]

    path = written(tmp_path / "latin", of_classes("ab"))
    os.rename(os.fsencode(path / "b"), os.fsencode(path) + b"/caf\xe9")
    assert every(found(path)).keys() == {"a", r"caf\xe9"}


def test_a_file_that_cannot_be_read_this_time_stops_the_run_and_is_read_the_next_time(tmp_path, monkeypatch):
    path = written(tmp_path / "mine", of_classes("ab"))

    def failing(of):
        if of.endswith("b/1.png"):
            raise OSError(errno.EIO, "Input/output error")
        return Path(of).read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(files, "content", failing)
        with pytest.raises(DataError, match=r"mine: b/1.png cannot be read \(Input/output error\); try again"):
            found(path)
    assert every(found(path)) == expected("ab")


def test_lists_of_classes_of_files_and_of_labels_give_the_splits(tmp_path):
    by_class = written(tmp_path / "one", of_classes("abcd") | {"train.txt": "a\nb\n", "val.txt": "c", "test.txt": "d"})
    assert {s: "".join(c.names) for s, c in found(by_class).splits.items()} == {"train": "ab", "val": "c", "test": "d"}
    by_file = written(tmp_path / "two", of_classes("abcd") | {"train.txt": "a/0.png\na/2.png\nb/1.png\nb/1.png\n"})
    written(by_file, {"val.txt": "c/1.png", "test.txt": "d/0.png"})
    assert seen(found(by_file).splits["train"]) == {"a": [(97, 0), (97, 2)], "b": [(98, 1)]}
    flat = {f"images/{c}{i}.png": png((ord(c), i, 0)) for c in "abcd" for i in range(3)}
    lists = {split: [f"{c}{i}.png,{c}" for c in classes for i in range(3)] for split, classes in SPLIT_CLASSES.items()}
    by_label = written(
        tmp_path / "three", flat | {f"{s}.csv": "\n".join(["filename,label", *rows]) for s, rows in lists.items()}
    )
    assert {s: seen(c) for s, c in found(by_label).splits.items()} == {s: expected(c) for s, c in SPLIT_CLASSES.items()}


SPLIT_CLASSES = {"train": "ab", "val": "c", "test": "d"}


def test_what_cannot_be_read_or_has_no_class_is_left_out_and_told(tmp_path):
    path = written(
        tmp_path / "mine", of_classes("abcd", 4) | {"a/1.png": b"no image", "b/3.jpg": b"", "loose.png": png(0)}
    )
    written(path, {"a/notes.txt": "not an image", ".hidden/x.png": b"", "c/.DS_Store": b""})
    for _ in range(2):  # decoded, and from the cache
        data = found(path)
        assert every(data) == expected("abcd", 4) | {"a": [(97, 0), (97, 2), (97, 3)], "b": [(98, i) for i in range(4)]}
        loose, bad = data.told
        assert loose == f"{path}: 1 images stand in no class's directory and are left out: loose.png"
        assert bad.startswith(f"{path}: 2 files cannot be read as images and are left out: ")
        assert "a/1.png (cannot identify image file)" in bad
        assert "b/3.jpg (cannot identify image file)" in bad


def task(path, **changes) -> Folder:
    values = {"ways": 2, "shots": 1, "queries": 1, "path": str(path), "image": SMALL, "fractions": FRACTIONS, "seed": 0}
    return Folder(**values | changes)


def test_classes_too_small_for_an_episode_are_left_out_and_counted(tmp_path):
    files = of_classes("abc", 4, "train/") | of_classes("de", 4, "val/") | of_classes("fg", 4, "test/")
    del files["train/b/3.png"]
    path = written(tmp_path / "mine", files)
    tasks = task(path, shots=2, queries=2)
    assert tasks.class_names("train") == ["a", "c"]
    assert tasks.n_classes("train") == 2
    assert tasks.told() == [
        "1 of 3 train classes have fewer than 2+2 examples, shots and queries of an episode, and are left out: b"
    ]
    assert task(path, queries=2).told() == []
    tasks.check("train")
    with pytest.raises(ConfigError, match=r"ways=4: at most 3, the train classes"):
        task(path, ways=4).check("train")
    with pytest.raises(ConfigError, match=r"shots\+queries=2\+2: at most 3 together: only 2 of the 3 train classes"):
        task(path, ways=3, shots=2, queries=2).check("train")
    written(path, {"val/d/9.png": b"no image"})  # one that cannot be read is no example
    images_in.cache_clear()
    with pytest.raises(ConfigError, match=r"shots\+queries=3\+2: at most 4 together"):
        task(path, shots=3, queries=2).check("val")


def bomb(path: Path) -> Path:
    """A zip of a few kilobytes that claims ten gigabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(4):
            file.writestr(f"a/{i}.png", bytes(1000))
    claimed = bytearray(path.read_bytes())
    for at in range(len(claimed) - 4):
        if claimed[at : at + 4] == b"PK\x01\x02":
            claimed[at + 24 : at + 28] = (2_600_000_000).to_bytes(4, "little")
    path.write_bytes(claimed)
    return path


def escaping(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../a/0.png", png(0))
    return path


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda p: p / "nowhere", ConfigError, "path=PATH/nowhere: no such folder, zip or tar"),
        (lambda p: written(p, {"x": "text"}) / "x", ConfigError, "PATH/x: is neither a folder nor a zip nor a tar"),
        (lambda p: written(p, {"readme.md": ""}), DataError, "PATH holds no images among its 1 files: a directory"),
        (lambda p: written(p, {"a.png": png(0)}), DataError, "PATH: its 1 images stand in no directory"),
        (lambda p: written(p, of_classes("a")), DataError, "PATH holds one class only, 'a': an episode needs two"),
        (
            lambda p: written(p, of_classes("ab", before="train/") | of_classes("bc", before="test/")),
            DataError,
            "PATH: the class 'b' stands in train and test: a split needs classes of its own",
        ),
        (lambda p: written(p, of_classes("ab", before="val/")), DataError, "PATH has val, and no train"),
        (lambda p: written(p, {f"{c}/1.png": b"x" for c in "ab"}), DataError, "PATH: 2 files cannot be read as images"),
        (
            lambda p: written(p, of_classes("ab") | {"train.txt": "a\nx\ny"}),
            DataError,
            "PATH: 2 names of train.txt are neither a class's nor an image's: x, y",
        ),
        (
            lambda p: written(p, of_classes("ab") | {"train.csv": "file,class\n"}),
            DataError,
            "PATH: train.csv has the columns file, class; filename and label are wanted",
        ),
        (
            lambda p: written(p, of_classes("ab") | {"train.csv": "filename,label\na/0.png,a\nb/1.png"}),
            DataError,
            "PATH: train.csv, line 3: b/1.png has no label",
        ),
        (lambda p: bomb(p / "x.zip"), DataError, "PATH/x.zip claims 10,400,000,000 bytes in an archive of"),
        (lambda p: escaping(p / "x.zip"), DataError, "PATH/x.zip: the name '../../a/0.png' leads out of the archive"),
        (lambda p: written(p, {"x.zip": b"PK\5\6" + bytes(18)}) / "x.zip", DataError, "no images among its 0 files"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_it(tmp_path, make, kind, says):
    folder = tmp_path / "mine"
    folder.mkdir()
    path = make(folder)
    with pytest.raises(kind) as error:
        found(path)
    assert says in str(error.value).replace(str(folder), "PATH")
    assert "\n" not in str(error.value)


def test_a_name_that_two_files_have_is_no_ones(tmp_path):
    """Else a list of bare names would take images of another class without a word."""
    lists = {f"{s}.csv": "filename,label\n0.png,x\n" for s in ("train", "val", "test")}
    with pytest.raises(DataError, match=r"1 names of train\.csv are neither a class's nor an image's: 0\.png"):
        found(written(tmp_path / "mine", of_classes("ab") | lists))


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    path = written(tmp_path / "mine", of_classes("abcd"))
    os.symlink(path, path / "a" / "again")
    assert every(found(path)) == expected("abcd")
