"""A CPU's executables on the disk, for the processes that come after: each under all that shapes it.

One is loaded only if it is whole, and this user's own.
"""

import hashlib
import importlib.metadata
import os
import pickle
import platform
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

import metarun
from metarun.files import cache_dir, write_bytes_atomically

MOST_BYTES = 2**30  # of all executables that are kept; what was not used for longest goes first


class Executable(NamedTuple):
    """A program compiled for arguments of certain shapes."""

    call: Any  # jax.stages.Compiled
    temporary_bytes: int | None  # of buffers a device; None where XLA does not tell
    output_bytes: int  # of all that it returns, together


def place(made_from: str, signature: Any) -> Path:
    """The file of an executable, by all that shapes it."""
    return cache_dir() / "executables" / key(made_from, str(signature))[:32]


def key(*parts: str) -> str:
    """A digest of these and of all else that shapes a program here: versions, code, devices and settings."""
    return hashlib.sha256("\n".join([*parts, *surroundings(), *settings()]).encode()).hexdigest()


@cache
def surroundings() -> tuple[str, ...]:
    """The versions, the code, the devices."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "optax", "numpy")]
    sources = hashlib.sha256()
    for path in sorted(Path(metarun.__file__).parent.rglob("*.py")):
        sources.update(path.read_bytes())
    device = jax.devices()[0]
    devices = f"{device.platform} {device.device_kind} {jax.device_count()} {device.client.platform_version}"
    return (*versions, platform.python_version(), sources.hexdigest(), devices, cpu_features())


def settings() -> tuple[str, ...]:
    """jax's and XLA's, but for those that tell where to keep and what to print."""
    values = jax.config.values.items()
    told = [f"{name}={value!r}" for name, value in sorted(values) if not any(w in name for w in ("cache", "log"))]
    return (*told, os.environ.get("XLA_FLAGS", ""))


@cache
def cpu_features() -> str:
    """A short digest of what this machine's processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        features = [platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]


def keep(path: Path, executable: Executable, lapack: bool = False) -> None:
    """Writes an executable, with a digest of it before; what cannot be written, or serialised, is done without."""
    try:
        compiled, *sizes = executable
        placements = jax.tree.leaves(compiled.output_shardings)
        devices = {device.id for placement in placements for device in placement.device_set}
        content = pickle.dumps((*serialize_executable.serialize(compiled), devices, sizes, lapack))

        def write(file: BinaryIO) -> None:
            os.chmod(file.fileno(), 0o600)
            file.write(hashlib.sha256(content).digest() + content)

        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, write)
        used = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in used:
            total += file.stat().st_size
            if total > MOST_BYTES:
                file.unlink(missing_ok=True)
    except Exception:  # jax raises many kinds; the program itself is there
        pass


@cache
def ready_lapack() -> None:
    """Makes jax look up LAPACK's functions, as it does when it lowers one; to call them before ends the process."""
    jax.jit(jnp.linalg.qr).lower(jnp.ones((2, 2)))


def load(path: Path) -> Executable | None:
    """The executable of a file, if it is whole, and written by this user: to load one is to run code."""
    try:
        if hasattr(os, "getuid") and (path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022):
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        serialized, in_tree, out_tree, ids, sizes, lapack = pickle.loads(content[32:])
        if lapack:
            ready_lapack()
        devices = [device for device in jax.devices() if device.id in ids]
        call = serialize_executable.deserialize_and_load(
            serialized, in_tree, out_tree, devices[0].client, execution_devices=devices
        )
        os.utime(path)
        return Executable(call, *sizes)
    except Exception:  # of another version, or not there: compiled anew
        return None
