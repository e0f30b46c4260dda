"""A folder, zip or tar of images, one directory a class: whose files they are, and the images themselves."""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from functools import lru_cache
from os.path import splitext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from metarun.core import DataError
from metarun.data import images
from metarun.data.cache import cached, empty
from metarun.data.files import File, contents, files_of
from metarun.data.images import FORMATS, NOT_READ, Image, decoded
from metarun.data.pool import Classes, Found, Pool
from metarun.data.splits import NAMES, SPLITS, completed, drawn
from metarun.text import first_line, one_line, some

AT_MOST_TOLD = 5  # names of a kind, in a line about many

Sorted = dict[str, dict[str, list[int]]]  # split -> class -> the numbers of its files


class Sorting(NamedTuple):
    """Which file is of which class, and in which split."""

    files: list[File]
    splits: Sorted
    told: list[str]


@lru_cache(maxsize=8)
def images_in(path: str, image: Image, fractions: tuple[float, ...], seed: int) -> Found:
    """The images of a folder or archive, by split and class. Raises ConfigError and DataError.

    Splits are the folder's own, as sub-directories train, val and test or as lists (train.txt or train.csv, ...); what
    has none is drawn from the classes by `fractions` and `seed`. Decoded once, and kept in the cache directory as
    long as the files stay as they are.
    """
    place = Path(path).expanduser()
    files, splits, told = sort(place, fractions, seed)
    order = [(split, name, i) for split in SPLITS for name in sorted(splits[split]) for i in splits[split][name]]
    how = f"{image} {PIL.__version__} {Path(images.__file__).read_text()}"  # another version may decode otherwise
    state = hashlib.sha256(how.encode())
    for split, name, i in order:
        state.update(f"{split} {name} {files[i].name} {files[i].size} {files[i].stamp}\n".encode())
    shape = (len(order), *image.shape)

    def make(folder: Path) -> dict[str, np.ndarray]:
        return decode(place, [i for _, _, i in order], files, image, folder)

    def is_whole(arrays: dict[str, np.ndarray]) -> bool:
        return arrays.keys() == {"images", "good", "why", "mixed"} and arrays["images"].shape == shape

    fingerprint = state.hexdigest()[:32]
    arrays = cached(f"images-{fingerprint}", make, is_whole)
    bad = np.flatnonzero(~arrays["good"])
    if arrays["mixed"][0]:
        kinds = f"{', '.join(arrays['mixed'])}; all become {image.colour}, of 8 bits"
        told = [*told, one_line(f"{place}: its images are not of a kind: {kinds}")]
    if len(bad):
        told = [*told, unreadable(place, [files[order[i][2]].name for i in bad], arrays["why"])]
    if len(bad) == len(order):
        raise DataError(told[-1])
    return Found(by_split(order, arrays), tuple(told), fingerprint)


def by_split(order: list[tuple[str, str, int]], arrays: dict[str, np.ndarray]) -> dict[str, Classes]:
    """The decoded images (the good ones stand first, in their order) as the pools of the splits."""
    found = {}
    good = [one for one, is_good in zip(order, arrays["good"], strict=True) if is_good]
    for split in SPLITS:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, (its_split, name, _) in enumerate(good):
            if its_split == split:
                rows[name].append(row)
        start = min((of_class[0] for of_class in rows.values()), default=0)
        end = max((of_class[-1] + 1 for of_class in rows.values()), default=0)
        first = np.array([of_class[0] - start for of_class in rows.values()], np.int32)
        size = np.array([len(of_class) for of_class in rows.values()], np.int32)
        found[split] = Classes(tuple(rows), Pool(arrays["images"][start:end], first, size))
    return found


def decode(path: Path, order: list[int], files: list[File], image: Image, folder: Path) -> dict[str, np.ndarray]:
    """The images (n, ...) of the files with these numbers, the good ones first.

    And which are `good` (n,), `why` the others are not, and what they are if they are not of a kind (`mixed`).
    Raises DataError for one that could not be read: without it, classes would not be what they are another time.
    """
    from rich.console import Console
    from rich.progress import track

    pixels = empty(folder, "images", (len(order), *image.shape), np.uint8)
    good = np.ones(len(order), bool)
    why: dict[int, str] = {}
    as_they_stand = np.argsort(order, kind="stable")  # a compressed tar is unpacked from its start for each step back
    wanted = [files[order[row]] for row in as_they_stand]
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    found = track(
        decoded(contents(path, wanted), image),
        printable_name(path),
        len(wanted),
        console=Console(stderr=True),
        transient=True,
    )
    for i, one in found:
        row, name = as_they_stand[i], wanted[i].name
        if isinstance(one, OSError):
            why_not = f"cannot be read ({one.strerror}); try again, or take it away"
            raise DataError(one_line(f"{path}: {name} {why_not}")) from one
        if isinstance(one, ValueError):
            good[row], why[row] = False, str(one)
        else:
            pixels[row] = one.pixels
            kinds[one.kind] += 1
            first[one.kind] = min(first.get(one.kind, name), name)
    if why:
        for to, row in enumerate(np.flatnonzero(good)):
            pixels[to] = pixels[row]
    mixed = [f"{n:,} {kind} ({first[kind]})" for kind, n in kinds.most_common()] if len(kinds) > 1 else []
    reasons = [why[row] for row in sorted(why)]
    return {"images": pixels, "good": good, "why": np.array(reasons or [""]), "mixed": np.array(mixed or [""])}


def printable_name(path: Path) -> str:
    return one_line(path.name).replace("[", "(")  # rich reads brackets as markup


def unreadable(path: Path, names: list[str], why: np.ndarray) -> str:
    told = "; ".join(f"{name} ({reason})" for name, reason in zip(names[:AT_MOST_TOLD], why, strict=False))
    more = f" and {len(names) - AT_MOST_TOLD:,} more" if len(names) > AT_MOST_TOLD else ""
    return one_line(f"{path}: {len(names):,} files cannot be read as images and are left out: {told}{more}")


def sort(path: Path, fractions: tuple[float, ...], seed: int) -> Sorting:
    """The image files below `path` by split and class. Raises ConfigError and DataError."""
    files = files_of(path)
    are_images = [is_image(file.name) for file in files]
    names = without_wrapper([file.name for file in files])
    numbers = [i for i, image in enumerate(are_images) if image]
    told = []
    if others := [file.name for file in files if splitext(file.name)[1].lower() in NOT_READ]:
        told.append(f"{path}: {len(others):,} images of formats that are not read are left out: {some(others)}")
    if not numbers:
        raise DataError(f"{path} holds no images among its {len(files):,} files: a directory a class is wanted")
    lists = {
        split: (names[i], files[i])
        for i, image in enumerate(are_images)
        if not image and "/" not in names[i]
        for stem, split in NAMES.items()
        if names[i] in (f"{stem}.txt", f"{stem}.csv")
    }
    if lists:
        splits = by_lists(path, names, numbers, lists)
    else:
        loose = [names[i] for i in numbers if "/" not in names[i]]
        if len(loose) == len(numbers):
            raise DataError(
                f"{path}: its {len(loose):,} images stand in no directory: a directory a class is wanted, "
                f"such as {path.name}/CLASS/{loose[0]}"
            )
        if loose:
            told.append(f"{path}: {len(loose):,} images stand in no class's directory and are left out: {some(loose)}")
        splits, beside = by_directories(names, [i for i in numbers if "/" in names[i]])
        if beside:
            whose = " or ".join(sorted(splits))
            told.append(f"{path}: {len(beside):,} images are in no class of {whose} and are left out: {some(beside)}")
    if set(splits) == {"all"}:
        chosen = drawn(splits["all"], fractions, seed)
    else:
        if "train" not in splits:
            raise DataError(f"{path} has {' and '.join(splits)}, and no train: give all three, or none")
        chosen = completed(splits, fractions, seed)
    every = {name: (split, of_class) for split, classes in splits.items() for name, of_class in classes.items()}
    named = sum(len(classes) for classes in splits.values())
    if len(every) < named:
        twice = next(n for s, c in splits.items() for n in c if every[n][0] != s)
        where = " and ".join(split for split in SPLITS if twice in splits.get(split, ()))
        raise DataError(f"{path}: the class {twice!r} stands in {where}: a split needs classes of its own")
    if len(every) < 2:
        raise DataError(f"{path} holds one class only, {next(iter(every))!r}: an episode needs two, and each split")
    return Sorting(files, {split: {name: every[name][1] for name in chosen[split]} for split in SPLITS}, told)


def without_wrapper(names: list[str]) -> list[str]:
    """The names, without directories in which all stands that has one, and which hold no image themselves.

    Beside such a directory there may be what is of no use here, a README say.
    """
    while True:
        tops = {top for top, slash, _ in (name.partition("/") for name in names) if slash}
        if len(tops) != 1 or next(iter(tops)).lower() in NAMES:
            return names
        inside = {NAMES.get(name.split("/")[1].lower()) for name in names if name.count("/") >= 3} - {None}
        has_splits = {"train"} < inside
        depths = [name.count("/") for name in names if is_image(name)]
        if (min(depths, default=2) < 2 and not has_splits) or any(is_list(name) for name in names):
            return names
        names = [name.partition("/")[2] or name for name in names]


def is_list(name: str) -> bool:
    return any(name in (f"{stem}.txt", f"{stem}.csv") for stem in NAMES)


def is_image(name: str) -> bool:
    return splitext(name)[1].lower() in FORMATS


def by_directories(names: list[str], numbers: list[int]) -> tuple[dict[str, dict[str, list[int]]], list[str]]:
    """Split -> class -> files, and the names of those that are of none.

    Directories at the top that hold directories are splits, if they are named so: all, or train and another one. Else
    there is one, "all".
    """
    tops = {names[i].partition("/")[0] for i in numbers}
    with_classes = {names[i].partition("/")[0] for i in numbers if names[i].count("/") >= 2}
    splits = {top: NAMES[top.lower()] for top in with_classes if top.lower() in NAMES}
    if not (splits.keys() == tops or {"train"} < set(splits.values())):
        splits = {}
    found: dict[str, dict[str, list[int]]] = {}
    beside = []
    for i in numbers:
        top, _, rest = names[i].partition("/")
        if not splits:
            found.setdefault("all", {}).setdefault(names[i].rpartition("/")[0], []).append(i)
        elif top in splits and "/" in rest:
            found.setdefault(splits[top], {}).setdefault(rest.rpartition("/")[0], []).append(i)
        else:
            beside.append(names[i])
    return found, beside


def by_lists(
    path: Path, names: list[str], numbers: list[int], lists: dict[str, tuple[str, File]]
) -> dict[str, dict[str, list[int]]]:
    """Split -> class -> files, by the lists that stand at the top: a .txt names classes, or files, one a line; a .csv
    has a head, and columns `filename` and `label`, for files that may stand in one folder all together."""
    of_class: dict[str, list[int]] = defaultdict(list)
    for i in numbers:
        of_class[names[i].rpartition("/")[0]].append(i)
    of_file = by_last_part([names[i] for i in numbers])
    number = {names[i]: i for i in numbers}
    short = by_last_part(list(of_class))
    found: dict[str, dict[str, list[int]]] = {}
    for split, (listed, file) in sorted(lists.items(), key=lambda item: SPLITS.index(item[0])):
        try:
            text = file.read().decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {listed} cannot be read ({first_line(error)})") from error
        classes: dict[str, list[int]] = {}
        missing = []
        if listed.endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text))
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                has = ", ".join(rows.fieldnames or ())
                raise DataError(f"{path}: {listed} has the columns {has}; filename and label are wanted")
            for row in rows:
                name = of_file.get(row["filename"] or "")
                if not row["label"]:
                    raise DataError(one_line(f"{path}: {listed}, line {rows.line_num}: {row['filename']} has no label"))
                if name is None:
                    missing.append(row["filename"])
                else:
                    classes.setdefault(row["label"], []).append(number[name])
        else:
            for line in filter(None, map(str.strip, text.splitlines())):
                if line in short:
                    classes[line] = of_class[short[line]]
                elif line in of_file:
                    classes.setdefault(of_file[line].rpartition("/")[0], []).append(number[of_file[line]])
                else:
                    missing.append(line)
        if missing:
            raise DataError(
                f"{path}: {len(missing):,} names of {listed} are neither a class's nor an image's: {some(missing)}"
            )
        # In the order of the files, as without lists: the order of a list means nothing.
        found[split] = {name: sorted(set(of_class)) for name, of_class in classes.items()}
    return found


def by_last_part(names: list[str]) -> dict[str, str]:
    """Each name by itself, and by its last part where that is no other's."""
    last: dict[str, list[str]] = defaultdict(list)
    for name in names:
        last[name.rpartition("/")[2]].append(name)
    return {part: same[0] for part, same in last.items() if len(same) == 1} | {name: name for name in names}
