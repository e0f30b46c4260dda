"""Saved states, each with a digest: the last ones, to go on from, and the best on validation, to test."""

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from metarun import engine
from metarun.core import DataError, PyTree, State
from metarun.files import write_atomically
from metarun.run import quiet  # noqa: F401
from metarun.run.series import newest_in
from metarun.text import first_line

log = logging.getLogger("metarun")

KEPT = 2  # of each series


class Checkpoints:
    """Two series under `directory`: `last` (states, with a little host-side JSON) and `best` (parameters).

    Nothing that cannot be written raises: it is told once, and `unsaved` says so until a later save succeeds.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.last, self.best = self.open()
        self.writing: int | None = None  # the step of the save under way
        self.whole: int | None = None  # the newest step that is on disk
        self.unsaved: str | None = None  # why the newest save failed
        self.broken = False  # whether orbax's managers must be made anew, after a failure

    def open(self) -> tuple[ocp.CheckpointManager, ocp.CheckpointManager]:
        def series(name: str, most: int | None) -> ocp.CheckpointManager:
            folder = (self.directory / name).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=most, create=False, cleanup_tmp_directories=True, multiprocessing_options=alone()
            )
            return ocp.CheckpointManager(folder, options=options)

        return series("last", KEPT), series("best", None)

    def save(self, state: State, host: dict[str, Any]) -> None:
        """Saves what it takes to go on; returns once the state is copied off the device, and writes behind."""
        self.wait()  # what `host` says of the best must be on disk before it
        state = jax.device_get(state)
        step = int(state.step)
        signed = sign(host | {"digest": digest(state)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(signed))
        try:
            self.mend()
            self.last.save(step, args=args, force=True)
            self.writing = step
        except Exception as error:  # the disk's errors come from several libraries
            self.lost(step, error)

    def amend(self, host: dict[str, Any]) -> None:
        """Says anew what goes with the newest state on disk, which stays as it is."""
        file = self.directory / "last" / str(self.whole) / "host" / "metadata"
        try:
            signed = sign(host | {"digest": json.loads(file.read_text())["digest"]})
            write_atomically(file, json.dumps(signed))
        except OSError as error:
            self.lost(self.whole, error)

    def save_best(self, step: int, params: PyTree) -> str | None:
        """Keeps `params` as the best so far; returns their digest, or None if they cannot be written."""
        params = jax.device_get(params)
        item = {"step": np.array(step, np.int32), "params": params}  # orbax saves nothing empty, as params may be
        try:
            self.mend()
            if step in self.best.all_steps():
                self.best.delete(step)
            self.best.save(step, args=ocp.args.StandardSave(item), force=True)
            self.best.wait_until_finished()
        except Exception as error:
            self.lost(step, error)
            return None
        return digest(params)

    def mend(self) -> None:
        """After a failure: begins anew with what is on disk. Raises the disk's errors."""
        if self.broken:
            self.last, self.best = self.open()
            self.broken = False

    def wait(self) -> None:
        """Returns once what was begun is on disk, or has failed to get there."""
        if self.broken:
            return
        try:
            self.last.wait_until_finished()
            if self.writing is not None:
                if self.unsaved is not None:
                    log.warning(f"checkpoints can be written again: meta-step {self.writing} is saved")
                self.whole, self.unsaved = self.writing, None
                self.drop_earlier_bests()
        except Exception as error:
            self.lost(self.writing, error)
        self.writing = None

    def drop_earlier_bests(self) -> None:
        """Once a state is saved. As long as none can be, the newest that is saved tells of an earlier best."""
        with suppress(OSError):
            for step in sorted(self.best.all_steps())[:-KEPT]:
                self.best.delete(step)

    def lost(self, step: int | None, error: Exception) -> None:
        """A save has failed: says so if the one before did not."""
        if self.unsaved is None:
            newest = "none is" if self.whole is None else f"the newest is of meta-step {self.whole}"
            log.warning(
                f"{self.directory}: meta-step {step} cannot be saved ({first_line(error)}); training goes on, and each "
                f"later save is tried; {newest} saved there"
            )
        self.unsaved = first_line(error)
        for manager in (self.last, self.best):
            with suppress(Exception):  # it tells of the same failure
                manager.close()
        self.broken, self.writing = True, None

    def is_empty(self) -> bool:
        """Whether nothing was saved to go on from."""
        return self.last.latest_step() is None

    def on_disk(self) -> int | None:
        """The newest meta-step whose save is complete, by what stands in the directory: for any thread to ask."""
        return newest_in(self.directory / "last")

    def restore(self, like: State) -> tuple[State, dict[str, Any]] | None:
        """The newest whole saved state, placed as `like` is, and its JSON; None if nothing was saved.

        A damaged one is named, and set aside once an older one turns out whole. Raises DataError if none does.
        """
        steps = sorted(self.last.all_steps(), reverse=True)
        damaged: list[int] = []
        for step in steps:
            try:
                found = self.read(step, like)
            except Exception as error:  # a damaged file may raise anything
                log.warning(f"{self.directory / 'last' / str(step)} is damaged ({first_line(error)})")
                damaged.append(step)
                continue
            for other in damaged:
                aside = self.directory / f"damaged-{other}"
                log.warning(f"going on from meta-step {step}; the damaged one is now {aside}")
                (self.directory / "last" / str(other)).rename(unused(aside))
            if damaged:
                self.last.reload()
            self.whole = step
            return found
        if steps:
            raise DataError(
                f"{self.directory} holds no whole checkpoint (meta-steps {', '.join(map(str, steps))} are damaged); "
                f"nothing was deleted: restore it from a copy, or begin anew in another run.dir"
            )
        return None

    def read(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        """The state saved at `step` and its JSON. Raises anything if they, or the best they tell of, are not whole."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(blank, like)), host=ocp.args.JsonRestore()
        )
        found = self.last.restore(step, args=args)
        host = found["host"]
        if sign(host) != host or digest(found["state"]) != host["digest"]:
            raise ValueError("its digest is not that of its content")
        if host["best"] is not None:
            self.restore_best(host["best"], like.params)
        state = placed_as(found["state"], like)
        return state, {name: value for name, value in host.items() if name not in ("digest", "signature")}

    def restore_best(self, best: dict[str, Any], like: PyTree) -> PyTree:
        """The parameters that `save_best` kept, placed as `like` is. Raises DataError if they are damaged."""
        item = {"step": np.array(0, np.int32), "params": like}
        target = ocp.args.StandardRestore(jax.tree.map(blank, item))
        folder = self.directory / "best" / str(best["step"])
        try:
            self.mend()
            params = self.best.restore(best["step"], args=target)["params"]
        except Exception as error:
            wrong = f"is damaged ({first_line(error)})" if folder.exists() else "is missing"
            raise DataError(f"{folder} {wrong}") from error
        if digest(params) != best["digest"]:
            raise DataError(f"{folder} is damaged (its digest is not that of its content)")
        return placed_as(params, like)

    def close(self) -> None:
        """Waits until all is on disk."""
        self.wait()
        for manager in (self.last, self.best):
            with suppress(Exception):  # told by wait()
                manager.close()


def blank(leaf: Any) -> np.ndarray:
    """What orbax restores a leaf into: an array on the host."""
    return np.empty(leaf.shape, leaf.dtype)


def placed_as(tree: PyTree, like: PyTree) -> PyTree:
    """A tree on the host, each leaf placed as that of `like` is."""

    def one(leaf: np.ndarray, other: Any) -> Any:
        return engine.put(leaf, other.sharding) if isinstance(other, jax.Array) else leaf

    return jax.tree.map(one, tree, like)


def alone() -> ocp.options.MultiprocessingOptions:
    """Of several processes the first writes, has all that is to be written, and waits for no other."""
    if not engine.hosts.are_several():
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="metarun")


def digest(tree: PyTree) -> str:
    """A digest of every leaf's path, type, shape and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def sign(host: dict[str, Any]) -> dict[str, Any]:
    """`host` with a digest of itself under `signature`."""
    unsigned = {name: value for name, value in host.items() if name != "signature"}
    text = json.dumps(unsigned, sort_keys=True)
    return unsigned | {"signature": hashlib.sha256(text.encode()).hexdigest()}


def unused(path: Path) -> Path:
    """`path`, or it with a number if there is such a thing already."""
    numbered = (path.with_name(f"{path.name}-{i}") for i in range(2, 1000))
    return next(candidate for candidate in (path, *numbered) if not candidate.exists())


def save_tree(path: Path, tree: PyTree) -> None:
    """Saves `tree` at `path`, replacing what is there, and waits until it is on disk."""
    with ocp.StandardCheckpointer(multiprocessing_options=alone()) as writer:
        writer.save(path.absolute(), tree, force=True)


def restore_tree(path: Path, like: PyTree) -> PyTree:
    """What `save_tree` saved at `path`, placed as `like` is."""
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(path.absolute(), jax.tree.map(ocp.utils.to_shape_dtype_struct, like))


def on_host(path: Path) -> PyTree:
    """What orbax saved at `path`, as numpy arrays, whatever devices it was saved from."""
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone())
    known = reader.metadata(path.absolute()).item_metadata
    if known is None:
        raise ValueError("what is saved there cannot be read")
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), known.tree)
    return reader.restore(path.absolute(), restore_args=as_numpy)
