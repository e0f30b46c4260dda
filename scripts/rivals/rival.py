"""What a rival is: a module of PyTorch that computes what a learner of metarun's computes, one or several ways."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from metarun.core import Episode, Key, PyTree

Rows = dict[str, Callable[[], tuple[torch.Tensor, dict[str, torch.Tensor]]]]
Optimizer = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

ADAM: Optimizer = partial(torch.optim.Adam, lr=0.001)


class Rival(Protocol):
    """What such a module has. Its numbers are of the precision that the parameters have."""

    update: Optimizer | None  # the outer step; None: the times of its rows leave it out

    def weights(self, params: PyTree) -> dict[str, torch.Tensor]:
        """metarun's parameters as PyTorch's. It is linear, so it also turns a meta-gradient into one."""
        ...

    def rows(self, learner: Any, weights: dict[str, torch.Tensor], episodes: Episode, keys: Key) -> Rows:
        """Name -> a function that gives the loss, a mean over tasks, and the meta-gradient at `weights`.

        It reads the tensors of `weights` each time that it is called: an optimizer may change them in their place.
        """
        ...
