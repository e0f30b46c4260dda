"""What is written to the user's disk: whole, and where it was asked for."""

import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest

from metarun.files import write_atomically, write_bytes_atomically

MEMORY = Path("/dev/shm")  # where Linux keeps files in memory


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "new")]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_file_is_written(tmp_path, there):
    (tmp_path / "of").mkdir()
    if there:
        (tmp_path / "of" / "file").write_text("old")
    (tmp_path / "link").symlink_to("of/file")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "of" / "file").read_text() == "new"


def test_who_reads_from_a_pipe_gets_what_is_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_atomically(tmp_path / "pipe", "new")
    reader.join(timeout=20)
    assert read == ["new"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(not MEMORY.is_dir(), reason="of Linux")
def test_below_dev_too_a_plain_file_stays_whole():
    def breaks(file):
        file.write(b"ne")
        file.flush()
        raise KeyError

    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        (there := Path(directory) / "a").write_text("old")
        with pytest.raises(KeyError):
            write_bytes_atomically(there, breaks)
        with pytest.raises(KeyError):
            write_bytes_atomically(Path(directory) / "b", breaks)
        assert [(file.name, file.read_text()) for file in Path(directory).iterdir()] == [("a", "old")]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="of Linux")
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_open_is_written_into_where_it_is_named_as_open(tmp_path, linked):
    (tmp_path / "log").write_text("old")
    with (tmp_path / "log").open("a") as file:
        path = Path(f"/dev/fd/{file.fileno()}")
        if linked:  # as /dev/stdout is
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
        write_atomically(path, "new")
        assert os.fstat(file.fileno()).st_ino == (tmp_path / "log").stat().st_ino
        assert (tmp_path / "log").read_text() == "new"


def full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_of_the_file_that_it_did_not_take(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'$"):
        write_bytes_atomically(tmp_path / "a", full)
    with pytest.raises(OSError, match=r"No such file or directory: '.*/none/a'$"):
        write_atomically(tmp_path / "none" / "a", "new")
    assert not list(tmp_path.iterdir())
