"""Data that cannot be right: bad archives, broken downloads, splits that share what they must not."""

import shutil
import signal
import threading
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from support import serve, start

from metarun.core import DataError
from metarun.data import download
from metarun.run import separation
from metarun.run.separation import Part
from metarun.tasks import omniglot


class Classes:
    """Tasks of a few named classes."""

    def __init__(self, **classes: list[int]) -> None:
        self.named = {name: np.array(values) for name, values in classes.items()}

    def examples(self, split, data):
        return self.named


def test_a_class_in_two_splits_is_refused_by_its_examples_or_its_name():
    new = {"train": Classes(a=[1, 2], b=[3, 4]), "val": Classes(c=[5, 6]), "test": Classes(d=[7, 1])}
    data = dict.fromkeys(new)
    found = separation.check(new, data)
    assert found["classes"] == {"train": 2, "val": 1, "test": 1}
    assert found["duplicates"] == [["train: a[0]", "test: d[1]"]]
    with pytest.raises(DataError, match="1 classes stand in train and in test alike, 'b'"):
        separation.check({**new, "test": Classes(other=[4, 3])}, data)
    with pytest.raises(DataError, match="stand in val and in test alike, 'c'"):
        separation.check({**new, "test": Classes(c=[8, 9])}, data)


def test_classes_that_stand_in_training_are_refused_in_a_domain_by_their_contents_and_doubled_examples_told():
    own = {"train": Part(Classes(a=[1, 2], b=[3, 4]), "train", None), "val": Part(Classes(c=[5, 6]), "val", None)}
    found = separation.apart({**own, "eval.tasks.x": Part(Classes(a=[7, 1], c=[8, 9]), "test", None)})
    assert found["classes"] == {"train": 2, "val": 1, "eval.tasks.x": 2}  # other data may have the same names
    assert found["duplicates"] == [["train: a[0]", "eval.tasks.x: a[1]"]]
    with pytest.raises(DataError, match=r"1 classes stand in val and in eval\.tasks\.x alike, 'c' \('d' there\)"):
        separation.apart({**own, "eval.tasks.x": Part(Classes(d=[6, 5]), "test", None)})


def test_a_splits_content_is_its_classes_and_their_examples_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))

    def contents(train, **test):
        tasks = {"train": train, "val": Classes(c=[5, 6]), "test": Classes(**test)}
        return separation.check(tasks, dict.fromkeys(tasks))["contents"]

    a, b = [1, 2], [3, 4]
    of = contents(Classes(a=a, b=b), d=[7, 8])
    assert contents(Classes(a=a, b=b), e=[9, 0]) == of | {"test": contents(Classes(z=[0]), e=[9, 0])["test"]}
    others = [Classes(a=[2, 1], b=b), Classes(b=b, a=a), Classes(a=a, x=b), Classes(a=[1], b=[3])]
    assert len({of["train"], *(contents(train, d=[7, 8])["train"] for train in others)}) == 5


def test_what_was_found_of_the_same_classes_is_remembered_and_of_others_found_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    compared = []
    compare = separation.compare
    monkeypatch.setattr(separation, "compare", lambda classes: compared.append(classes) or compare(classes))

    def check(**test):
        tasks = {"train": Classes(a=[1, 2]), "val": Classes(c=[5, 6]), "test": Classes(**test)}
        return separation.check(tasks, dict.fromkeys(tasks)), len(compared)

    found, _ = check(d=[7, 1])
    assert found["duplicates"] == [["train: a[0]", "test: d[1]"]]
    assert check(d=[7, 1]) == (found, 1)
    assert check(d=[7, 8])[0]["duplicates"] == []  # an example
    other = check(e=[7, 1])  # a name
    assert other[0]["duplicates"] == [["train: a[0]", "test: e[1]"]]
    assert other[1] == 3
    assert check(d=[[7, 1]])[1] == 4  # a shape
    for n, damaged in enumerate((lambda _: "{}", lambda text: text.replace("a[0]", "a[1]"), lambda text: text[:80])):
        for path in (tmp_path / "separation").iterdir():
            path.write_text(damaged(path.read_text()))
        assert check(d=[7, 1]) == (found, 5 + n)
    for _ in range(2):
        with pytest.raises(DataError, match="'a'"):
            check(a=[0])


ARCHIVE = omniglot.Archive("images_background.zip", 1, "0" * 64)


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused_unread(tmp_path):
    path = tmp_path / "images_background.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(20):
            file.writestr(f"images_background/A/character01/{i:04}.png", bytes(2**22))
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match="its drawings unpack to 83,886,080 bytes"):
        omniglot.read(path, ARCHIVE)


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png"])
def test_an_archive_with_names_that_lead_elsewhere_is_refused_and_writes_nothing(tmp_path, name):
    path = tmp_path / "box" / "images_background.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for i in range(20):
            file.writestr(f"{name[:-4]}/{i:04}.png", b"no image")
    with pytest.raises(DataError, match="its drawings are not the published ones"):
        omniglot.read(path, ARCHIVE)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_download_of_something_else_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    delivered = tmp_path / "images_background.zip"

    def other(url, name, data_dir):
        delivered.write_text("<html>please log in</html>")
        return delivered

    monkeypatch.setattr("metarun.data.fetch.download", other)
    with pytest.raises(DataError, match=r"is not Omniglot's images_background\.zip"):
        omniglot.load_drawings(None)
    assert not delivered.exists()


class Mirror:
    """Omniglot's home on this machine, which can be told to deliver it badly."""

    def __init__(self, folder: Path) -> None:
        self.how = "well"
        self.asked: list[str] = []
        self.stalled, self.goes_on = threading.Event(), threading.Event()
        mirror = self

        class Server(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                content = (folder / self.path.rsplit("/", 1)[1]).read_bytes()
                if mirror.how == "something else":
                    content = b"<html>please log in</html>"
                self.send_response(404 if mirror.how == "nothing" else 200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if mirror.how in ("well", "something else") else content[: len(content) // 2])
                if mirror.how == "stalls":
                    mirror.stalled.set()
                    mirror.goes_on.wait(60)

            def log_message(self, *_: object) -> None:
                pass

        self.server = serve(Server)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def mirror(omniglot_dir, tmp_path, monkeypatch):
    mirror = Mirror(Path(omniglot_dir) / "omniglot")
    monkeypatch.setattr(omniglot, "HOME", mirror.url)
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    yield mirror
    mirror.server.shutdown()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("how", ["half", "something else", "nothing"])
def test_a_bad_download_is_refused_by_name_and_leaves_nothing(mirror, tmp_path, how):
    mirror.how = how
    with pytest.raises(DataError, match=r"images_background\.zip"):
        omniglot.load_drawings(None)
    assert files(tmp_path / "cache") == []


def test_after_a_download_that_broke_the_next_try_works(mirror, tmp_path, omniglot_dir, monkeypatch):
    """It gets the archives whole; how they are read, which takes seconds, is tested elsewhere."""
    mirror.how = "half"
    with pytest.raises(DataError):
        omniglot.load_drawings(None)
    mirror.how = "well"

    def read(path: Path, archive: omniglot.Archive) -> dict[str, np.ndarray]:
        assert path.read_bytes() == (Path(omniglot_dir) / "omniglot" / archive.name).read_bytes()
        drawings = np.zeros((archive.characters, 20, 28, 28), np.uint8)
        return {f"{archive.name} {i}": drawing for i, drawing in enumerate(drawings)}

    monkeypatch.setattr(omniglot, "read", read)
    _, images = omniglot.load_drawings(None)
    assert images.shape == (1623, 20, 28, 28)
    asked = len(mirror.asked)
    omniglot.load_drawings(None)  # kept
    assert len(mirror.asked) == asked
    assert not [name for name in files(tmp_path / "cache") if "partial" in name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_of_a_download_that_a_signal_ends_nothing_is_left_after_the_next(mirror, tmp_path, number):
    mirror.how = "stalls"
    code = (
        "import sys; from metarun.data import download; from metarun.run.stop import leave_on_signals\n"
        "with leave_on_signals():\n download(sys.argv[1], 'omniglot', None)"
    )
    url = f"{mirror.url}images_evaluation.zip"
    process = start(url, cwd=tmp_path, program=("-c", code))
    assert mirror.stalled.wait(60)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 75)
    mirror.how = "well"
    mirror.goes_on.set()
    fetched = download(url, "omniglot", None)
    assert zipfile.is_zipfile(fetched)
    assert list((tmp_path / "cache" / "omniglot").iterdir()) == [fetched]


@pytest.mark.slow
def test_two_processes_that_prepare_the_same_data_both_succeed(tmp_path, omniglot_dir):
    cache = {"METARUN_CACHE_DIR": str(tmp_path / "cache")}
    both = [start("data", "omniglot", f"data_dir={omniglot_dir}", cwd=tmp_path, **cache) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, "")
        assert " train     1,100     22,000 " in out  # characters, drawings
    assert sorted(name for name in files(tmp_path / "cache") if name.endswith(".npy")) == ["images.npy", "names.npy"]


@pytest.mark.parametrize("damage", ["truncated", "swapped", "corrupted", "empty", "no images"])
def test_a_bad_archive_is_refused_by_name_and_leaves_nothing(tmp_path, omniglot_dir, monkeypatch, damage):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "omniglot"
    shutil.copytree(Path(omniglot_dir) / "omniglot", folder)
    path, other = folder / "images_background.zip", folder / "images_evaluation.zip"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "truncated": content[:middle],
            "swapped": other.read_bytes(),
            "corrupted": content[:middle]
            + bytes(b ^ 255 for b in content[middle : middle + 64])
            + content[middle + 64 :],
            "empty": b"",
            "no images": content.replace(b"\x89PNG", b"\x89PNK"),
        }[damage]
    )
    with pytest.raises(DataError, match=r"images_background\.zip is not Omniglot's"):
        omniglot.load_drawings(str(tmp_path))
    assert files(tmp_path / "cache") == []
