"""Almost no inner loop: only the head adapts. Raghu et al. 2020."""

from dataclasses import dataclass

from metarun import inner
from metarun.core import Array, Batch, CountOrZero, Episode, Key, Metrics, Net, PyTree, Tasks


@dataclass(frozen=True)
class ANIL:
    """Meta-learns features and a head; the inner loop takes gradient steps on the head alone (section 4, equation 1).

    The same as MAML with the body frozen, but the support set passes through the body once, if the head ends the model.
    """

    inner_lr: inner.InnerRate  # alpha, or each step's own, the last one that of all later steps, too
    inner_steps: CountOrZero
    inner_optimizer: inner.InnerOptimizer
    inner_loss: inner.Reduction
    first_order: bool
    through_adapt = True

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return inner.must_have_head(net.init(key, x), "anil")

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        update = inner.optimizer(self.inner_optimizer, self.inner_lr, self.first_order)
        how = self.inner_loss
        return inner.fit_head(net, support, key, how, params, update, self.inner_steps, self.first_order)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
