"""Saved states: the last ones, to go on from, and the best on validation, to test."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from metarun.core import PyTree, State

for _noisy in ("absl", "orbax"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


class Checkpoints:
    """Two series under `directory`: `last` (states, with a little host-side JSON) and `best` (parameters)."""

    def __init__(self, directory: Path) -> None:
        def series(name: str, keep: int) -> ocp.CheckpointManager:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
            return ocp.CheckpointManager((directory / name).absolute(), options=options)

        self.last, self.best = series("last", 2), series("best", 2)

    def save(self, state: State, host: dict[str, Any]) -> None:
        """Saves what it takes to go on; returns once the state is copied off the device, and writes behind."""
        self.best.wait_until_finished()  # what `host` says of the best must be on disk before it
        copy = dict(host)  # written behind, while the caller goes on changing its own
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(copy))
        self.last.save(int(state.step), args=args, force=True)

    def save_best(self, step: int, params: PyTree) -> None:
        """Keeps `params` as the best so far."""
        if step in self.best.all_steps():
            self.best.delete(step)
        item = {"step": np.array(step, np.int32), "params": params}  # orbax saves nothing empty, as params may be
        self.best.save(step, args=ocp.args.StandardSave(item), force=True)

    def is_empty(self) -> bool:
        """Whether nothing was saved to go on from."""
        return self.last.latest_step() is None

    def restore(self, like: State) -> tuple[State, dict[str, Any]] | None:
        """The newest saved state, placed as `like` is, and its JSON; None if nothing was saved."""
        step = self.last.latest_step()
        if step is None:
            return None
        target = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        found = self.last.restore(step, args=ocp.args.Composite(state=target, host=ocp.args.JsonRestore()))
        return found["state"], found["host"]

    def restore_best(self, step: int, like: PyTree) -> PyTree:
        """The parameters that `save_best` kept at `step`, placed as `like` is."""
        self.best.wait_until_finished()
        item = {"step": np.array(0, np.int32), "params": like}
        target = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, item))
        return self.best.restore(step, args=target)["params"]

    def close(self) -> None:
        """Waits until all is on disk."""
        self.last.close()
        self.best.close()


def saved_params(directory: Path) -> PyTree | None:
    """The best parameters (on the host) of the run in `directory`, else its last ones; None if nothing was saved."""
    folder = directory / "checkpoints"
    if not folder.is_dir():
        return None
    last, best = (ocp.CheckpointManager((folder / name).absolute()).latest_step() for name in ("last", "best"))
    if best is not None:
        return on_host(folder / "best" / str(best) / "default")["params"]
    return None if last is None else on_host(folder / "last" / str(last) / "state")["params"]


def on_host(path: Path) -> PyTree:
    """What orbax saved at `path`, as numpy arrays, whatever devices it was saved from."""
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(path.absolute()).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return reader.restore(path.absolute(), restore_args=as_numpy)
