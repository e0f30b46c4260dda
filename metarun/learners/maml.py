"""Model-agnostic meta-learning, second and first order. Finn, Abbeel and Levine 2017."""

from dataclasses import dataclass

from metarun import freezing, inner
from metarun.core import Array, Batch, CountOrZero, Episode, Key, Metrics, Net, PyTree, Tasks


@dataclass(frozen=True)
class MAML:
    """Meta-learns an initialisation theta from which a few gradient steps solve a task.

    The adapted parameters are theta' = theta - alpha grad L_support(theta), repeated `inner_steps` times
    (equation 1); theta follows the gradient of the mean of L_query(theta') over tasks (algorithm 2).
    """

    inner_lr: inner.InnerRate  # alpha, or each step's own, the last one that of all later steps, too
    inner_steps: CountOrZero
    inner_optimizer: inner.InnerOptimizer
    inner_loss: inner.Reduction
    first_order: bool
    freeze: tuple[str, ...]  # meta-learned but not adapted: parameters whose path contains one of these
    through_adapt = True

    def check(self, tasks: Tasks) -> None:
        """Any task: the loss is the tasks' own."""

    def width(self, n_out: int) -> int:
        return n_out

    def init(self, net: Net, key: Key, x: Array) -> PyTree:
        return freezing.must_be_there(net.init(key, x), self.freeze)

    def adapt(self, net: Net, params: PyTree, support: Batch, key: Key) -> PyTree:
        adapted, frozen = freezing.partition(params, self.freeze)
        adapted = inner.fit(
            net,
            support,
            key,
            self.inner_loss,
            adapted,
            inner.optimizer(self.inner_optimizer, self.inner_lr, self.first_order),
            self.inner_steps,
            self.first_order,
            lambda adapted, x: net.apply(freezing.join(adapted, frozen), x),
        )  # eq. 1
        return freezing.join(adapted, frozen)

    def predict(self, net: Net, fast: PyTree, x: Array) -> Array:
        return net.apply(fast, x)

    def meta_grad(self, net: Net, params: PyTree, episodes: Episode, keys: Key, step: Array) -> tuple[PyTree, Metrics]:
        return inner.query_grad(self, net, params, episodes, keys)
