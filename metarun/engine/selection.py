"""Which of a meta-step's tasks are trained on: more are drawn than that, and each is scored as the learner is by then.

The mean of the worst share of losses, instead of all of them, is what tail-risk screening trains for (DR-MAML, Wang et
al. 2023), between all tasks and the worst one alone (TR-MAML, Collins et al. 2020). An episode is a function of its
key, so a candidate is no more than its number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarun.core import Array, Collecting, ConfigError, Episode, Key, Learner, Net, PyTree, Tasks
from metarun.engine.source import is_on_host
from metarun.inner import queries
from metarun.models.layers import answering


class Selection(NamedTuple):
    """How a meta-step's tasks are selected."""

    candidates: int  # tasks that are drawn and scored
    hardest_at: int  # the meta-step from which the hardest are taken; easier ones before, the easiest at the first


def score(learner: Learner, net: Net, tasks: Tasks, params: PyTree, episode: Episode, key: Key) -> Array:
    """A candidate's loss on its query set after adaptation (): a forward pass, without the meta-gradient.

    Of what is collected it is minus the return: a policy's loss on its own steps is their mean advantage, which is 0.
    """
    fast = learner.adapt(net, params, episode.support, key)
    with answering():
        asked = queries(learner, net, fast, episode.query, key)
        outputs = learner.predict(net, fast, asked.x)
    loss, metrics = net.loss(outputs, asked.y)
    return -metrics[tasks.metric] if isinstance(tasks, Collecting) else loss


def window(selection: Selection, count: int, step: Array) -> Array:
    """Where, among the candidates from the easiest to the hardest, the `count` of the meta-step after `step` begin: ().

    It moves evenly from 0 to the last place at `hardest_at`.
    """
    last = selection.candidates - count
    moved = jnp.floor(last * (step / max(selection.hardest_at, 1))).astype(jnp.int32)
    return jnp.where(step >= selection.hardest_at, last, moved)


def chosen(selection: Selection, count: int, scores: Array, step: Array) -> Array:
    """scores (candidates,) -> the numbers (count,) of those to train on, in order; what is no number is the hardest."""
    from_the_easiest = jnp.argsort(scores)
    return jnp.sort(jax.lax.dynamic_slice_in_dim(from_the_easiest, window(selection, count, step), count))


def must_be_whole(selection: Selection | None, data: PyTree, where: str) -> None:
    """Raises ConfigError for examples that stay on the host, of which a meta-step's own are sent, where any may be."""
    if selection is not None and is_on_host(data):
        raise ConfigError(
            "hardware.data",
            where,
            "the examples stay on the host, and train.selection scores more tasks than a meta-step is sent: "
            "hardware.data=device places them all, and train.selection=uniform needs no more",
        )
