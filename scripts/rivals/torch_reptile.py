"""Reptile in PyTorch: a loop over tasks with torch.optim.Adam, and torch.func.vmap over tasks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from rivals.rival import Rows
from rivals.torch_conv4 import Weights, forward, gradient, images, labels, leaves, to_torch

from metarun.core import Episode, Key
from metarun.learners.reptile import minibatch

BETA, EPSILON = 0.999, 1e-8  # Adam's, as in metarun; its first beta is 0

weights = to_torch
update = partial(torch.optim.SGD, lr=1.0)


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key) -> Rows:
    """Each gives (mean query loss at the adapted parameters, the initialisation minus their mean)."""
    assert learner.inner_optimizer == "adam"
    drawn = jax.vmap(jax.vmap(minibatch, (None, None, 0, None)), (0, 0, None, None))  # in metarun's order
    batches = drawn(episodes.support, keys, jnp.arange(learner.inner_steps), learner.inner_batch)
    sx, sy = images(batches.x), labels(batches.y)  # (tasks, steps, n, 1, height, width), (tasks, steps, n)
    qx, qy = images(episodes.query.x), labels(episodes.query.y)
    tasks = len(sx)

    def loss(weights: Weights, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(forward(weights, x), y)

    def loop() -> tuple[torch.Tensor, Weights]:
        mean = torch.zeros(())
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for own_x, own_y, x, y in zip(sx, sy, qx, qy, strict=True):
            fast = leaves({name: value.clone() for name, value in weights.items()})
            adam = torch.optim.Adam(fast.values(), lr=learner.inner_lr, betas=(0.0, BETA), eps=EPSILON)
            for step_x, step_y in zip(own_x, own_y, strict=True):
                for name, g in gradient(loss(fast, step_x, step_y), fast).items():
                    fast[name].grad = g
                adam.step()
            with torch.no_grad():
                mean = mean + loss(fast, x, y) / tasks
            for name, value in fast.items():
                total[name] += (weights[name] - value.detach()) / tasks
        return mean, total

    grads_of_all, losses_of_all = torch.func.vmap(torch.func.grad(loss)), torch.func.vmap(loss)

    def with_vmap() -> tuple[torch.Tensor, Weights]:
        fast = {name: value.expand(tasks, *value.shape) for name, value in weights.items()}
        squares = {name: torch.zeros_like(value) for name, value in fast.items()}
        for i in range(learner.inner_steps):
            grads = grads_of_all(fast, sx[:, i], sy[:, i])
            squares = {name: BETA * squares[name] + (1 - BETA) * g.square() for name, g in grads.items()}
            unbiased = 1 - BETA ** (i + 1)
            fast = {
                name: value - learner.inner_lr * grads[name] / ((squares[name] / unbiased).sqrt() + EPSILON)
                for name, value in fast.items()
            }
        moved = {name: weights[name] - value.mean(0) for name, value in fast.items()}
        return losses_of_all(fast, qx, qy).mean(), moved

    return {"PyTorch, loop over tasks": loop, "PyTorch, torch.func.vmap": with_vmap}
