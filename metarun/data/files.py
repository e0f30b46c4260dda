"""The files of a folder, a zip or a tar, by their names; nothing is unpacked to the disk."""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metarun.core import ConfigError, DataError
from metarun.text import first_line

MOST_BYTES = 2**30  # an archive may unpack to so much, or to MOST_TIMES its own size
MOST_TIMES = 100
LARGEST = 2**28  # a single file of an archive: an image is not larger


class File(NamedTuple):
    """One file."""

    name: str  # from the folder's or archive's root, with / between its parts
    size: int
    stamp: str  # changes when the content does
    read: Callable[[], bytes]  # may raise OSError


def files_of(path: Path) -> list[File]:
    """The files below a folder, or in an archive, in the order in which they are best read.

    Hidden ones are left out. Raises ConfigError for a path that is neither, DataError for an archive that is damaged,
    that claims to hold far more than it can, or whose names lead out of it.
    """
    if path.is_dir():
        return in_folder(path)
    if not path.exists():
        raise ConfigError("path", path, "no such folder, zip or tar")
    try:
        if zipfile.is_zipfile(path):
            found = in_zip(path)
        elif tarfile.is_tarfile(path):
            found = in_tar(path)
        else:
            raise ConfigError("path", path, "is neither a folder nor a zip nor a tar")
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); replace it") from error
    must_be_sound(path, found)
    return [file for file in found if not hidden(file.name)]


def must_be_sound(path: Path, files: list[File]) -> None:
    """Raises DataError for an archive with names that lead elsewhere, or that unpacks to what no images need."""
    for file in files:
        parts = PurePosixPath(file.name).parts
        if ".." in parts or file.name.startswith("/") or "\\" in file.name or ":" in (parts or ("",))[0]:
            raise DataError(f"{path}: the name {file.name!r} leads out of the archive; such an archive is not read")
    total, most = sum(file.size for file in files), max(MOST_BYTES, MOST_TIMES * path.stat().st_size)
    if total > most:
        raise DataError(
            f"{path} claims {total:,} bytes in an archive of {path.stat().st_size:,}; at most {most:,} are read; "
            "unpack it if you trust it, and give the folder"
        )
    for file in files:
        if file.size > LARGEST:
            raise DataError(f"{path}: {file.name} claims {file.size:,} bytes; at most {LARGEST:,} are read of one file")


def hidden(name: str) -> bool:
    return any((part.startswith(".") and part != ".") or part in ("__MACOSX", "Thumbs.db") for part in name.split("/"))


def in_folder(path: Path) -> list[File]:
    found: list[File] = []
    seen: set[tuple[int, int]] = set()  # a link may lead back to where it is

    def walk(folder: str, before: str) -> None:
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            return
        seen.add((state.st_dev, state.st_ino))
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if hidden(entry.name):
                continue
            if entry.is_dir():
                walk(entry.path, f"{before}{entry.name}/")
            elif entry.is_file():
                state = entry.stat()
                stamp = f"{state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
                found.append(File(in_text(f"{before}{entry.name}"), state.st_size, stamp, partial(content, entry.path)))

    try:
        walk(str(path), "")
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error
    return found


def in_text(name: str) -> str:
    """A file's name as text, whatever bytes it is: those that are no UTF-8 as `\\xe9`. Without `./` before it."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace").removeprefix("./")


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def in_zip(path: Path) -> list[File]:
    archive = zipfile.ZipFile(path)

    def reader(info: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                with archive.open(info) as member:
                    found = member.read(info.file_size)
                    if member.read(1):
                        raise OSError("it is longer than it claims")
                return found
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
                raise OSError(first_line(error)) from error

        return read

    infos = [info for info in archive.infolist() if not info.is_dir()]
    return [File(in_text(info.filename), info.file_size, f"{info.CRC:08x}", reader(info)) for info in infos]


def in_tar(path: Path) -> list[File]:
    archive, state = tarfile.open(path), path.stat()  # noqa: SIM115, as it is read from for as long as there are files

    def reader(member: tarfile.TarInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                file = archive.extractfile(member)
                return file.read() if file is not None else b""
            except (tarfile.TarError, zlib.error, EOFError, KeyError, RecursionError) as error:  # of links, too
                raise OSError(first_line(error)) from error

        return read

    stamp = f"{state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    members = [member for member in archive if member.isfile() or member.islnk() or member.issym()]
    return [File(in_text(m.name), m.size, f"{stamp} {m.offset_data}", reader(m)) for m in members]


def in_turn(path: Path) -> bool:
    """Whether files must be read one by one, in their order: a compressed tar has no way back."""
    return path.is_file() and not zipfile.is_zipfile(path)


def contents(path: Path, files: list[File]) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """The number of each file, and how to read it, on any thread. Those of a tar should come in the tar's order."""
    one_by_one = in_turn(path)
    for i, file in enumerate(files):
        if one_by_one:
            try:
                found: bytes | OSError = file.read()
            except OSError as error:
                found = error
            yield i, partial(raised, found)
        else:
            yield i, file.read


def raised(found: bytes | OSError) -> bytes:
    if isinstance(found, OSError):
        raise found
    return found
