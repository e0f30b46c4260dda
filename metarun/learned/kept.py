"""A learner in a directory of its own, apart from the run: learner.json, params.safetensors, and what it adapted to."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from filelock import FileLock
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as bytes_of

import metarun
from metarun.core import ConfigError, DataError, PyTree
from metarun.files import WRITING, cache_dir, write_atomically
from metarun.learned.learner import Adapted, Learned
from metarun.run import purpose
from metarun.text import first_line, one_line

TOLD, WEIGHTS, SUPPORT = "learner.json", "params.safetensors", "support.npz"
VERSION = 1  # of this form
# Of the run's configuration, all that the learner and tests of it are made from.
SECTIONS = ("learner", "model", "inner", "hardware", "task", "eval")
CONFIG = (*SECTIONS, "train", "data_dir")


def keep(one: Learned | Adapted, directory: str | Path) -> None:
    """Writes it into a directory that is new, and then there when it is whole, or is empty, or holds such a learner.

    Raises ConfigError for a directory of something else, and OSError.
    """
    directory = Path(directory).expanduser()
    if isinstance(one, Adapted) and not isinstance(one.seed, int):
        raise ConfigError("seed", one.seed, "only a learner adapted by an integer seed can be kept")
    labels = labels_as_json(one.classes) if isinstance(one, Adapted) else {}
    learned = one.learned if isinstance(one, Adapted) else one
    if not is_free(directory):
        raise ConfigError("directory", directory, "holds something else; name a new one")
    contents = {WEIGHTS: weights(learned.params)}
    told: dict[str, Any] = {
        "version": VERSION,
        "metarun": metarun.__version__,
        "purpose": purpose.as_json(learned.purpose),
        "used": learned.used,
        "empty": [path for path, leaf in flat(learned.params).items() if leaf is empty_node],
        "config": {name: learned.config[name] for name in CONFIG if name in learned.config},
    }
    if isinstance(one, Adapted):
        file = io.BytesIO()
        np.savez_compressed(file, x=one.support_x, y=one.support_y)
        contents[SUPPORT] = file.getvalue()
        told["adapted"] = {
            **labels,
            "inner_steps": one.inner_steps,
            "seed": one.seed,
        }
    told["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[TOLD] = (json.dumps(told, indent=1) + "\n").encode()
    with WRITING:
        fill(directory, contents)


def labels_as_json(classes: np.ndarray | None) -> dict[str, Any]:
    """The labels, and their dtype: numpy takes whole numbers beyond 64 bits' half for floats. Raises ConfigError."""
    if classes is None:
        return {"classes": None}
    labels = (classes.view(np.int64) if classes.dtype.kind in "mM" else classes).tolist()
    try:
        json.dumps(labels)
    except TypeError:
        allowed = f"labels of type {type(labels[0]).__name__} cannot be kept; adapt to text, numbers or datetime64"
        raise ConfigError("y", one_line(str(labels[0])), allowed) from None
    return {"classes": labels, "dtype": None if classes.dtype.kind == "T" else classes.dtype.str}  # text of any length


def is_free(directory: Path) -> bool:
    """Whether a learner may be kept there: nothing is, or one is, or a part of one, by a process that was killed."""
    if not directory.is_dir():
        return not directory.exists()
    ours = (TOLD, WEIGHTS, SUPPORT)
    return (directory / TOLD).exists() or all(file.name.lstrip(".").startswith(ours) for file in directory.iterdir())


def fill(directory: Path, contents: dict[str, bytes]) -> None:
    """Writes the files: a new directory with all or none of them; one that is there holds the old or the new ones.

    Of its old files there are copies, which count (`content_of`) until learner.json, the last one, is the new one.
    """
    if directory.exists():
        with only_writer_in(directory):
            for name, content in old_contents(directory).items():
                write_atomically(before(directory / name), content)
            for name, content in contents.items():
                write_atomically(directory / name, content)
            for name in (WEIGHTS, SUPPORT):
                before(directory / name).unlink(missing_ok=True)
        return
    place = directory.resolve()
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for name, content in contents.items():
            write_atomically(partial / name, content)
        partial.replace(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def only_writer_in(directory: Path) -> Iterator[None]:
    """Waits for another process of this user that writes a learner there: of two at once the files would be of both.

    The lock is in the cache directory: nothing of it is left beside what was kept. Where none can be, nobody waits.
    """
    lock = FileLock(cache_dir() / "locks" / hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32])
    with suppress(OSError, NotImplementedError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def old_contents(directory: Path) -> dict[str, bytes]:
    """What learner.json there tells of, by its digests; nothing if it is not whole."""
    try:
        told = json.loads((directory / TOLD).read_text())
        return {name: content_of(directory / name, known) for name, known in told["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def before(file: Path) -> Path:
    """Where the content stands that a file had, while another learner is written over it."""
    return file.with_name(f".{file.name}.before")


def content_of(file: Path, sha256: str) -> bytes:
    """A file's content with this digest, before it was half replaced if need be. Raises OSError and ValueError."""
    for place in (file, before(file)):
        content = place.read_bytes() if place == file or place.exists() else b""
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
    raise ValueError(f"{file.name} is not what was written")


def flat(params: PyTree) -> dict[str, Any]:
    """`encoder/conv0/kernel` -> its array, or `empty_node` where there is nothing."""
    return flatten_dict(params, keep_empty_nodes=True, sep="/") if params else {}


def weights(params: PyTree) -> bytes:
    """A safetensors file of all that was learned, a name a leaf: `encoder/conv0/kernel`."""
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in flat(params).items() if leaf is not empty_node}
    return bytes_of(arrays, metadata={"metarun": metarun.__version__})


TYPES = {
    **{"BF16": jnp.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64},
    **{"BOOL": np.bool_, "U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64},
}


def arrays_of(content: bytes) -> dict[str, np.ndarray]:
    """What `weights` wrote. The reader of safetensors itself, for numpy, knows no bfloat16."""
    return {
        name: np.frombuffer(one["data"], TYPES[one["dtype"]]).reshape(one["shape"])
        for name, one in deserialize(content)
    }


def is_kept(directory: Path) -> bool:
    return (directory / TOLD).is_file()


def read(directory: Path) -> Learned | Adapted:
    """What `keep` wrote. Raises DataError if it is damaged, or of a later version."""
    try:
        told = json.loads((directory / TOLD).read_text())
        if told["version"] > VERSION:
            raise DataError(f"{directory} is of metarun {told['metarun']}, this is {metarun.__version__}: upgrade it")
        contents = {name: content_of(directory / name, known) for name, known in told["sha256"].items()}
        leaves = {**arrays_of(contents[WEIGHTS]), **dict.fromkeys(told["empty"], empty_node)}
        params = unflatten_dict(leaves, sep="/")
        if not all(isinstance(told["config"][section], dict) for section in SECTIONS):
            raise TypeError("its configuration is none")
        learned = Learned(told["config"], purpose.of_json(told["purpose"]), params, told["used"])
        if "adapted" not in told:
            return learned
        how = told["adapted"]
        with np.load(io.BytesIO(contents[SUPPORT]), allow_pickle=False) as support:
            x, y = support["x"], support["y"]
        labels = y if how["classes"] is None else np.asarray(how["classes"], how.get("dtype"))[y]
        return learned.adapt(x, labels, inner_steps=how["inner_steps"], seed=how["seed"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, ConfigError) as error:
        raise DataError(f"{directory} holds no whole learner ({first_line(error)}); write it again") from error
