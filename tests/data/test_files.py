"""What is written to the user's disk: whole, and where it was asked for."""

import os
import threading

import pytest

from metarun.files import write_atomically


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
