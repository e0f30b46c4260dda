"""The transformer over episodes in PyTorch: the episodes of a whole meta-batch as one batch."""

from typing import Any

import jax
import torch
import torch.nn.functional as F
from rivals.rival import ADAM, Rows
from rivals.torch_conv4 import Weights, features_of_all, gradient, images, labels, leaves, to_torch, under
from rivals.torch_recurrent import standardised

from metarun import sequence
from metarun.core import Episode, Key

weights = to_torch
update = ADAM


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key) -> Rows:
    """Each gives (mean query loss, its gradient)."""
    support = jax.vmap(sequence.shuffled)(episodes.support, keys)  # in metarun's order
    sx, qx = (images(x).transpose(0, 1).contiguous() for x in (support.x, episodes.query.x))  # (n, tasks, ...)
    y = labels(episodes.query.y)  # (tasks, n)
    ways, n_support, n_query = int(y.max()) + 1, len(sx), len(qx)
    known = F.one_hot(labels(support.y), learner.label_width).to(sx.dtype)
    given = torch.cat([known, known.new_zeros(len(known), n_query, learner.label_width)], dim=1)  # (tasks, n, labels)
    # A support example sees those before it and itself, a query the support set and itself.
    n = n_support + n_query
    seen = torch.eye(n, dtype=torch.bool) | (
        torch.tril(torch.ones(n, n, dtype=torch.bool)) & (torch.arange(n) < n_support)
    )

    def in_one_batch() -> tuple[torch.Tensor, Weights]:
        theta = leaves(weights)
        encoder = under(theta, "encoder/")
        z = torch.cat([standardised(features_of_all(encoder, x)) for x in (sx, qx)], dim=1)  # (tasks, n, d)
        outputs = transformer(learner, under(theta, "transformer/"), torch.cat([z, given], dim=2), seen)
        loss = F.cross_entropy(outputs[:, n_support:, :ways].flatten(0, 1), y.flatten())
        return loss.detach(), gradient(loss, theta)

    return {"PyTorch, the meta-batch as one batch": in_one_batch}


def transformer(learner: Any, weights: Weights, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """x (tasks, n, d), which of the n sees which (n, n) -> outputs (tasks, n, label_width)."""

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}/scale"], weights[f"{name}/bias"], eps=1e-6)

    tokens = dense("embed", x)
    for b in range(learner.blocks):
        block = f"block{b}"
        qkv = dense(f"{block}/qkv", norm(f"{block}/norm_attention", tokens)).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (learner.heads, -1)).transpose(1, 2) for part in qkv)  # (tasks, heads, n, d)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        tokens = tokens + dense(f"{block}/out", read)
        hidden = F.gelu(dense(f"{block}/up", norm(f"{block}/norm_mlp", tokens)), approximate="tanh")
        tokens = tokens + dense(f"{block}/down", hidden)
    return dense("outputs", norm("norm", tokens))
