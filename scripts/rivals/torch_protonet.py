"""Prototypical networks in PyTorch: a loop over tasks, and all tasks of a meta-batch in one."""

from typing import Any

import torch
import torch.nn.functional as F
from rivals.rival import ADAM, Rows
from rivals.torch_conv4 import (
    Down,
    Weights,
    features,
    features_of_all,
    gradient,
    images,
    labels,
    leaves,
    to_torch,
    under,
)

from metarun.core import Episode, Key

weights = to_torch
update = ADAM


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key, down: Down = "stride") -> Rows:
    """Each gives (mean query loss, its gradient). Support and query have statistics of their own, as in metarun."""
    assert learner.distance == "euclidean"
    assert not learner.learn_temperature
    sx, qx = images(episodes.support.x), images(episodes.query.x)  # (tasks, n, 1, height, width), class by class
    y = labels(episodes.query.y)  # (tasks, n)
    tasks, ways = len(sx), int(y.max()) + 1
    side_by_side = [x.transpose(0, 1).contiguous() for x in (sx, qx)]  # (n, tasks, 1, height, width)

    def loss(support: torch.Tensor, query: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Features (tasks, n, d) and labels (tasks, n)."""
        centers = support.unflatten(1, (ways, -1)).mean(2)  # (tasks, ways, d)
        squares = query.square().sum(2)[:, :, None] + centers.square().sum(2)[:, None]
        logits = (2 * query @ centers.transpose(1, 2) - squares) / learner.temperature
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    def loop() -> tuple[torch.Tensor, Weights]:
        theta = leaves(weights)
        embedding = under(theta, "embedding/")
        every = [
            loss(features(embedding, s, down=down)[None], features(embedding, q, down=down)[None], own[None])
            for s, q, own in zip(sx, qx, y, strict=True)
        ]
        mean = torch.stack(every).sum() / tasks
        return mean.detach(), gradient(mean, theta)

    def in_one_batch() -> tuple[torch.Tensor, Weights]:
        theta = leaves(weights)
        embedding = under(theta, "embedding/")
        support, query = (features_of_all(embedding, x, down) for x in side_by_side)
        mean = loss(support, query, y)
        return mean.detach(), gradient(mean, theta)

    return {"PyTorch, loop over tasks": loop, "PyTorch, all tasks in one batch": in_one_batch}
