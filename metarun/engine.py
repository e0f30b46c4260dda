"""Many tasks on the hardware at once: chunks of tasks, the mesh of devices, the compiled meta-steps."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.errors import ScopeParamShapeError
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metarun.core import Array, ConfigError, Episode, Key, Learner, Metrics, Net, PyTree, State, Tasks
from metarun.inner import Inner, clipped, differentiated

# Streams of random numbers: every key of a run is folded from (seed, stream, step or task).
INIT, TRAIN, EVAL = range(3)

# The floats of "learner" and "optimizer", and in evaluation "eval_learner", by name.
Numbers = dict[str, dict[str, Any]]
Optimizer = Callable[[dict[str, Any]], optax.GradientTransformation]  # its numbers -> itself


SECONDS_BETWEEN_PAUSES = 0.5


class Guard(NamedTuple):
    """What is done about gradients: bounds for them, and how many that are not finite are put up with."""

    clip_value: float | None  # every number of a meta-gradient is brought between minus this and this
    clip_norm: float | None  # then a longer meta-gradient, all parameters together, is shortened to this
    skip_at_most: int  # so many meta-steps in a row may go without an update


class Report(NamedTuple):
    """What the host is told of a call: small, and still there once the state has gone into the next call."""

    sums: Metrics  # as in State
    summed: Array  # as in State
    stopped: Array  # () bool: the call ended before a meta-step that is not finite; its state is the one before it
    metrics: Metrics  # of the last meta-step that was tried


def make_net(model: Any, tasks: Tasks, width: int | None) -> Net:
    """What a learner sees of a flax model and of its tasks.

    `width` is the outputs the learner wants, None for features: where evaluation has fewer ways than
    training had, the surplus outputs are left out. Whatever the model computes in, float32 (or more) comes out.
    """
    body = model.clone(n_out=None)

    def out(x: Array) -> Array:
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    return Net(
        init=lambda key, x: model.init(key, x).get("params", {}),
        apply=lambda params, x: out(model.apply({"params": params}, x)[:, :width]),
        features=lambda params, x: out(body.apply({"params": params}, x)),
        loss=tasks.loss,
        n_out=tasks.n_out,
        classification=tasks.metric == "accuracy",
        n_classes=tasks.n_classes("train"),
    )


def stream(seed: int, which: int) -> Key:
    return jax.random.fold_in(jax.random.key(seed), which)


def task_key(key: Key, index: Array) -> tuple[Key, Key]:
    """The keys of one task (its episode, its adaptation), from its index in the whole meta-batch.

    They depend on neither chunk nor device, and so neither do the results.
    """
    k_episode, k_adapt = jax.random.split(jax.random.fold_in(key, index))
    return k_episode, k_adapt


def check_shapes(learner: Learner, net: Net, tasks: Tasks, data: PyTree, trained: PyTree = None) -> PyTree:
    """Raises ConfigError if model, learner and tasks do not fit together. Traces only: touches no device.

    Returns the shapes of what is learned. Given those of training's learner as `trained`, it is with them that this
    one, evaluation's, must work.
    """
    k_episode, k_init, k_adapt = jax.eval_shape(lambda: tuple(jax.random.split(jax.random.key(0), 3)))
    episode = jax.eval_shape(tasks.sample, data, k_episode)
    own = jax.eval_shape(lambda key, x: learner.init(net, key, x), k_init, episode.support.x)
    params = own if trained is None else trained

    def predict(params: PyTree, episode: Episode, key: Key) -> Array:
        return learner.predict(net, learner.adapt(net, params, episode.support, key), episode.query.x)

    refused = ConfigError("eval.learner", "(its settings)", "they change what is learned; set them under learner")
    if jax.tree.structure(own) != jax.tree.structure(params):  # type: ignore[operator]
        raise refused
    try:
        outputs = jax.eval_shape(predict, params, episode, k_adapt)
    except (KeyError, TypeError, ValueError, ScopeParamShapeError) as error:
        raise error if trained is None else refused from error
    if outputs.shape[1:] != (tasks.n_out,):
        name = type(learner).__name__
        raise ConfigError("learner", name, f"predicts {outputs.shape[1:]} a query where the task has ({tasks.n_out},)")
    return params


def episode_size(tasks: Tasks, data: PyTree) -> int:
    """How many numbers the inputs of one episode have. Traces only."""
    episode = jax.eval_shape(lambda data: tasks.sample(data, jax.random.key(0)), data)
    return episode.support.x.size + episode.query.x.size


def make_start(learner: Learner, net: Net, tasks: Tasks, optimizer: Optimizer) -> Callable[..., State]:
    """(data, numbers, seed's key) -> the state before the first meta-step."""

    def start(data: PyTree, numbers: Numbers, k_init: Key) -> State:
        own = dataclasses.replace(learner, **numbers["learner"])  # type: ignore[type-var]
        k_init, k_episode = jax.random.split(k_init)
        episode = tasks.sample(data, k_episode)
        params = own.init(net, k_init, episode.support.x)
        episodes, keys = jax.tree.map(lambda leaf: leaf[None], (episode, k_episode))
        step = jnp.zeros((), jnp.int32)
        _, metrics = jax.eval_shape(lambda *args: own.meta_grad(net, *args), params, episodes, keys, step)
        sums = {name: jnp.zeros(metric.shape, metric.dtype) for name, metric in metrics.items()}
        zero = jnp.zeros((), jnp.int32)
        return State(step, params, optimizer(numbers["optimizer"]).init(params), sums, zero, zero, zero)

    return jax.jit(start)


def make_meta_steps(
    learner: Learner,
    net: Net,
    tasks: Tasks,
    optimizer: Optimizer,
    mesh: Mesh,
    meta_batch: int,
    task_chunk: int,
    how: Inner,
    guard: Guard,
) -> Callable[..., tuple[State, Report]]:
    """(state, data, numbers, seed's key, n) -> the state n meta-steps later and its report, compiled once for every n.

    Sampling, adaptation, meta-gradient and update all happen on the devices: each has its share of the
    tasks, takes them in chunks, and agrees with the others on the mean gradient. `numbers` stand in for those of
    learner and optimizer; another value is no other program. A meta-step whose metrics, gradient or new parameters are
    not finite changes nothing: it is passed over, or ends the call, as `guard` says.
    """
    local = meta_batch // mesh.size

    def meta_steps(state: State, data: PyTree, numbers: Numbers, k_train: Key, n: Array) -> tuple[State, Report]:
        own = dataclasses.replace(learner, **numbers["learner"])  # type: ignore[type-var]
        outer = optimizer(numbers["optimizer"])

        def chunk_grad(state: State, indices: Array) -> tuple[PyTree, Metrics]:
            k_episodes, k_adapts = jax.vmap(task_key, (None, 0))(jax.random.fold_in(k_train, state.step), indices)
            episodes = jax.vmap(tasks.sample, (None, 0))(data, k_episodes)
            with differentiated(how):
                return own.meta_grad(net, state.params, episodes, k_adapts, state.step)

        def tried(state: State) -> tuple[State, Metrics, Array]:
            """The state one meta-step later, its metrics, and whether all of it is finite."""
            first = jax.lax.axis_index("tasks") * local
            chunks = (first + jnp.arange(local)).reshape(-1, task_chunk)
            grads, metrics = jax.lax.pmean(mean_over(lambda indices: chunk_grad(state, indices), chunks), "tasks")
            fine = is_finite((grads, metrics))
            updates, opt_state = outer.update(
                clipped(grads, guard.clip_value, guard.clip_norm), state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
            sums = jax.tree.map(jnp.add, state.sums, metrics)
            summed, none = state.summed + 1, jnp.zeros((), jnp.int32)
            after = State(state.step + 1, params, opt_state, sums, summed, state.skipped, none)
            return after, metrics, fine & is_finite(params)

        def meta_step(carry: tuple[Array, State, Array, Metrics]) -> tuple[Array, State, Array, Metrics]:
            i, state, _, _ = carry
            after, metrics, fine = tried(state)
            passed_over = state._replace(step=state.step + 1, skipped=state.skipped + 1, in_a_row=state.in_a_row + 1)
            tolerated = state.in_a_row < guard.skip_at_most
            kept = jax.tree.map(partial(jnp.where, tolerated), passed_over, state)
            state = jax.tree.map(partial(jnp.where, fine), after, kept)
            return i + 1, state, fine | tolerated, metrics

        start = (jnp.zeros((), jnp.int32), state, jnp.array(True), jax.tree.map(jnp.zeros_like, state.sums))
        _, state, going, metrics = jax.lax.while_loop(lambda carry: (carry[0] < n) & carry[2], meta_step, start)
        return state, Report(state.sums, state.summed, ~going, metrics)

    sharded = jax.shard_map(meta_steps, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return jax.jit(sharded, donate_argnums=0)


def is_finite(values: PyTree) -> Array:
    """() bool: whether all of the numbers are; an empty tree is."""
    return jnp.array([True, *(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values))]).all()


def mean_over(f: Callable[[Array], PyTree], chunks: Array) -> PyTree:
    """The mean of f(chunk) over the rows of `chunks`, one row at a time."""
    if len(chunks) == 1:
        return f(chunks[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(f, chunks[0]))

    def add(total: PyTree, chunk: Array) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, f(chunk)), None

    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda leaf: leaf / len(chunks), total)


def make_over_tasks(per_task: Callable[..., PyTree], mesh: Mesh, task_chunk: int, most: int) -> Callable[..., PyTree]:
    """(pause, tasks, k_eval, *arguments) -> per_task(k_episode, k_adapt, *arguments) for so many tasks, on the host.

    Compiled once for any number of tasks up to `most`: the devices take so many chunks as it needs, no more. They are
    asked for about half a second's worth at a time; in between `pause`() is called, and may raise.
    """
    at_once = mesh.size * task_chunk
    rows = -(-most // at_once)  # chunks a device may be asked for

    def shard(first: Array, count: Array, k_eval: Key, arguments: tuple[PyTree, ...]) -> PyTree:
        def one(index: Array) -> PyTree:
            return per_task(*task_key(k_eval, index), *arguments)

        def chunk(row: Array | int) -> PyTree:
            index = row * at_once + jax.lax.axis_index("tasks") * task_chunk
            return jax.vmap(one)(index + jnp.arange(task_chunk))

        def add(i: Array, found: PyTree) -> PyTree:
            return jax.tree.map(lambda every, new: every.at[i].set(new), found, chunk(first + i))

        like = jax.eval_shape(chunk, 0)
        blank = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape), leaf.dtype), like)
        return jax.lax.fori_loop(0, count, add, blank)

    # A row holds a chunk of every device, side by side: flattened, tasks stand in their order.
    sharded = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=P(), out_specs=P(None, "tasks"), check_vma=False))

    def over_tasks(pause: Callable[[], None], tasks: int, k_eval: Key, *arguments: PyTree) -> PyTree:
        parts, first, count, total = [], 0, 1, -(-tasks // at_once)
        while first < total:
            begin = time.perf_counter()
            found = jax.device_get(sharded(jnp.int32(first), jnp.int32(count), k_eval, arguments))
            parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], found))
            first += count
            faster = SECONDS_BETWEEN_PAUSES / (time.perf_counter() - begin)
            count = min(max(1, int(count * faster)), total - first)
            pause()
        every = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:tasks], every)

    return over_tasks
