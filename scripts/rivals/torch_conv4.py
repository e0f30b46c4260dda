"""metarun's conv4 in PyTorch: what the rivals share."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict

from metarun.core import PyTree

Weights = dict[str, torch.Tensor]
Norm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Down = Literal["stride", "max_pool"]


def to_torch(params: PyTree) -> Weights:
    """Parameters by their paths; kernels (height, width, in, out) become (out, in, height, width)."""
    flat = {name: np.array(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    return {
        name: torch.tensor(value.transpose(3, 2, 0, 1).copy() if value.ndim == 4 else value)
        for name, value in flat.items()
    }


def images(x: Any) -> torch.Tensor:
    """(..., height, width, channels) -> (..., channels, height, width)."""
    return torch.tensor(np.array(x)).movedim(-1, -3).contiguous()


def labels(y: Any) -> torch.Tensor:
    return torch.tensor(np.array(y)).long()


def leaves(weights: Weights) -> Weights:
    """The same numbers in the same memory, to be differentiated by."""
    return {name: value.detach().requires_grad_() for name, value in weights.items()}


def under(weights: Weights, prefix: str) -> Weights:
    """Those whose path begins with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def gradient(loss: torch.Tensor, at: Weights) -> Weights:
    return dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))


def normalised(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Batch normalisation by the statistics of the batch, in one kernel."""
    return F.batch_norm(x, None, None, scale, bias, training=True, eps=1e-3)


def normalised_then_scaled(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same in two. Under torch.func.vmap the second derivative of the one kernel is wrong for each task's own
    scale, as far as that is not 1 (PyTorch 2.13): by 2 % of a meta-gradient."""
    x = F.batch_norm(x, None, None, None, None, training=True, eps=1e-3)
    return x * scale[:, None, None] + bias[:, None, None]


def forward(weights: Weights, x: torch.Tensor, norm: Norm = normalised) -> torch.Tensor:
    """x (n, channels, height, width) of one task -> logits (n, ways)."""
    return features(weights, x, norm) @ weights["head/kernel"] + weights["head/bias"]


def features(weights: Weights, x: torch.Tensor, norm: Norm = normalised, down: Down = "stride") -> torch.Tensor:
    """x (n, channels, height, width) of one task -> (n, d)."""
    for i in range(4):
        x = F.relu(norm(convolved(x, weights, i, down), weights[f"norm{i}/scale"], weights[f"norm{i}/bias"]))
        x = pooled(x, down)
    return of_positions(x, down)


def features_of_all(weights: Weights, x: torch.Tensor, down: Down = "stride") -> torch.Tensor:
    """x (n, tasks, channels, height, width) -> (tasks, n, d): each task's own statistics, one batch for all.

    The tasks of an image stand side by side, so that seen as channels each task has statistics of its own: nothing
    is copied for it.
    """
    n, tasks = x.shape[:2]
    x = x.flatten(0, 1)
    for i in range(4):
        x = convolved(x, weights, i, down)
        scale, bias = (weights[f"norm{i}/{name}"].repeat(tasks) for name in ("scale", "bias"))
        by_task = x.reshape(n, -1, *x.shape[2:])  # (n, tasks * filters, height, width)
        x = pooled(F.relu(normalised(by_task, scale, bias)).reshape(x.shape), down)
    return of_positions(x, down).reshape(n, tasks, -1).transpose(0, 1)


def convolved(x: torch.Tensor, weights: Weights, i: int, down: Down) -> torch.Tensor:
    """The i-th convolution: 3 x 3, padded as metarun pads (SAME)."""
    kernel, bias = weights[f"conv{i}/kernel"], weights[f"conv{i}/bias"]
    if down == "max_pool":
        return F.conv2d(x, kernel, bias, padding=1)
    side = x.shape[-1]
    pad = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
    x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
    return F.conv2d(x, kernel, bias, stride=2)


def pooled(x: torch.Tensor, down: Down) -> torch.Tensor:
    return F.max_pool2d(x, 2) if down == "max_pool" and min(x.shape[2:]) > 1 else x


def of_positions(x: torch.Tensor, down: Down) -> torch.Tensor:
    """(n, filters, height, width) -> the mean over positions; of max-pooling all of them, in metarun's order."""
    return x.movedim(1, -1).flatten(1) if down == "max_pool" else x.mean((2, 3))
