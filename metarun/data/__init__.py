"""Data sets on disk: found where the user has them, fetched where he has not, and kept as arrays once decoded."""

from metarun.data.cache import cached
from metarun.data.fetch import download
from metarun.data.local import find, must_be_a_folder

__all__ = ["cached", "download", "find", "must_be_a_folder"]
