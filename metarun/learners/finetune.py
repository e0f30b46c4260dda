"""No meta-learning: train on all training classes at once, then fine-tune on each task."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from metarun import inner, losses
from metarun.core import (
    Array,
    Batch,
    ConfigError,
    CountOrZero,
    Episode,
    Key,
    Metrics,
    Net,
    PyTree,
    Tasks,
    examples,
    memoryless,
    name_of,
)


@dataclass(frozen=True)
class Finetune:
    """Pre-trains a network; each task's gradient steps begin there.

    Classification: one classifier of all the split's training classes, as the baseline of Chen et al. 2019 (section
    3.2); a task gets a new head. Regression: one network for all tasks' data, as the baseline of Finn et al.
    2017 (section 5.1).

    Not as there: pre-training reads episodes, not batches drawn from all classes, so a network that normalises by
    batch statistics has in training those of one episode's few classes, and no running ones at test.
    """

    adapts: Literal["head", "all"]  # what fine-tuning changes
    inner_lr: inner.InnerRate
    inner_steps: CountOrZero
    inner_optimizer: inner.InnerOptimizer
    network = "net"

    def check(self, tasks: Tasks) -> None:
        if tasks.metric == "accuracy" and tasks.n_classes("train") is None:
            allowed = f"trains on all classes, and {name_of(tasks)} has no end; set task.pool=200"
            raise ConfigError("learner", "finetune", allowed)

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        k_net, k_classes = jax.random.split(key)
        params = {"net": net.init(k_net, x)}
        if self.adapts == "head":
            inner.must_have_head(params["net"], "finetune with adapts=head")
        if net.classification:
            assert net.n_classes is not None
            d = net.features(params["net"], x).shape[1]
            kernel = jax.nn.initializers.lecun_normal()(k_classes, (d, net.n_classes))
            params["classes"] = {"kernel": kernel, "bias": jnp.zeros(net.n_classes)}
        return params

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        update = inner.optimizer(self.inner_optimizer, self.inner_lr, first_order=True)
        start = params["net"]
        if self.adapts == "all":
            return inner.fit(net, support, key, "mean", start, update, self.inner_steps, first_order=True)
        return inner.fit_head(net, support, key, "mean", start, update, self.inner_steps, first_order=True)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        def pooled_loss(params: PyTree, episode: Episode, key: Key) -> tuple[Array, Metrics]:
            x, y = net.collect(examples(episode), memoryless(partial(net.apply, params["net"])), key, inner.QUERIES)
            if not net.classification:
                return net.loss(net.apply(params["net"], x), y)
            assert episode.classes is not None
            outputs = inner.linear(params["classes"], net.features(params["net"], x))
            return losses.cross_entropy(outputs, episode.classes[y])

        return inner.mean_grad(pooled_loss, params, episodes, keys)
