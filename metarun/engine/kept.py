"""What a learner keeps from one meta-step to the next, which the outer optimizer leaves alone."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from metarun.core import Keeping, Learner, PyTree


def kept_by(learner: Learner) -> tuple[str, ...]:
    """The parts of its parameters that it keeps."""
    return learner.kept if isinstance(learner, Keeping) else ()


def size_of(learner: Learner, params: PyTree) -> int:
    """How many numbers are learned; what is kept beside them is none."""
    kept = kept_by(learner)
    learned = {name: part for name, part in params.items() if name not in kept} if kept else params
    return sum(leaf.size for leaf in jax.tree.leaves(learned))


def beside(learner: Learner, outer: Any) -> Any:
    """The optimizer `outer` for what is learned; what is kept becomes what `meta_grad` tells that it will be."""
    kept = kept_by(learner)
    if not kept:
        return outer

    def parts(params: PyTree) -> dict[str, str]:
        return {name: "kept" if name in kept else "learned" for name in params}

    return optax.partition({"learned": outer, "kept": optax.sgd(1.0)}, parts)


def of_learned(learner: Learner, change: Callable[[PyTree], PyTree], grads: PyTree) -> PyTree:
    """`grads` with `change` made to those of what is learned."""
    kept = {name: grads[name] for name in kept_by(learner)}
    if not kept:
        return change(grads)
    return change({name: part for name, part in grads.items() if name not in kept}) | kept
