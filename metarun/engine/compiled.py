"""Programs that are compiled once: ahead of their first call if there is time, and for the processes that come after.

jax keeps what XLA has compiled, but traces and lowers a program again to find it: most of a warm start. Here an
executable is kept under all that shapes it, so that one that is found is neither traced nor lowered. What cannot be
told from another by its description (a user's own learner, whose code may change) is compiled anew each time.
"""

import dataclasses
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jax

from metarun.engine import hosts
from metarun.engine.executables import Executable, keep, key, load, place
from metarun.engine.xla_flags import known

OURS = ("metarun.", "optax.", "flax.", "jax.")  # whose code the versions and the digest of metarun's sources tell


class Program:
    """A jitted function whose executables are kept; called like it."""

    def __init__(
        self, function: Callable[..., Any], made_from: str | None, donate: tuple[int, ...] = (), often: bool = False
    ) -> None:
        """`made_from` describes all but the arguments that shapes the program; None: it is not kept on the disk.

        `often`: it is at work for so long that a better one is worth the time that it takes to compile.
        """
        if made_from is not None:  # a name of its own, by which jax's cache knows it: see `_load_or_compile`
            function.__name__ += f"_{key(made_from)[:12]}"
        self.jitted: Any = jax.jit(function, donate_argnums=donate)
        self.made_from = made_from
        self.often = often
        self._executables: dict[Any, Future[Executable]] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        return self.executable(*arguments).call(*arguments)

    def executable(self, *arguments: Any) -> Executable:
        """For arguments like these, or shapes that stand for them. Waits for a thread that is at it already."""
        signature = signature_of(arguments)
        with self._lock:
            future = self._executables.get(signature)
            first = future is None
            if future is None:
                future = self._executables[signature] = Future()
        if first:
            try:
                future.set_result(self._load_or_compile(signature, arguments))
            except BaseException as error:
                with self._lock:
                    del self._executables[signature]  # whoever calls next meets the error itself
                future.set_exception(error)
        return future.result()

    def output_bytes(self, *arguments: Any) -> int:
        """Of all that it would return for arguments like these; nothing is compiled to tell."""
        path = self._place(signature_of(arguments))
        if path is not None and path.exists():
            return self.executable(*arguments).output_bytes
        return bytes_of(jax.eval_shape(self.jitted, *arguments))

    def _place(self, signature: Any) -> Path | None:
        """Where its executable is kept: on a CPU. Accelerators have jax's own cache, until this is tried on them."""
        alone = not hosts.are_several()  # an executable of several processes is of no other run's
        kept = alone and self.made_from is not None and jax.devices()[0].platform == "cpu"
        return place(self.made_from or "", signature) if kept else None

    def _load_or_compile(self, signature: Any, arguments: tuple[Any, ...]) -> Executable:
        path = self._place(signature)
        if path is not None and (found := load(path)) is not None:
            return found
        lowered = self.jitted.lower(*arguments)
        calls = set() if path is None else library_calls(lowered.as_text())
        _from_jax.cache = False
        compiled = lowered.compile(compiler_options={} if self.often else quickly())
        memory = compiled.memory_analysis()
        made = Executable(compiled, memory.temp_size_in_bytes if memory else None, bytes_of(lowered.out_info))
        # What was read from one file cannot be put into another, on a CPU.
        if path is not None and not _from_jax.cache and all(call.startswith(LAPACK) for call in calls):
            keep(path, made, lapack=bool(calls))
        return made


def quickly() -> dict[str, int | bool]:
    """What XLA is told about a program that is not run often: a CPU's takes a third to two thirds as long to compile.

    It is as fast; meta-steps of second order would not be (docs/speed.md). Nothing that XLA_FLAGS tells already.
    """
    if jax.devices()[0].platform != "cpu":
        return {}
    given = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in QUICK.items() if name not in given and known(name)}


QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
LAPACK = "lapack_"


def library_calls(text: str) -> set[str]:
    """The functions outside XLA that a lowered program calls. They have to be ready before it is loaded."""
    return set(re.findall(r"custom_call @(\w+)", text)) - {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


_from_jax = threading.local()  # .cache: whether the executable that this thread has just made is of jax's own cache


def _listen(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _from_jax.cache = True


jax.monitoring.register_event_listener(_listen)


_ahead: set[threading.Thread] = set()


def ahead(*calls: tuple[Program, tuple[Any, ...]]) -> None:
    """Compiles programs, one after another, in a thread of their own: for arguments, or shapes that stand for them.

    They multiply as precisely as jax does by now, whatever is set meanwhile.
    """
    precision = jax.config.values["jax_default_matmul_precision"]

    def compile_all() -> None:
        # Whoever calls the program meets the error itself.
        with suppress(Exception), jax.default_matmul_precision(precision):
            for program, arguments in calls:
                program.executable(*arguments)
        _ahead.discard(threading.current_thread())

    thread = threading.Thread(target=compile_all, name="compiling ahead", daemon=True)
    _ahead.add(thread)
    thread.start()


def compiling_ahead() -> bool:
    """Whether a thread is at it: an interpreter that ends meanwhile ends badly."""
    return any(thread.is_alive() for thread in _ahead)


def signature_of(arguments: tuple[Any, ...]) -> Any:
    """The structure of the arguments, and the shape and type of each leaf."""
    leaves, structure = jax.tree.flatten(arguments)

    def shape(leaf: Any) -> tuple[Any, ...]:
        aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else getattr(leaf, "aval", None) or jax.typeof(leaf)
        return aval.shape, name_of(aval.dtype), aval.weak_type

    return structure, tuple(shape(leaf) for leaf in leaves)


@cache
def name_of(dtype: Any) -> str:
    """`float32`: numpy takes longer to spell it than all else about an array."""
    return str(dtype)


def shape_of(array: jax.Array) -> jax.ShapeDtypeStruct:
    """What stands for an array where a program is compiled ahead: its memory may be another's by then."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding, weak_type=array.weak_type)


class Indescribable(Exception):
    """A value whose description would not tell it from all others."""


def description(value: Any) -> str:
    """In words, the same in every process; two values of the same description make the same program.

    Raises Indescribable for what is not metarun's, or optax's: its code may change and keep its name.
    """
    if isinstance(value, str | int | float | bool | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(description, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {description(value[name])}' for name in sorted(value))}}}"
    kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not name.startswith(OURS) or "<" in name:
        raise Indescribable(name)
    if kind is value:
        return name
    if not dataclasses.is_dataclass(value) or getattr(value, "described_elsewhere", False):
        raise Indescribable(name)
    fields = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]  # flax's own
    return f"{name}({', '.join(f'{field}={description(getattr(value, field))}' for field in fields)})"


def described(*parts: Any) -> str | None:
    """What a program is made from; None if some of it cannot be told from another by its description."""
    try:
        return description(parts)
    except Indescribable:
        return None


def bytes_of(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
