"""Hydra's state is the process's: in a program that uses Hydra itself, what metarun composes leaves all as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase

# Where a program composes from, its job, and how old its ways are.
OF_A_PROGRAM: tuple[type, ...] = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)


@contextmanager
def hydra_aside() -> Iterator[None]:
    """The program's own Hydra is put aside, as if none had been set up; and back, whatever is composed meanwhile.

    So are the configurations that it has stored: Hydra takes them for schemas of yaml files with the same name.
    """
    instances, stored = Singleton._instances, ConfigStore.instance().repo
    kept = {kind: instances.pop(kind) for kind in OF_A_PROGRAM if kind in instances}
    own = {name: stored.pop(name) for name in list(stored) if not is_hydras(name, stored[name])}
    try:
        yield
    finally:
        for kind in OF_A_PROGRAM:
            instances.pop(kind, None)
        instances.update(kept)
        stored.update(own)


def is_hydras(name: str, node: object) -> bool:
    return name == "hydra" or getattr(node, "provider", None) == "hydra"
