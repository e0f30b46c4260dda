"""MAML with implicit gradients in PyTorch: a loop over tasks, and torch.func.vmap over tasks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rivals.rival import ADAM, Rows
from rivals.torch_conv4 import Weights, forward, gradient, images, labels, leaves, to_torch

from metarun.core import Episode, Key

weights = to_torch
update = ADAM


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key) -> Rows:
    """Each gives (mean query loss at the adapted parameters, implicit meta-gradient)."""
    assert learner.inner_optimizer == "sgd"
    sx, qx = images(episodes.support.x), images(episodes.query.x)
    sy, qy = labels(episodes.support.y[0]), labels(episodes.query.y[0])  # class by class, in every task
    tasks, penalty = len(sx), learner.penalty

    def loss(weights: Weights, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(forward(weights, x), y)

    def step(phi: Weights, theta: Weights, grads: Weights) -> Weights:
        """One step of descent on the support loss and the penalty (equation 3)."""
        return {name: p - learner.inner_lr * (grads[name] + penalty * (p - theta[name])) for name, p in phi.items()}

    def of_a_task(x: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, Weights]:
        phi = weights
        for _ in range(learner.inner_steps):
            at = leaves(phi)
            phi = step(phi, weights, gradient(loss(at, x, sy), at))
        phi = leaves(phi)
        query_loss = loss(phi, q, qy)
        g = gradient(query_loss, phi)
        # The graph of the support gradient serves all of the Hessian's products.
        every = list(phi.values())
        support_grad = torch.autograd.grad(loss(phi, x, sy), every, create_graph=True)

        def hessian_times(v: Weights) -> Weights:
            products = torch.autograd.grad(support_grad, every, list(v.values()), retain_graph=True)
            return dict(zip(v, products, strict=True))

        return query_loss.detach(), conjugate_gradient(hessian_times, g, penalty, learner.cg_steps)

    def loop() -> tuple[torch.Tensor, Weights]:
        losses, grads = zip(*(of_a_task(x, q) for x, q in zip(sx, qx, strict=True)), strict=True)
        mean = {name: torch.stack([each[name] for each in grads]).sum(0) / tasks for name in weights}
        return torch.stack(losses).mean(), mean

    def task(weights: Weights, x: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, Weights]:
        phi = weights
        for _ in range(learner.inner_steps):
            phi = step(phi, weights, torch.func.grad(loss)(phi, x, sy))
        g, query_loss = torch.func.grad_and_value(loss)(phi, q, qy)
        # The Hessian is symmetric: the gradient's derivative in reverse is its product with a vector.
        _, in_reverse = torch.func.vjp(lambda phi: torch.func.grad(loss)(phi, x, sy), phi)
        hessian_times = partial(in_reverse, create_graph=False)
        return query_loss, conjugate_gradient(lambda v: hessian_times(v)[0], g, penalty, learner.cg_steps)

    def with_vmap() -> tuple[torch.Tensor, Weights]:
        losses, grads = torch.func.vmap(task, (None, 0, 0))(weights, sx, qx)
        return losses.mean(), {name: g.mean(0) for name, g in grads.items()}

    return {"PyTorch, loop over tasks": loop, "PyTorch, torch.func.vmap": with_vmap}


def conjugate_gradient(hessian_times: Callable[[Weights], Weights], g: Weights, penalty: float, steps: int) -> Weights:
    """(I + H / penalty)^-1 g after so many steps from zero (equation 7, algorithm 2)."""

    def dot(a: Weights, b: Weights) -> torch.Tensor:
        return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()

    x = {name: torch.zeros_like(value) for name, value in g.items()}
    r = p = g
    rr = dot(r, r)
    for _ in range(steps):
        products = hessian_times(p)
        ap = {name: v + products[name] / penalty for name, v in p.items()}
        alpha = rr / dot(p, ap)
        x = {name: v + alpha * p[name] for name, v in x.items()}
        r = {name: v - alpha * ap[name] for name, v in r.items()}
        before, rr = rr, dot(r, r)
        p = {name: v + rr / before * p[name] for name, v in r.items()}
    return x
