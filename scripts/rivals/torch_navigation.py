"""MAML with a trust region on navigation as one would write it in PyTorch: the meta-step of Finn et al. 2017, 5.3.

The structure is that of the public implementations: collect with the common policy, adapt it, collect with what each
task has made of it, then conjugate gradients and a line search. So many tasks as `at_once` says go side by side, as a
batch of matrix products: 1 is the usual loop over tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from metarun.core import PyTree

Weights = dict[str, torch.Tensor]  # of one policy for all, or with a leading axis of tasks
LAYERS = ("body/dense0", "body/dense1", "head/mean")


class Steps(NamedTuple):
    """Of so many tasks (tasks, trajectories, horizon, ...)."""

    x: torch.Tensor
    action: torch.Tensor
    mean: torch.Tensor  # of the policy that collected them
    log_std: torch.Tensor
    advantage: torch.Tensor
    valid: torch.Tensor


@dataclass(frozen=True)
class MetaStep:
    """A meta-step's settings: of the task, the learner and the trust region."""

    trajectories: int
    horizon: int
    discount: float
    inner_lr: float
    divergence: float
    iterations: int
    damping: float
    backtracks: int
    shrink: float
    at_once: int

    def __call__(self, weights: Weights, goals: torch.Tensor) -> float:
        """Changes `weights` by a meta-step on these goals (tasks, 2). Returns the adapted policies' mean return."""
        parts = goals.split(self.at_once)
        supports = [collect(self, weights, part)[0] for part in parts]
        queries, returns = [], 0.0
        for part, support in zip(parts, supports, strict=True):
            adapted = {name: v.detach() for name, v in adapt(self, leaves(weights), support).items()}
            steps, total = collect(self, adapted, part)
            queries.append(steps)
            returns += total
        theta = leaves(weights)
        before, grads = self.gradient(theta, supports, queries)
        product = self.curvature(theta, supports, queries)
        direction = conjugate_gradient(product, grads, self.iterations)
        length = (2 * self.divergence / (direction @ product(direction) + 1e-8)).sqrt()
        share = 1.0
        for _ in range(self.backtracks + 1):
            moved = shifted(weights, -share * length * direction)
            after, divergence = self.judge(moved, supports, queries)
            if after < before and divergence <= self.divergence:
                weights.update(moved)
                break
            share *= self.shrink
        return returns / len(goals)

    def gradient(
        self, theta: Weights, supports: list[Steps], queries: list[Steps]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss () and its gradient (parameters,), means over tasks."""
        total = torch.zeros((), dtype=next(iter(theta.values())).dtype)
        grads = torch.zeros_like(flat(list(theta.values())))
        tasks = sum(len(query.x) for query in queries)
        for support, query in zip(supports, queries, strict=True):
            loss = surrogate(adapt(self, theta, support), query).sum() / tasks
            grads += flat(torch.autograd.grad(loss, list(theta.values())))
            total += loss.detach()
        return total, grads

    def curvature(
        self, theta: Weights, supports: list[Steps], queries: list[Steps]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """v -> (H + damping) v, of the mean divergence through the adaptation. Graphs are built once."""
        tasks = sum(len(query.x) for query in queries)
        slopes = []
        for support, query in zip(supports, queries, strict=True):
            mean = divergences(adapt(self, theta, support), query).sum() / tasks
            slopes.append(flat(torch.autograd.grad(mean, list(theta.values()), create_graph=True)))

        def product(v: torch.Tensor) -> torch.Tensor:
            found = self.damping * v
            for slope in slopes:
                found = found + flat(torch.autograd.grad(slope @ v, list(theta.values()), retain_graph=True))
            return found

        return product

    def judge(self, weights: Weights, supports: list[Steps], queries: list[Steps]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss () and the divergence () of a policy, adapted."""
        theta, tasks = leaves(weights), sum(len(query.x) for query in queries)
        loss = divergence = torch.zeros((), dtype=next(iter(theta.values())).dtype)
        for support, query in zip(supports, queries, strict=True):
            adapted = {name: v.detach() for name, v in adapt(self, theta, support, create_graph=False).items()}
            loss = loss + surrogate(adapted, query).sum() / tasks
            divergence = divergence + divergences(adapted, query).sum() / tasks
        return loss, divergence


def weights_of(params: PyTree) -> Weights:
    """metarun's parameters as PyTorch's, in their precision."""
    found = {}
    for layer in LAYERS:
        outer, name = layer.split("/")
        for kind in ("kernel", "bias"):
            found[f"{layer}/{kind}"] = torch.tensor(np.asarray(params[outer][name][kind]))
    return found | {"head/log_std": torch.tensor(np.asarray(params["head"]["log_std"]))}


def leaves(weights: Weights) -> Weights:
    return {name: value.detach().requires_grad_() for name, value in weights.items()}


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def shifted(weights: Weights, by: torch.Tensor) -> Weights:
    parts = by.split([value.numel() for value in weights.values()])
    return {
        name: value.detach() + part.view_as(value) for (name, value), part in zip(weights.items(), parts, strict=True)
    }


def policy(weights: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (tasks, n, 2) -> means and logarithms of deviations."""
    for layer in LAYERS:
        x = x @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"].unsqueeze(-2)
        x = torch.relu(x) if layer != LAYERS[-1] else x
    return x, weights["head/log_std"].unsqueeze(-2).expand_as(x)


def log_probability(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    z = (action - mean) * (-log_std).exp()
    return -(z.square() / 2 + log_std + np.log(2 * np.pi) / 2).sum(-1)


@torch.no_grad()
def collect(own: MetaStep, weights: Weights, goals: torch.Tensor) -> tuple[Steps, float]:
    """Trajectories of each goal (tasks, 2), and the sum over tasks of their mean returns."""
    tasks, n = len(goals), own.trajectories
    state = torch.zeros(tasks, n, 2, dtype=goals.dtype)
    alive = torch.ones(tasks, n, dtype=torch.bool)
    found: list[tuple[torch.Tensor, ...]] = []
    for _ in range(own.horizon):
        mean, log_std = policy(weights, state)
        action = mean + log_std.exp() * torch.randn_like(mean)
        after = state + (0.1 * action).clamp(-0.1, 0.1)
        left = after - goals[:, None]
        reward = torch.where(alive, -left.square().sum(-1).sqrt(), 0.0)
        found.append((state, action, mean, log_std, reward, alive))
        alive = alive & ~(left.abs() < 0.01).all(-1)
        state = after
    x, action, mean, log_std, reward, valid = (torch.stack(leaf, 2) for leaf in zip(*found, strict=True))
    advantage = advantages(own, x, reward, valid)
    return Steps(x, action, mean, log_std, advantage, valid), float(reward.sum() / n)


def advantages(own: MetaStep, x: torch.Tensor, reward: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Discounted returns less a linear baseline that is fitted to them, normalised in each task."""
    returns = torch.zeros_like(reward)
    after = torch.zeros_like(reward[..., 0])
    for t in reversed(range(own.horizon)):
        after = reward[..., t] + own.discount * after
        returns[..., t] = after
    time = (torch.arange(own.horizon, dtype=x.dtype) / 100)[:, None].expand(*x.shape[:-1], 1)
    seen = x.clamp(-10, 10)
    features = torch.cat([seen, seen**2, time, time**2, time**3, torch.ones_like(time)], -1).double()
    rows = torch.where(valid[..., None], features, 0.0).flatten(1, 2)
    targets = torch.where(valid, returns, 0.0).flatten(1, 2)[..., None].double()
    normal = rows.mT @ rows + 1e-5 * torch.eye(rows.shape[-1], dtype=torch.float64)
    values = (features.flatten(1, 2) @ torch.linalg.solve(normal, rows.mT @ targets)).view_as(returns).to(x.dtype)
    advantage = returns - values
    count = valid.sum((1, 2), keepdim=True)
    mean = torch.where(valid, advantage, 0.0).sum((1, 2), keepdim=True) / count
    std = (torch.where(valid, (advantage - mean).square(), 0.0).sum((1, 2), keepdim=True) / count).sqrt()
    return torch.where(valid, (advantage - mean) / (std + 1e-8), 0.0)


def per_task(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(tasks,): means over valid steps."""
    return torch.where(valid, values, 0.0).sum((1, 2)) / valid.sum((1, 2))


def answers(weights: Weights, steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_std = policy(weights, steps.x.flatten(1, 2))
    return mean.view_as(steps.mean), log_std.view_as(steps.mean)


def adapt(own: MetaStep, theta: Weights, support: Steps, create_graph: bool = True) -> Weights:
    """A gradient step of each task on the policy's log-probability times advantage: (tasks, ...) each."""
    tasks = {name: value.expand(len(support.x), *value.shape) for name, value in theta.items()}
    value = -log_probability(*answers(tasks, support), support.action) * support.advantage
    loss = per_task(value, support.valid).sum()
    grads = torch.autograd.grad(loss, list(tasks.values()), create_graph=create_graph)
    return {name: v - own.inner_lr * g for (name, v), g in zip(tasks.items(), grads, strict=True)}


def surrogate(weights: Weights, query: Steps) -> torch.Tensor:
    """(tasks,): minus likelihood ratio times advantage."""
    before = log_probability(query.mean, query.log_std, query.action)
    ratio = (log_probability(*answers(weights, query), query.action) - before).exp()
    return per_task(-ratio * query.advantage, query.valid)


def divergences(weights: Weights, query: Steps) -> torch.Tensor:
    """(tasks,): KL of the policy that collected || this one."""
    mean, log_std = answers(weights, query)
    variance, own_variance = (2 * log_std).exp(), (2 * query.log_std).exp()
    kl = log_std - query.log_std + ((query.mean - mean).square() + own_variance) / (2 * variance) - 0.5
    return per_task(kl.sum(-1), query.valid)


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, iterations: int
) -> torch.Tensor:
    x, r, p, rr = torch.zeros_like(b), b.clone(), b.clone(), b @ b
    for _ in range(iterations):
        if rr < 1e-10:
            break
        z = product(p)
        share = rr / (p @ z)
        x, r = x + share * p, r - share * z
        now = r @ r
        p, rr = r + now / rr * p, now
    return x
