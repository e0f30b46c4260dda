"""A user's own images of one task: a directory a class, or files whose names tell it, or without a class."""

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from metarun.core import ConfigError, DataError
from metarun.data.files import File, content, contents, files_of
from metarun.data.folder import is_image, unreadable, without_wrapper
from metarun.data.images import Decoded, Image, decoded
from metarun.data.own import Labels, Own
from metarun.text import one_line, some

NUMBERED = re.compile(r"(.+?)[\s._-]+\(?\d+\)?")  # cat_1, cat-02, cat (3): of the class cat


def images_of_task(path: str, image: Image, known: Collection[str] | None = None) -> Own:
    """The images of a folder, a zip or a tar, in the shape that `image` brings them to.

    A directory is a class. Images of a support set that all stand in one place are named for theirs: cat_1.png; those
    of queries have none then, as a single file has not. `known` are the classes of the support set, for queries. Files
    that cannot be read are left out, and told of. Raises ConfigError and DataError.
    """
    place = Path(path).expanduser()
    files = [file for file in files_in(place, known is None) if is_image(file.name)]
    if not files:
        raise ConfigError("path", path, "holds no images")
    labels = labels_of(place, [file.name for file in files], known)
    told = []
    if known is None and None in labels:
        loose = [file.name for file, label in zip(files, labels, strict=True) if label is None]
        told = [one_line(f"{path}: {len(loose):,} images are in no class's directory and are left out: {some(loose)}")]
        kept = [i for i, label in enumerate(labels) if label is not None]
        files, labels = [files[i] for i in kept], tuple(labels[i] for i in kept)
    found = dict(decoded(contents(place, files), image))
    good = {i: one for i, one in found.items() if isinstance(one, Decoded)}
    if bad := {files[i].name: str(one) for i, one in sorted(found.items()) if i not in good}:
        told.append(unreadable(place, list(bad), np.array(list(bad.values()))))
        if not good:
            raise DataError(told[-1])
        if lost := {labels[i] for i in found} - {labels[i] for i in good} - {None}:
            raise DataError(one_line(f"{told[-1]}; nothing is left of the class {min(map(str, lost))}"))
    told += converted(path, image, list(good.values()))
    names = tuple(str(place) if place.is_file() and is_image(path) else f"{path}/{files[i].name}" for i in good)
    kept_labels = tuple(labels[i] for i in good)
    x = np.stack([one.pixels for one in good.values()])
    return Own(x, names, kept_labels if any(label is not None for label in kept_labels) else None, None, tuple(told))


def files_in(place: Path, support: bool) -> list[File]:
    """As `files_of`; a single image is one of its own, as a query."""
    if not (place.is_file() and is_image(place.name)):
        return files_of(place)
    if support:
        raise ConfigError("path", place, "is a single image; a folder with a directory a class is wanted")
    return [File(place.name, place.stat().st_size, "", lambda: content(str(place)))]


def labels_of(place: Path, names: list[str], known: Collection[str] | None) -> Labels:
    """The class of each file, None where it has none. Raises ConfigError."""
    if known is None or not set(map(directory, names)) <= {*known, ""}:
        names = without_wrapper(names)
    tops = set(map(directory, names))
    if place.is_file() and len(tops) == 1 and (known is None or not tops <= set(known)):
        names, tops = [name.rpartition("/")[2] for name in names], {""}  # an archive of a folder with all of them in it
    if tops == {""} and known is None:
        return tuple(by_name(place, name) for name in names)
    return tuple(directory(name) or None for name in names)


def directory(name: str) -> str:
    return name.rpartition("/")[0]


def by_name(place: Path, name: str) -> str:
    """`cat_1.png` is of the class cat. Raises ConfigError."""
    if found := NUMBERED.fullmatch(name.rpartition(".")[0]):
        return found[1]
    raise ConfigError(
        "path",
        place,
        one_line(f"no class stands in the name {name}; give a directory a class, or files such as cat_1.png"),
    )


def converted(path: str, image: Image, images: list[Decoded]) -> list[str]:
    """What becomes of images that are not as the model takes them: a line, or none."""
    sizes = [f"{w}x{h}" for w, h in sorted({one.size for one in images})]
    kinds = Counter(one.kind for one in images)
    side, wanted = f"{image.side}x{image.side}", "grey" if image.colour == "grey" else "in colour"
    changes = []
    if sizes != [side]:
        changes.append(f"{' to '.join(dict.fromkeys((sizes[0], sizes[-1])))} becomes {side}")
    if other := {kind: n for kind, n in kinds.items() if kind != wanted}:
        which = ", ".join(kind if n == len(images) else f"{kind} ({n:,})" for kind, n in other.items())
        changes.append(f"{which} becomes {wanted}")
    if image.invert:
        changes.append("dark on white becomes light on black")
    n = f"{len(images):,} image{'s' if len(images) > 1 else ''}"
    return [one_line(f"{path}: {n}, as the run had them: {', '.join(changes)}")] if changes else []
