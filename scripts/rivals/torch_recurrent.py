"""MANN and the LSTM baseline in PyTorch: the sequences of a whole meta-batch as one batch."""

from functools import partial
from typing import Any

import jax
import torch
import torch.nn.functional as F
from rivals.rival import ADAM, Rows
from rivals.torch_conv4 import Weights, features_of_all, gradient, images, labels, leaves, to_torch, under

from metarun import sequence
from metarun.core import Episode, Key, PyTree

update = ADAM


def weights(params: PyTree) -> Weights:
    """The LSTM's kernels and biases of its four gates become one of each, in PyTorch's order and layout."""
    flat = to_torch(params)
    gates = under(flat, "cell/lstm/")
    rest = {name: value for name, value in flat.items() if not name.startswith("cell/lstm/")}
    return rest | {
        "lstm/ih": torch.cat([gates[f"i{gate}/kernel"].T for gate in "ifgo"]).contiguous(),  # (4 * units, d)
        "lstm/hh": torch.cat([gates[f"h{gate}/kernel"].T for gate in "ifgo"]).contiguous(),
        "lstm/bias": torch.cat([gates[f"h{gate}/bias"] for gate in "ifgo"]),
    }


def rows(learner: Any, weights: Weights, episodes: Episode, keys: Key) -> Rows:
    """Each gives (the loss over every step of the sequences, its gradient)."""
    ways = 1 + int(episodes.support.y.max())
    drawn = partial(sequence.drawn, ways=ways) if learner.labels == "iid" else sequence.whole
    whole = jax.vmap(drawn)(episodes, keys)  # the episodes as sequences, in metarun's order
    x = images(whole.x).transpose(0, 1).contiguous()  # (n, tasks, 1, height, width)
    y = labels(whole.y).T  # (n, tasks)
    one_hot = F.one_hot(y, learner.label_width).to(x.dtype)
    late = torch.cat([torch.zeros_like(one_hot[:1]), one_hot[:-1]])  # each step's input has the label before it
    read = memory_augmented if hasattr(learner, "memory") else recurrent

    def in_one_batch() -> tuple[torch.Tensor, Weights]:
        theta = leaves(weights)
        z = features_of_all(under(theta, "encoder/"), x)
        z = standardised(z) if learner.standardise else z
        outputs = read(learner, theta, torch.cat([z.transpose(0, 1), late], dim=2))  # inputs (n, tasks, d)
        loss = F.cross_entropy(outputs[..., :ways].flatten(0, 1), y.flatten())
        return loss.detach(), gradient(loss, theta)

    return {"PyTorch, the meta-batch as one batch": in_one_batch}


def standardised(z: torch.Tensor) -> torch.Tensor:
    """z (..., d) with mean 0 and variance 1 over its last axis."""
    return F.layer_norm(z, z.shape[-1:], eps=1e-3)


def recurrent(learner: Any, weights: Weights, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, tasks, d) -> outputs (n, tasks, label_width), by the LSTM that torch.nn.LSTM calls."""
    blank = inputs.new_zeros(1, inputs.shape[1], learner.units)
    of_the_lstm = [weights["lstm/ih"], weights["lstm/hh"], torch.zeros_like(weights["lstm/bias"]), weights["lstm/bias"]]
    hidden = torch.lstm(inputs, (blank, blank), of_the_lstm, True, 1, 0.0, True, False, False)[0]
    return hidden @ weights["cell/labels/kernel"] + weights["cell/labels/bias"]


def memory_augmented(learner: Any, weights: Weights, inputs: torch.Tensor) -> torch.Tensor:
    """The same of MANN: Santoro et al. 2016, equations 2 to 8."""
    n, tasks, _ = inputs.shape
    slots, width = learner.memory
    heads = learner.heads
    memory, usage = inputs.new_full((tasks, slots, width), learner.memory_start), inputs.new_zeros(tasks, slots)
    read_weights, read = inputs.new_zeros(tasks, heads, slots), inputs.new_zeros(tasks, heads * width)
    if learner.weights_start == "first":
        usage[:, 0] = read_weights[:, :, 0] = 1
    h = c = inputs.new_zeros(tasks, learner.units)
    no_bias = torch.zeros_like(weights["lstm/bias"])

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"cell/{name}/kernel"] + weights[f"cell/{name}/bias"]

    def inverse_norm(v: torch.Tensor) -> torch.Tensor:
        return torch.rsqrt(v.square().sum(-1) + 1e-6)

    outputs = []
    for t in range(n):
        x = torch.cat([inputs[t], read], dim=1)
        h, c = torch.lstm_cell(x, (h, c), weights["lstm/ih"], weights["lstm/hh"], no_bias, weights["lstm/bias"])
        keys = torch.tanh(dense("keys", h)).unflatten(1, (heads, width))
        gate = torch.sigmoid(dense("gate", h))[:, :, None]
        written = torch.tanh(dense("writes", h)).unflatten(1, (heads, width)) if learner.written == "own" else keys
        least = F.one_hot(usage.topk(heads, largest=False).indices, slots).to(x.dtype)  # (tasks, heads, slots), eq. 6
        free = least if learner.free == "each" else least.sum(1, keepdim=True)
        emptied = least.sum(1) if learner.emptied == "all" else least[:, 0]
        write_weights = gate * read_weights + (1 - gate) * free  # eq. 7
        before, memory = memory, memory * (1 - emptied)[:, :, None] + write_weights.transpose(1, 2) @ written  # eq. 8
        at = before if learner.addressed == "before" else memory
        cosine = keys @ at.transpose(1, 2) * inverse_norm(keys)[:, :, None] * inverse_norm(at)[:, None]  # eq. 2
        read_weights = torch.softmax(learner.sharpness * cosine, dim=2)  # eq. 3
        # Nothing is differentiated through the choice of a slot.
        usage = learner.usage_decay * usage + (read_weights.sum(1) + write_weights.sum(1)).detach()  # eq. 5
        read = (read_weights @ memory).flatten(1)  # eq. 4
        outputs.append(dense("labels", torch.cat([h, read], dim=1)))
    return torch.stack(outputs)
