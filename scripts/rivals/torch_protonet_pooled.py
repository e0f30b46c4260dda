"""Prototypical networks in PyTorch on their paper's network, with max-pooling."""

from functools import partial

from rivals import torch_protonet
from rivals.torch_protonet import update as update
from rivals.torch_protonet import weights as weights

rows = partial(torch_protonet.rows, down="max_pool")
