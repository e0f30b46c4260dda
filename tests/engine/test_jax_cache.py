"""jax's own cache, on a disk that took a part of it."""

import warnings

import pytest
from filelock import FileLock

from metarun.engine import jax_cache
from metarun.engine.jax_cache import keep_compiled_programs, take_away_torn

FILES = {"whole-cache": b"program", "whole-atime": b"now", "no-time-cache": b"prog", "empty-cache": b""}


@pytest.fixture
def folder(tmp_path):
    for name, content in (FILES | {"empty-atime": b"now"}).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def entries(folder) -> list[str]:
    return sorted(file.name for file in folder.glob("*-cache"))


def test_entries_that_were_cut_short_are_taken_away(folder):
    take_away_torn(folder)
    assert entries(folder) == ["whole-cache"]
    take_away_torn(folder / "none")


def test_while_another_process_is_at_an_entry_none_is_taken_away(folder):
    with FileLock(folder / ".lockfile"):
        take_away_torn(folder)
        assert len(entries(folder)) == 3


def test_of_what_cannot_be_read_or_written_jax_does_not_warn(monkeypatch):
    monkeypatch.setattr(jax_cache, "take_away_torn", lambda folder: None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        keep_compiled_programs()
        for of in ("reading", "writing"):
            warnings.warn(f"Error {of} persistent compilation cache entry for 'jit_f': OSError: full", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in told] == ["another"]
