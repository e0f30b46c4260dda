"""MAML as one would write it in PyTorch, three ways: a loop over tasks, `higher`, and torch.func.vmap over tasks."""

from typing import Any

import higher
import torch
import torch.nn.functional as F
from rivals.rival import Rows
from rivals.torch_conv4 import (
    Norm,
    Weights,
    forward,
    gradient,
    images,
    labels,
    leaves,
    normalised,
    normalised_then_scaled,
    to_torch,
)  # fmt: skip

from metarun.core import Episode, Key

weights = to_torch
update = None  # `higher` has weights of its own


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key) -> Rows:
    """Each gives (mean query loss, meta-gradient)."""
    sx, qx = images(episodes.support.x), images(episodes.query.x)
    sy, qy = labels(episodes.support.y[0]), labels(episodes.query.y[0])  # class by class, in every task
    tasks, steps, second_order = len(sx), learner.inner_steps, not learner.first_order
    step_size = learner.inner_lr * (weights["head/bias"].numel() if learner.inner_loss == "sum_over_shots" else 1)

    def loss(weights: Weights, x: torch.Tensor, y: torch.Tensor, norm: Norm = normalised) -> torch.Tensor:
        return F.cross_entropy(forward(weights, x, norm), y)

    def loop() -> tuple[torch.Tensor, Weights]:
        theta = leaves(weights)
        total, mean = {name: torch.zeros_like(value) for name, value in weights.items()}, torch.zeros(())
        for x, q in zip(sx, qx, strict=True):
            fast = theta
            for _ in range(steps):
                grads = torch.autograd.grad(loss(fast, x, sy), list(fast.values()), create_graph=second_order)
                fast = {name: v - step_size * g for (name, v), g in zip(fast.items(), grads, strict=True)}
            task_loss = loss(fast, q, qy) / tasks
            for name, g in gradient(task_loss, theta).items():
                total[name] += g
            mean = mean + task_loss.detach()
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
                network, descent, copy_initial_weights=False, track_higher_grads=second_order
            ) as (fast, inner_descent):
                for _ in range(steps):
                    inner_descent.step(F.cross_entropy(fast(x), sy))
                task_loss = F.cross_entropy(fast(q), qy) / tasks
                if second_order:
                    task_loss.backward()
                else:  # then higher cuts the graph: the gradient at the adapted point is the meta-gradient
                    grads = torch.autograd.grad(task_loss, list(fast.parameters()))
                    for parameter, g in zip(network.parameters(), grads, strict=True):
                        parameter.grad = g if parameter.grad is None else parameter.grad + g
                mean = mean + task_loss.detach()
        return mean, {name: network.weights[name.replace("/", "_")].grad for name in weights}

    norm = normalised_then_scaled if second_order else normalised

    def task(weights: Weights, x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        fast = weights
        for _ in range(steps):
            grads = torch.func.grad(loss)(fast, x, sy, norm)
            if not second_order:
                grads = {name: g.detach() for name, g in grads.items()}
            fast = {name: v - step_size * grads[name] for name, v in fast.items()}
        return loss(fast, q, qy, norm)

    def mean_loss(weights: Weights) -> torch.Tensor:
        return torch.func.vmap(task, (None, 0, 0))(weights, sx, qx).mean()

    def with_vmap() -> tuple[torch.Tensor, Weights]:
        grads, value = torch.func.grad_and_value(mean_loss)(weights)
        return value, grads

    return {"PyTorch, loop over tasks": loop, "PyTorch, higher": with_higher, "PyTorch, torch.func.vmap": with_vmap}
