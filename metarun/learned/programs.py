"""The programs of a learner in use: to adapt to a support set, and to answer. Kept for other processes, as a run's."""

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarun import engine
from metarun.config.learned import Parts
from metarun.core import Array, Batch, ConfigError, Key, Learner, Net, PyTree, Uncertain
from metarun.gradients import Inner, differentiated
from metarun.losses import Loss
from metarun.models.layers import answering

ALWAYS_FREE = 2**26  # bytes that are there wherever jax is: to ask how many are takes as long as a small program
SIZES = (64, 16, 4, 1)  # queries of a program's call; what is left over is filled up to one of these


class Programs(NamedTuple):
    """What predicts tells (n, n_out) and, where the learner is uncertain, after these as many standard deviations."""

    adapt: engine.Program  # (params, support, key, numbers) -> what the learner knows after it
    predict: engine.Program  # (fast, x (n, ...), numbers) -> outputs (n, n_out), of all x together
    # (fast, support x, x (n, ...), numbers) -> outputs (n, n_out), of each with the support alone
    alone: engine.Program


@dataclasses.dataclass(frozen=True)
class Made:
    """What of a learner and its tasks the programs are made from."""

    learner: Any  # without its floats
    model: Any
    inner: Inner
    loss: Loss
    n_out: int
    classification: bool
    precision: str  # of matrix products: a process that loads a learner has whatever its user has set


def made(parts: Parts, n_out: int, classification: bool) -> Made:
    learner, precision = engine.without_numbers(parts.learner), parts.hardware.matmul_precision
    return Made(learner, parts.model, parts.inner, parts.loss, n_out, classification, precision)


def numbers(learner: Any, inner_steps: int | None) -> dict[str, Any]:
    """What of a learner is an argument: its floats, and its number of inner steps, if it takes any."""
    given: dict[str, Any] = dict(engine.numbers_of(learner))
    if hasattr(learner, "inner_steps"):
        given["inner_steps"] = np.int32(learner.inner_steps if inner_steps is None else inner_steps)
    return given


def net_of(made: Made) -> Net:
    """What the learner sees: of tasks with these outputs, whatever it was trained on."""
    return engine.net_for(made.model, made.learner.width(made.n_out), made.loss, made.n_out, made.classification)


def predicted(learner: Learner, net: Net, fast: PyTree, x: Array) -> Array:
    """Outputs (n, n_out) and, of a regression and a learner that is uncertain, after these the standard deviations."""
    outputs = learner.predict(net, fast, x)
    if net.classification or not isinstance(learner, Uncertain):
        return outputs
    return jnp.concatenate([outputs, learner.deviations(net, fast, x)], axis=1)


@lru_cache(maxsize=32)
def programs(made: Made) -> Programs:
    net = net_of(made)

    def with_numbers(numbers: dict[str, Any]) -> Any:
        return dataclasses.replace(made.learner, **numbers)

    def adapt(params: PyTree, support: Batch, key: Key, numbers: dict[str, Any]) -> PyTree:
        with differentiated(made.inner), jax.default_matmul_precision(made.precision):
            return with_numbers(numbers).adapt(net, params, support, key)

    def predict(fast: PyTree, x: Array, numbers: dict[str, Any]) -> Array:
        with answering(), jax.default_matmul_precision(made.precision):
            return predicted(with_numbers(numbers), net, fast, x)

    def alone(fast: PyTree, support_x: Array, x: Array, numbers: dict[str, Any]) -> Array:
        def one(x: Array) -> Array:
            return predicted(with_numbers(numbers), net, fast, jnp.concatenate([support_x, x[None]]))[-1]

        with answering(), jax.default_matmul_precision(made.precision):
            return jax.lax.map(one, x, batch_size=min(8, len(x)))

    of = (made.learner, made.model, made.inner, made.loss, made.n_out, made.classification, made.precision)
    return Programs(
        engine.Program(adapt, engine.described("adapt", *of)),
        engine.Program(predict, engine.described("predict", *of)),
        engine.Program(alone, engine.described("alone", *of)),
    )


def called(program: engine.Program, arguments: tuple[Any, ...], examples: int) -> Any:
    """What a program returns. Raises ConfigError if so many examples take more memory than a CPU has free.

    A GPU says so itself. A CPU does not: it takes until the machine swaps or the program is killed.
    """
    executable = program.executable(*arguments)  # looked up once: that takes as long as a small program
    needed = executable.temporary_bytes or 0
    if needed > ALWAYS_FREE and jax.devices()[0].platform == "cpu":
        free = engine.free_host_bytes()
        if free is not None and needed > free:
            sizes = f"{needed / 2**30:.1f} GiB at once where {free / 2**30:.1f} are free"
            raise ConfigError("x", f"{examples:,} examples", f"they take {sizes}; give fewer")
    return executable.call(*arguments)


def filled(x: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """x (n, ...) in parts of one of the SIZES, each with how many of it are x's own: a new n compiles nothing new."""
    parts = []
    first = 0
    while first < len(x):
        left = len(x) - first
        fitting = next((size for size in SIZES if size <= left), 1)
        larger = min((size for size in SIZES if size >= left), default=fitting)
        size = larger if left >= 0.5 * larger else fitting
        part = x[first : first + size]
        parts.append((np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]), len(part)))
        first += size
    return parts
