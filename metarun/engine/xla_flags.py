"""XLA's own settings, which it reads once from XLA_FLAGS: set what is not set, and only what this jaxlib knows."""

import mmap
import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import jax

# XLA's CPU client ends the process, with a C++ stack, when one device has waited 40 seconds for another. A machine that
# is overloaded, a process that is suspended or in a debugger is slow and no more; what hangs, metarun.run.watch tells.
PATIENT = {
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": "86400",
    "xla_cpu_collective_call_terminate_timeout_seconds": "604800",
}

# Of jax 0.10.2 to 0.11.2 one way to fuse operations has silently wrong numbers on a CPU (tests/engine/test_jax.py).
# pyproject.toml leaves those versions out; where one is installed all the same, it does without that way.
WRONG = ("0.10.2", "0.11.0", "0.11.1", "0.11.2")
RIGHT = {"xla_cpu_experimental_ynn_fusion_type": ""} if jax.__version__ in WRONG else {}


def set_flags(flags: Mapping[str, str]) -> None:
    """Adds these to XLA_FLAGS, but for what stands there already. To be called before anything touches a device."""
    given = os.environ.get("XLA_FLAGS", "").split()
    named = {word.lstrip("-").partition("=")[0] for word in given}
    more = [f"--{name}={value}" for name, value in flags.items() if name not in named and known(name)]
    os.environ["XLA_FLAGS"] = " ".join([*given, *more])


@cache
def known(name: str) -> bool:
    """Whether this jaxlib knows a flag: it ends the process over one that it does not."""
    spec = find_spec("jaxlib")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
    for library in folder.glob("*jax_common*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(f"\0{name}\0".encode()) >= 0:
                return True
    return False
