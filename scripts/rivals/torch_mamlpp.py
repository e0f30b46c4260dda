"""MAML++ in PyTorch: a loop over tasks, as its authors have it, and torch.func.vmap over tasks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rivals.rival import ADAM, Rows
from rivals.torch_conv4 import Weights, forward, gradient, images, labels, leaves, to_torch, under

from metarun.core import Episode, Key

weights = to_torch
update = ADAM


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key) -> Rows:
    """Each gives (mean query loss after the last inner step, the gradient of the multi-step loss at meta-step 0)."""
    assert learner.learn_inner_lr
    assert learner.multi_step_loss > 1
    assert not learner.first_order_steps
    sx, qx = images(episodes.support.x), images(episodes.query.x)
    sy, qy = labels(episodes.support.y[0]), labels(episodes.query.y[0])  # class by class, in every task
    tasks, steps = len(sx), learner.inner_steps
    ways = weights["theta/head/bias"].numel()
    scale = ways if learner.inner_loss == "sum_over_shots" else 1
    share = 1 / steps  # of each inner step's loss, at the first meta-step

    def task(weights: Weights, x: torch.Tensor, q: torch.Tensor, grad: Callable[..., Weights]) -> Any:
        """The multi-step loss, and the last one; `grad`(loss, theta) differentiates the support loss."""
        theta, alpha, norms = (under(weights, f"{part}/") for part in ("theta", "alpha", "norms"))
        total = torch.zeros((), dtype=x.dtype)
        last = total
        for i in range(steps):
            of_step = {name: value[i] for name, value in norms.items()}

            def support_loss(theta: Weights, of_step: Weights = of_step) -> torch.Tensor:
                return scale * F.cross_entropy(forward(theta | of_step, x), sy)

            grads = grad(support_loss, theta)
            theta = {name: value - alpha[name][i] * grads[name] for name, value in theta.items()}
            last = F.cross_entropy(forward(theta | of_step, q), qy)
            total = total + share * last
        return total, last

    def by_graph(loss: Callable[[Weights], torch.Tensor], theta: Weights) -> Weights:
        grads = torch.autograd.grad(loss(theta), list(theta.values()), create_graph=True)
        return dict(zip(theta, grads, strict=True))

    def loop() -> tuple[torch.Tensor, Weights]:
        at = leaves(weights)
        grads, mean = {name: torch.zeros_like(value) for name, value in weights.items()}, torch.zeros(())
        for x, q in zip(sx, qx, strict=True):
            total, last = task(at, x, q, by_graph)
            for name, g in gradient(total / tasks, at).items():
                grads[name] += g
            mean = mean + last.detach() / tasks
        return mean, grads

    def by_transform(loss: Callable[[Weights], torch.Tensor], theta: Weights) -> Weights:
        return torch.func.grad(loss)(theta)

    def mean_losses(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
        total, last = torch.func.vmap(lambda w, x, q: task(w, x, q, by_transform), (None, 0, 0))(weights, sx, qx)
        return total.mean(), last.mean()

    def with_vmap() -> tuple[torch.Tensor, Weights]:
        grads, (_, last) = torch.func.grad_and_value(mean_losses, has_aux=True)(weights)
        return last, grads

    return {"PyTorch, loop over tasks": loop, "PyTorch, torch.func.vmap": with_vmap}
