"""Where the programs' data come from: the devices' memory, or the host's disk, a part at a time, ahead of its use.

Of data on the host, the rows that the coming episodes need are told by a small program on the host's own device, from
the keys that the meta-steps themselves fold; they are looked up, and sent to the devices, in a thread, while the
devices are at the part before. A part is some meta-steps long, or some rows of an evaluation, always the same number:
one compilation serves all.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metarun.core import Array, ConfigError, Key, PyTree, Tasks, name_of
from metarun.data import look_up
from metarun.engine import hosts
from metarun.engine.compiled import Program, described
from metarun.engine.gathered import (
    Examples,
    Gathered,
    can_be_gathered,
    examples_of,
    of_an_episode,
    one_of,
    pools,
    rows_of,
    shares,
    with_pool,
    without_examples,
)
from metarun.engine.memory import free_device_bytes
from metarun.engine.send import placed, put, to_be_placed

log = logging.getLogger("metarun")

SHARE = 1 / 4  # of a device's memory: what data may take of it before they stay on the host by themselves
PART_BYTES = 2**24  # of what is sent ahead at a time; of such parts there are two or three in memory
LONGEST_PART = 256  # meta-steps, or rows: each episode's rows have to be told, too
NO_END = 2**31 - 1

Rule = Callable[[Key, Array, Array, int], Key]  # of engine.keys: (seed's key, number, task, tasks) -> its episode's key
Where = Literal["auto", "device", "host"]


class OnHost(NamedTuple):
    """A split's data, of which the examples stay on the host."""

    examples: Examples  # mapped from the disk, where the data come from there
    rest: PyTree  # without them, on every device of the mesh
    beside: PyTree  # the same on the host's own device
    mesh: Mesh

    def of_an_episode(self, tasks: Tasks) -> Examples:
        return of_an_episode(tasks, self.beside, one_of(self.examples))

    def longest_part(self, tasks: Tasks, count: int) -> int:
        """How many meta-steps, or rows, of `count` tasks are sent at a time."""
        size = sum(prod(of.shape) * of.dtype.itemsize for of in jax.tree.leaves(self.of_an_episode(tasks)))
        return max(1, min(LONGEST_PART, PART_BYTES // (count * size)))

    def gathered(
        self, tasks: Tasks, rule: Rule, key: Key, numbers: np.ndarray, wanted: int, count: int, first: int
    ) -> PyTree:
        """The argument `data` of a program for the first `wanted` of these meta-steps, or rows, of `count` tasks each.

        In the program they count from `first`. Where the devices share the tasks, each is sent its own.
        """
        host = next(iter(jax.tree.leaves(self.beside)[0].devices()))
        program = rows_program(tasks, one_of(self.examples), rule, count)  # type: ignore[arg-type]
        rows = np.asarray(program(self.beside, jax.device_put(key, host), numbers.astype(np.int32)))

        def looked_up(x: np.ndarray) -> np.ndarray:
            found = np.zeros((*rows.shape, *x.shape[1:]), x.dtype)  # where it is not filled, it takes no memory
            look_up(x, rows[:wanted], found[:wanted])
            return found

        data = self.around(jax.tree.map(looked_up, self.examples), np.int32(first))
        return put(data, self.placements(data, count))

    def like(self, tasks: Tasks, count: int, length: int) -> PyTree:
        """What stands for what `gathered` gives, where a program is compiled ahead."""
        examples = jax.tree.map(
            lambda of: jax.ShapeDtypeStruct((length, count, *of.shape), of.dtype), self.of_an_episode(tasks)
        )
        data = self.around(examples, jax.ShapeDtypeStruct((), jnp.int32))
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            data,
            self.placements(data, count),
        )

    def around(self, examples: Examples, first: Any) -> PyTree:
        return with_pool(self.rest, x=Gathered(examples, first))

    def placements(self, data: PyTree, count: int) -> PyTree:
        """Each device has its own tasks, or, where they cannot be shared evenly, all."""
        specs = jax.tree.map(lambda _: P(), data) if count % self.mesh.size else shares(data)
        return jax.tree.map(lambda of: NamedSharding(self.mesh, of), specs, is_leaf=lambda part: isinstance(part, P))


@lru_cache(maxsize=64)
def rows_program(tasks: Tasks, one: Examples, rule: Rule, count: int) -> Program:
    """(data without examples, seed's key, numbers) -> the rows (numbers, count, drawn) that their episodes draw."""

    def rows(data: PyTree, key: Key, numbers: Array) -> Array:
        def of_task(number: Array, task: Array) -> Array:
            return rows_of(tasks, data, one, rule(key, number, task, count)).reshape(-1)

        return jax.vmap(lambda number: jax.vmap(lambda task: of_task(number, task))(jnp.arange(count)))(numbers)

    return Program(rows, described("rows", tasks, str(one), rule, count))


class Source(Protocol):
    """What programs are given for their argument `data`."""

    def at(self, number: int) -> tuple[PyTree, int]:
        """From the meta-step after `number` on, or this row; and for how many of them it serves."""
        ...


class Whole:
    """All of the data, which are on the devices."""

    def __init__(self, data: PyTree) -> None:
        self.data = data

    def at(self, number: int) -> tuple[PyTree, int]:
        return self.data, NO_END


class Ahead:
    """Of data on the host a part, and the next one on its way."""

    def __init__(self, tasks: Tasks, data: OnHost, rule: Rule, key: Key, count: int, end: int, longest: int) -> None:
        self.tasks, self.data, self.rule, self.key, self.count, self.end = tasks, data, rule, key, count, end
        self.length = min(longest, data.longest_part(tasks, count))
        self.first: int | None = None  # of the part that is there
        self.part: PyTree = None
        self.next: tuple[int, Future[PyTree]] | None = None
        self.thread = ThreadPoolExecutor(1, "gathering ahead")

    def at(self, number: int) -> tuple[PyTree, int]:
        if self.first is None or not self.first <= number < self.first + self.length:
            coming = self.next if self.next is not None and self.next[0] == number else self.gather(number)
            self.first, self.part = number, coming[1].result()
            after = number + self.length
            self.next = self.gather(after) if after < self.end else None
        return self.part, self.first + self.length - number

    def gather(self, first: int) -> tuple[int, Future[PyTree]]:
        numbers = np.arange(first, first + self.length)
        wanted = max(0, min(self.length, self.end - first))
        given = (self.tasks, self.rule, self.key, numbers, wanted, self.count, first)
        return first, self.thread.submit(self.data.gathered, *given)


def in_parts(
    tasks: Tasks, data: PyTree, rule: Rule, key: Key, count: int, end: int = NO_END, longest: int = NO_END
) -> Source:
    """What programs are given of a split's data, for meta-steps, or rows, of `count` tasks each, up to `end`."""
    return Ahead(tasks, data, rule, key, count, end, longest) if isinstance(data, OnHost) else Whole(data)


def for_episodes(tasks: Tasks, data: PyTree, rule: Rule, key: Key, numbers: np.ndarray) -> PyTree:
    """What a program is given that samples one episode for each of these numbers."""
    if not isinstance(data, OnHost):
        return data
    return data.gathered(tasks, rule, key, numbers, len(numbers), count=1, first=0)


def stand_in(tasks: Tasks, data: PyTree, count: int, longest: int = NO_END) -> PyTree:
    """What stands for the argument `data` of a program that is compiled ahead."""
    if not isinstance(data, OnHost):
        return data
    return data.like(tasks, count, min(longest, data.longest_part(tasks, count)))


def is_on_host(data: PyTree) -> bool:
    """Whether programs are given a part of these data at a time."""
    return isinstance(data, OnHost)


def must_have_examples(where: Where, data: Mapping[str, tuple[Tasks, PyTree]]) -> None:
    """Raises ConfigError for tasks whose examples cannot stay on the host, and are to. Touches no device."""
    if where == "host":
        for tasks, of_split in data.values():
            if not can_be_gathered(tasks, of_split):
                why = "has no pool of examples that each episode draws from once; use auto or device"
                raise ConfigError("hardware.data", "host", f"{name_of(tasks)} {why}")


def held(where: Where, data: Mapping[str, tuple[Tasks, PyTree]], mesh: Mesh, ahead: bool = False) -> dict[str, PyTree]:
    """Each split's data, on every device or `OnHost`: as `where` says, or by their size. Raises ConfigError.

    What is only `ahead` stands for it where programs are compiled: nothing large is placed.
    """
    must_have_examples(where, data)
    size = sum(leaf.nbytes for _, of_split in data.values() for leaf in jax.tree.leaves(of_split))
    free = hosts.agreed(free_device_bytes(mesh)) if where == "auto" else None
    large = stays_on_host(where, size, free)
    on_host = [split for split, of_split in data.items() if large and can_be_gathered(*of_split)]
    if free is not None and on_host and not ahead:
        log.info(
            f"the examples stay on the host: the data take {size / 2**30:.2g} GiB on each device, more than a quarter "
            f"of the {free / 2**30:.2g} there are; hardware.data=device would place them all the same"
        )
    on_devices = to_be_placed if ahead else placed
    return {
        split: kept_on_host(of_split, mesh) if split in on_host else on_devices(of_split, mesh)
        for split, (_, of_split) in data.items()
    }


def stays_on_host(where: Where, size: int, free: int | None) -> bool:
    """Whether data of so many bytes do, where a device has so many `free`; None: nobody knows."""
    return where == "host" or (where == "auto" and free is not None and size > SHARE * free)


def kept_on_host(data: PyTree, mesh: Mesh) -> OnHost:
    (pool,) = pools(data)
    rest = without_examples(data)
    return OnHost(examples_of(pool), placed(rest, mesh), jax.device_put(rest, host_device()), mesh)


def of_classes(data: PyTree, like: PyTree, mesh: Mesh) -> PyTree:
    """`data` as held, of the classes (or groups) of `like`: the same split, loaded for tasks with other shots.

    Other classes may then be too small. The examples stay where they are.
    """
    if len(pools(like)) != 1:
        return data
    rest = without_examples(like)
    if isinstance(data, OnHost):
        return data._replace(rest=placed(rest, data.mesh), beside=jax.device_put(rest, host_device()))
    (pool,) = pools(data)
    return with_pool(placed(rest, mesh), x=pool.x, y=pool.y)


def host_device() -> jax.Device:
    """The host's own, whatever else there is: where jax has been told of none, the first of all."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
