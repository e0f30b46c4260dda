"""Where jax keeps what it has compiled, for all runs: what cannot be kept there, or read, is compiled again."""

import os
import warnings
from contextlib import suppress
from pathlib import Path

import jax
from filelock import FileLock

from metarun.engine.executables import cpu_features
from metarun.files import cache_dir

MOST_COMPILED_BYTES = 2**31
# As jax names an entry, when it was last used, and the file that it locks while it is at any.
ENTRY, LAST_USED, LOCK = "-cache", "-atime", ".lockfile"


def keep_compiled_programs() -> None:
    """Programs are compiled once for all runs: into the cache directory, unless JAX_COMPILATION_CACHE_DIR is set.

    With a most size jax locks the directory, so that jobs may share it, and takes away what was not used for longest.
    Programs of a CPU are kept apart by its features, which they were compiled for. Of what cannot be written there,
    on a full disk say, or read, jax would warn at each program.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_dir() / "compiled" / cpu_features()
        take_away_torn(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", MOST_COMPILED_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def take_away_torn(folder: Path) -> None:
    """Entries that were cut short, by a full disk or a kill: jax would neither write them anew nor any other beside.

    Of each it writes last when it was used. Where another process is at an entry just now, they stay.
    """
    with suppress(OSError, NotImplementedError):  # none there yet, not ours to write, another has the lock
        names = {file.name: file.stat().st_size for file in os.scandir(folder)}
        entries = [name for name in names if name.endswith(ENTRY)]
        torn = [name for name in entries if not names[name] or name.removesuffix(ENTRY) + LAST_USED not in names]
        if torn:
            with FileLock(folder / LOCK, timeout=0):
                for name in torn:
                    (folder / name).unlink(missing_ok=True)
