"""MAML as one would write it in PyTorch, three ways: what scripts/bench_torch.py measures metarun against."""

from collections.abc import Callable
from typing import NamedTuple

import higher
import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict

from metarun.core import PyTree

Weights = dict[str, torch.Tensor]


class Setting(NamedTuple):
    name: str
    tasks: int
    inner_steps: int
    second_order: bool


def to_torch(params: PyTree) -> Weights:
    """Conv4's parameters: kernels (height, width, in, out) become (out, in, height, width)."""
    flat = {name: np.array(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    return {
        name: torch.tensor(value.transpose(3, 2, 0, 1).copy() if value.ndim == 4 else value)
        for name, value in flat.items()
    }


def forward(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """metarun's conv4: padding SAME with stride 2, statistics of the batch, ReLU, the mean over positions."""
    for i in range(4):
        side = x.shape[-1]
        pad = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
        x = F.conv2d(x, weights[f"conv{i}/kernel"], weights[f"conv{i}/bias"], stride=2)
        x = F.batch_norm(
            x, None, None, weights[f"norm{i}/scale"], weights[f"norm{i}/bias"], training=True, eps=1e-3
        )  # fmt: skip
        x = F.relu(x)
    return x.mean((2, 3)) @ weights["head/kernel"] + weights["head/bias"]


class Episodes(NamedTuple):
    support_x: torch.Tensor  # (tasks, n, 1, height, width)
    query_x: torch.Tensor
    y: torch.Tensor  # (n,)


Rows = dict[str, Callable[[], tuple[torch.Tensor, Weights]]]


def torch_rows(setting: Setting, weights: Weights, episodes: Episodes, step_size: float) -> Rows:
    """Each row gives (mean query loss, meta-gradient)."""
    sx, qx, y = episodes

    def loss(weights: Weights, x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(forward(weights, x), y)

    def loop() -> tuple[torch.Tensor, Weights]:
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        total, mean = {name: torch.zeros_like(value) for name, value in weights.items()}, torch.zeros(())
        for x, q in zip(sx, qx, strict=True):
            fast = leaves
            for _ in range(setting.inner_steps):
                grads = torch.autograd.grad(loss(fast, x), list(fast.values()), create_graph=setting.second_order)
                fast = {name: v - step_size * g for (name, v), g in zip(fast.items(), grads, strict=True)}
            task_loss = loss(fast, q) / setting.tasks
            for name, g in zip(leaves, torch.autograd.grad(task_loss, list(leaves.values())), strict=True):
                total[name] += g
            mean += task_loss.detach()
        return mean, total

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterDict(
                {name.replace("/", "_"): torch.nn.Parameter(value.clone()) for name, value in weights.items()}
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return forward({name: self.weights[name.replace("/", "_")] for name in weights}, x)

    network = Network()
    descent = torch.optim.SGD(network.parameters(), lr=step_size)

    def with_higher() -> tuple[torch.Tensor, Weights]:
        network.zero_grad()
        mean = torch.zeros(())
        for x, q in zip(sx, qx, strict=True):
            with higher.innerloop_ctx(
                network, descent, copy_initial_weights=False, track_higher_grads=setting.second_order
            ) as (fast, inner_descent):
                for _ in range(setting.inner_steps):
                    inner_descent.step(F.cross_entropy(fast(x), y))
                task_loss = F.cross_entropy(fast(q), y) / setting.tasks
                if setting.second_order:
                    task_loss.backward()
                else:  # then higher cuts the graph: the gradient at the adapted point is the meta-gradient
                    grads = torch.autograd.grad(task_loss, list(fast.parameters()))
                    for parameter, g in zip(network.parameters(), grads, strict=True):
                        parameter.grad = g if parameter.grad is None else parameter.grad + g
                mean += task_loss.detach()
        return mean, {name: network.weights[name.replace("/", "_")].grad for name in weights}

    def task(weights: Weights, x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        fast = weights
        for _ in range(setting.inner_steps):
            grads = torch.func.grad(loss)(fast, x)
            if not setting.second_order:
                grads = {name: g.detach() for name, g in grads.items()}
            fast = {name: v - step_size * grads[name] for name, v in fast.items()}
        return loss(fast, q)

    def mean_loss(weights: Weights) -> torch.Tensor:
        return torch.func.vmap(task, (None, 0, 0))(weights, sx, qx).mean()

    def with_vmap() -> tuple[torch.Tensor, Weights]:
        grads, value = torch.func.grad_and_value(mean_loss)(weights)
        return value, grads

    return {"PyTorch, loop over tasks": loop, "PyTorch, higher": with_higher, "PyTorch, torch.func.vmap": with_vmap}
