"""The machine a run uses: platform, number of devices, tasks at a time, precision."""

import contextlib
import importlib.metadata
import importlib.util
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import jax
import numpy as np
from annotated_types import Gt, Le
from jax.sharding import Mesh

from metarun.core import ConfigError, Count, CountOrZero
from metarun.engine import hosts
from metarun.engine.jax_cache import keep_compiled_programs
from metarun.engine.xla_flags import PATIENT, RIGHT, set_flags

NO_PLUGIN = "jax finds no such device; see metarun's extras cuda12, cuda13, tpu"

# What jax is told to use: beside the devices themselves the host's own, where data are that the devices cannot hold.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}


@dataclass(frozen=True)
class Hardware:
    """Settings that change how fast a run is, and its results up to the order of summation only."""

    platform: Literal["auto", "cpu", "gpu", "tpu"]
    devices: Count | Literal["auto"]
    task_chunk: Count | Literal["auto"]
    precision: Literal["float32", "tf32", "bfloat16"]
    deterministic: bool  # also on a GPU the same numbers in each run, bit for bit
    data: Literal["auto", "device", "host"] = "auto"  # where examples are held; auto: on the host, if there are many
    # Several processes as one run: where process 0 is, how many there are, and which one this is; auto: see hosts.
    coordinator: str | None = None
    processes: Count | Literal["auto"] = "auto"
    process: CountOrZero | Literal["auto"] = "auto"
    join_seconds: Annotated[float, Gt(0), Le(604_800)] = 300.0  # that one waits for the others: a week at most

    def place(self) -> hosts.Place | None:
        """Which process this is of how many; None if it is the only one. Raises ConfigError."""
        if self.coordinator is None:
            return None
        place = hosts.place_of(self.coordinator, self.processes, self.process, self.join_seconds)
        return place if place.processes > 1 else None

    def must_be_alone(self, allowed: str) -> None:
        """Raises ConfigError if several processes are to be one run."""
        if self.coordinator is not None:
            raise ConfigError("hardware.coordinator", self.coordinator, allowed)

    @property
    def dtype(self) -> str | None:
        """What models compute in, where it is not what their parameters are in."""
        return "bfloat16" if self.precision == "bfloat16" else None

    @property
    def matmul_precision(self) -> str:
        """Of matrix products, as jax calls it. Left to itself a GPU multiplies in tf32, and a TPU in bfloat16."""
        return "high" if self.precision == "tf32" else "highest"

    def check(self, meta_batch: int) -> None:
        """Raises ConfigError where tasks cannot be shared out evenly, or a CPU among so many. Touches no device."""
        devices = 1 if self.devices == "auto" else self.devices
        if self.platform == "cpu" or (self.platform == "auto" and not has_accelerator()):
            must_be_at_most(devices, most_of_a_cpu())
        if meta_batch % devices:
            raise ConfigError("hardware.devices", devices, f"must divide train.meta_batch={meta_batch}")
        if self.task_chunk != "auto" and (meta_batch // devices) % self.task_chunk:
            raise ConfigError(
                "hardware.task_chunk",
                self.task_chunk,
                f"must divide the {meta_batch // devices} tasks of a device"
                f" (train.meta_batch={meta_batch} over {devices})",
            )

    def set_up(self, meta_batch: int) -> Mesh:
        """A mesh with one axis, `tasks`, over the devices to use. Call before anything touches a device.

        With `devices: auto` it takes as many as divide the meta-batch. A CPU has one device a core: XLA
        shares small operations among threads badly, and two devices with half of the tasks each beat
        one device with two threads. Of several processes each gives as many, in their order.
        """
        most = most_of_a_cpu()
        prepare({"xla_gpu_deterministic_ops": "true"} if self.deterministic else {})
        if self.platform != "auto":
            jax.config.update("jax_platforms", PLATFORMS[self.platform])
        if self.platform in ("auto", "cpu"):
            wanted = cores() if self.devices == "auto" else self.devices
            # Once a device has been touched (a later job of a sweep) the first job's number holds.
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", wanted)
        jax.config.update("jax_default_matmul_precision", self.matmul_precision)

        try:
            found = jax.local_devices()
        except (RuntimeError, AssertionError) as error:  # jax asserts where a platform's plugin is missing
            raise self.not_usable((str(error).splitlines() or [NO_PLUGIN])[0]) from error
        if self.platform not in ("auto", found[0].platform):  # of several platforms jax passes over what is not there
            raise self.not_usable(NO_PLUGIN)
        if self.devices != "auto" and found[0].platform == "cpu":
            must_be_at_most(self.devices, most)
        if self.devices != "auto" and self.devices > len(found):
            raise ConfigError(
                "hardware.devices", self.devices, f"at most {len(found)}, what {found[0].platform} has here"
            )
        wanted = hosts.agreed(len(found) if self.devices == "auto" else self.devices)
        chunk, processes = 1 if self.task_chunk == "auto" else self.task_chunk, hosts.count()
        if meta_batch % (processes * chunk):
            raise ConfigError(
                "hardware.processes", processes, f"must divide train.meta_batch={meta_batch}, in chunks of {chunk}"
            )
        count = max(n for n in range(1, wanted + 1) if meta_batch % (n * processes * chunk) == 0)
        if count > len(found):
            raise ConfigError("hardware.devices", self.devices, f"{len(found)} are here, and process 0 takes {count}")
        return Mesh(np.array([device for of_one in of_each_process() for device in of_one[:count]]), ("tasks",))

    def not_usable(self, reason: str) -> ConfigError:
        """What a platform that was asked for and is not here raises."""
        return ConfigError("hardware.platform", self.platform, f"not usable here ({reason})")

    def chunk(self, tasks: int, episode_size: int, platform: str) -> int:
        """How many of a device's `tasks` to compute at once: a divisor of `tasks`.

        `auto` takes all of them on an accelerator. On a CPU it takes few, so that activations stay in its
        cache: 4 where an episode has the `episode_size` of Omniglot's 5-way 1-shot, more where it has fewer
        numbers.
        """
        if self.task_chunk != "auto":
            return self.task_chunk
        most = min(tasks, max(4, 32_768 // episode_size)) if platform == "cpu" else tasks
        return max(n for n in range(1, most + 1) if tasks % n == 0)

    def chunk_of_members(self, tasks: int, episode_size: int, platform: str, members: int) -> int:
        """How many of each run's `tasks` a device takes at once that has `members` runs: as many in all as of one."""
        if self.task_chunk != "auto":
            return self.task_chunk
        most = max(4, 32_768 // episode_size) // members if platform == "cpu" else tasks
        return max(n for n in range(1, max(1, min(tasks, most)) + 1) if tasks % n == 0)

    def chunk_of_evaluation(self, tasks: int, episode_size: int, platform: str) -> int:
        """How many of a device's tasks to evaluate at once; in training it has `tasks` of them.

        Nothing is differentiated but in inner steps, so less has to stay in a CPU's cache: 1 or 2 tasks are fastest
        with Conv4 and the tasks of the demo, 4 with Omniglot's 5-way 1-shot, and what is small goes 64 at a time.
        """
        if self.task_chunk != "auto":
            return self.task_chunk
        return min(64, max(1, 32_768 // episode_size)) if platform == "cpu" else max(tasks, 64)


def of_each_process() -> list[list[jax.Device]]:
    """The devices of every process of this run, in its order."""
    every = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return [list(of_one) for _, of_one in itertools.groupby(every, lambda device: device.process_index)]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_accelerator() -> bool:
    """Whether jax may find more than a CPU here: a plugin for it is installed, and JAX_PLATFORMS does not leave it out.

    Plugins are found in the ways that jax documents: the namespace `jax_plugins`, and entry points of that name.
    """
    if jax.config.values["jax_platforms"] == "cpu":  # told at once: to look for entry points takes milliseconds
        return False
    plugins = importlib.util.find_spec("jax_plugins") or importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins or importlib.util.find_spec("libtpu"))


def most_of_a_cpu() -> int:
    """The most devices that a CPU counts as: one a core, or as many as jax was told to make of it."""
    return max(cores(), jax.config.values["jax_num_cpu_devices"])


def must_be_at_most(devices: int, most: int) -> None:
    """Raises ConfigError for more devices than `most_of_a_cpu`."""
    if devices > most:
        raise ConfigError("hardware.devices", devices, f"at most {most} on this CPU, one a core")


def prepare(flags: Mapping[str, str] = MappingProxyType({})) -> None:
    """What a process needs before it touches a device: XLA's flags, these among them, and a place for programs."""
    keep_compiled_programs()
    set_flags({**PATIENT, **RIGHT, **flags})
