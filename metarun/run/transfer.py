"""Starting from another run's parameters: `train.init_from=RUN`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metarun import engine
from metarun.config.learned import learner_of
from metarun.config.run import Run
from metarun.core import ConfigError, Holding, Learner, PyTree
from metarun.run.restored import saved, stored
from metarun.run.series import newest_in


class Transfer(NamedTuple):
    """New parameters; which of them were taken, and from where (new path -> old path); which were left as they were."""

    params: PyTree
    taken: dict[str, str]
    left: list[str]

    def over(self, params: PyTree) -> PyTree:
        """`params`, of the shapes that these have, with what was taken in its place."""
        return jax.tree.map(lambda new, own: own if isinstance(new, jax.ShapeDtypeStruct) else new, self.params, params)

    @property
    def in_words(self) -> str:
        return f"{by_layer(self.taken)}; as initialised: {by_layer(self.left) or 'nothing'}"


def by_layer(paths: Iterable[str]) -> str:
    """Parameters in words, a layer's together: `conv0 (bias, kernel), head (bias)`."""
    layers: dict[str, list[str]] = {}
    for path in paths:
        layer, _, name = path.rpartition("/")
        layers.setdefault(layer, []).append(name)
    told = ((layer, ", ".join(sorted(names))) for layer, names in sorted(layers.items()))
    return ", ".join(f"{layer} ({names})" if layer else names for layer, names in told)


def must_have_a_source(run: Run) -> None:
    """Raises ConfigError if the run is to begin from another that is not there, before there is anything of it."""
    source = begins_from(run)
    if source is not None and not (source / "checkpoints").is_dir():
        raise ConfigError("train.init_from", source, "holds no run with saved parameters; give a run's directory")


def begins_from(run: Run) -> Path | None:
    """The run whose parameters this one starts from: by the process that hands them out, and with nothing saved."""
    begins = engine.hosts.is_first() and newest_in(Path(run.info.dir) / "checkpoints" / "last") is None
    return Path(run.train.init_from) if run.train.init_from is not None and begins else None


def source_of(run: Run, mesh: Mesh, train: PyTree) -> Transfer | None:
    """What the run takes of another's parameters, if it begins from one. Raises ConfigError and DataError."""
    source = begins_from(run)
    if source is None:
        return None
    return start_from(run.learner, engine.shapes_of_first_state(run.shape, mesh, train, run.numbers).params, source)


def start_from(learner: Learner, params: PyTree, directory: Path) -> Transfer:
    """The learner's `params`, or their shapes, with what the run in `directory` has of them.

    Raises ConfigError where that is nothing, and DataError.
    """
    try:
        config = stored(directory)
        source, _ = saved(config, directory, "best")
    except ConfigError as error:
        raise ConfigError("train.init_from", error.given, error.allowed) from error
    try:
        theirs = learner_of(config)
    except ConfigError as error:
        raise ConfigError("train.init_from", directory, f"its learner cannot be made here: {error}") from error
    found = match(params, source, network_of(learner), network_of(theirs))
    if not found.taken:
        have, had = (", ".join(shapes(tree)) for tree in (params, source))
        raise ConfigError(
            "train.init_from", directory, f"has nothing that agrees in name and shape; needed: {have}; there: {had}"
        )
    return found


def network_of(learner: Learner) -> str:
    """Where the model's parameters are among the learner's: `theta/`; nothing where there are no others."""
    return f"{learner.network}/" if isinstance(learner, Holding) and learner.network else ""


def match(params: PyTree, source: PyTree, ours: str = "", theirs: str = "") -> Transfer:
    """Takes from `source` each leaf whose name and shape agree.

    Learners keep the model's parameters in parts of their own, `ours` and `theirs`: a name is one within these. What
    they have beside the model (step sizes, a memory) agrees only under its full name, as in a run of the same learner.
    """
    new, old = leaves_of(params), leaves_of(source)
    taken: dict[str, str] = {}
    for path, leaf in new.items():
        other = theirs + path.removeprefix(ours) if path.startswith(ours) else path
        is_like_it = path.startswith(ours) or not path.startswith(theirs)
        if is_like_it and other in old and np.shape(old[other]) == leaf.shape:
            taken[path] = other
    values = [jnp.asarray(old[taken[path]], leaf.dtype) if path in taken else leaf for path, leaf in new.items()]
    structure = jax.tree.structure(params)
    return Transfer(jax.tree.unflatten(structure, values), taken, [path for path in new if path not in taken])


def leaves_of(tree: PyTree) -> dict[str, Any]:
    """`{"theta": {"dense0": {"bias": b}}}` -> `{"theta/dense0/bias": b}`"""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes(params: PyTree) -> list[str]:
    return [f"{path} {tuple(np.shape(leaf))}" for path, leaf in leaves_of(params).items()]
