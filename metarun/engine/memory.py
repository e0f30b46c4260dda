"""How much memory is free."""

from contextlib import suppress
from pathlib import Path

from jax.sharding import Mesh

GIVEN_UP = ("inactive_file", "active_file", "slab_reclaimable")  # of what a group has: caches, as soon as it wants more


def free_device_bytes(mesh: Mesh) -> int | None:
    """What each of the mesh's devices may hold; a CPU's share the host's memory. None where unknown."""
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    free = free_host_bytes()
    return None if free is None else free // len(mesh.local_devices)


def free_host_bytes() -> int | None:
    """What this process may still take of the machine's memory, or of its control group's; None where unknown."""
    free = []
    with suppress(OSError):
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(meminfo["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):  # no such group, or a limit of "max"
        group = Path("/sys/fs/cgroup")
        most, has = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        of_which = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free.append(min(most, most - has + sum(int(of_which.get(name, 0)) for name in GIVEN_UP)))
    return min(free, default=None)
