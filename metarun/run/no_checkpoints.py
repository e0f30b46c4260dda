"""What stands for a run's checkpoints in all processes but the one that keeps them."""

from typing import Any

from metarun.core import PyTree, State


class NoCheckpoints:
    """As `metarun.run.checkpoint.Checkpoints`: nothing is written, and nothing is there."""

    writing: int | None = None
    whole: int | None = None
    unsaved: str | None = None

    def save(self, state: State, host: dict[str, Any]) -> None:
        self.whole = int(state.step)

    def amend(self, host: dict[str, Any]) -> None:
        """There is nothing to say it of."""

    def save_best(self, step: int, params: PyTree) -> str | None:
        return None

    def wait(self) -> None:
        """There is nothing to wait for."""

    def is_empty(self) -> bool:
        return True

    def on_disk(self) -> int | None:
        return self.whole

    def restore(self, like: State) -> tuple[State, dict[str, Any]] | None:
        return None

    def restore_best(self, best: dict[str, Any], like: PyTree) -> PyTree:
        return like  # what process 0 has of it takes its place

    def close(self) -> None:
        """There is nothing to wait for."""
