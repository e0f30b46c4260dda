"""Starting from another run's parameters: `train.init_from=RUN`."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from metarun.core import ConfigError, PyTree
from metarun.run.checkpoint import saved_params

# What learners keep under the names of a network's parameters, and is none: step sizes, a context's maps, moments.
BESIDE_A_NETWORK = ("alpha/", "maps/", "adam/")


class Transfer(NamedTuple):
    """New parameters; which of them were taken, and from where (new path -> old path); which were left as they were."""

    params: PyTree
    taken: dict[str, str]
    left: list[str]

    @property
    def in_words(self) -> str:
        return f"{by_layer(self.taken)}; as initialised: {by_layer(self.left) or 'nothing'}"


def by_layer(paths: Iterable[str]) -> str:
    """Parameters in words, a layer's together: `conv0 (bias, kernel), head (bias)`."""
    layers: dict[str, list[str]] = {}
    for path in paths:
        layer, _, name = path.rpartition("/")
        layers.setdefault(layer, []).append(name)
    return ", ".join(f"{layer} ({', '.join(sorted(names))})" for layer, names in sorted(layers.items()))


def start_from(params: PyTree, directory: Path) -> Transfer:
    """`params` with what the run in `directory` has of them. Raises ConfigError where that is nothing."""
    source = saved_params(directory)
    if source is None:
        raise no_run(directory)
    found = match(params, source)
    if not found.taken:
        have, had = (", ".join(shapes(tree)) for tree in (params, source))
        raise ConfigError(
            "train.init_from", directory, f"has nothing that agrees in name and shape; needed: {have}; there: {had}"
        )
    return found


def no_run(directory: Path) -> ConfigError:
    return ConfigError("train.init_from", directory, "holds no run with saved parameters; give a run's directory")


def match(params: PyTree, source: PyTree) -> Transfer:
    """Takes from `source` each leaf whose name and shape agree.

    Learners keep a model's parameters under different names (`conv0/kernel`, `encoder/conv0/kernel`), so two paths
    agree if the last two of their parts, layer and name, do; of several, the one that agrees in most parts is taken.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    new = {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
    old = flatten_dict(source, sep="/")
    taken: dict[str, str] = {}
    for path, leaf in new.items():
        candidates = [other for other in old if agree(path, other) and np.shape(old[other]) == leaf.shape]
        if candidates:
            taken[path] = max(candidates, key=lambda other: (other == path, common_end(path, other)))
    values = [jnp.asarray(old[taken[path]], leaf.dtype) if path in taken else leaf for path, leaf in new.items()]
    return Transfer(jax.tree.unflatten(structure, values), taken, [path for path in new if path not in taken])


def agree(one: str, other: str) -> bool:
    """Whether two paths may be the same part. What is not a network's is so only under its full name."""
    if any(path.startswith(BESIDE_A_NETWORK) for path in (one, other)):
        return one == other
    return one == other or common_end(one, other) >= 2


def common_end(one: str, other: str) -> int:
    """How many parts two paths have in common, counted from their ends."""
    count = 0
    for a, b in zip(reversed(one.split("/")), reversed(other.split("/")), strict=False):
        if a != b:
            break
        count += 1
    return count


def shapes(params: PyTree) -> list[str]:
    return [f"{path} {tuple(np.shape(leaf))}" for path, leaf in flatten_dict(params, sep="/").items()]
