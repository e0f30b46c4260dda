"""Many tasks on the hardware at once: chunks of tasks, the mesh of devices, the compiled meta-steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.errors import ScopeParamShapeError
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metarun.core import Array, ConfigError, Episode, Key, Learner, Metrics, Net, PyTree, State, Tasks

# Streams of random numbers: every key of a run is folded from (seed, stream, step or task).
INIT, TRAIN, EVAL = range(3)


def make_net(model: Any, tasks: Tasks, width: int | None) -> Net:
    """What a learner sees of a flax model and of its tasks.

    `width` is the outputs the learner wants, None for features: where evaluation has fewer ways than
    training had, the surplus outputs are left out.
    """
    body = model.clone(n_out=None)
    return Net(
        init=lambda key, x: model.init(key, x).get("params", {}),
        apply=lambda params, x: model.apply({"params": params}, x)[:, :width],
        features=lambda params, x: body.apply({"params": params}, x),
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


def initial_state(
    learner: Learner, net: Net, tasks: Tasks, optimizer: optax.GradientTransformation, data: PyTree, seed: int
) -> State:
    """The state before the first meta-step."""
    k_init, k_episode = jax.random.split(stream(seed, INIT))
    episode = tasks.sample(data, k_episode)
    params = learner.init(net, k_init, episode.support.x)
    episodes, keys = jax.tree.map(lambda leaf: leaf[None], (episode, k_episode))
    step = jnp.zeros((), jnp.int32)
    _, metrics = jax.eval_shape(lambda *args: learner.meta_grad(net, *args), params, episodes, keys, step)
    sums = {name: jnp.zeros(metric.shape, metric.dtype) for name, metric in metrics.items()}
    return State(step, params, optimizer.init(params), sums)


def make_meta_steps(
    learner: Learner,
    net: Net,
    tasks: Tasks,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    meta_batch: int,
    task_chunk: int,
    seed: int,
) -> Callable[[State, PyTree, Array], State]:
    """(state, data, n) -> the state n meta-steps later, compiled once for every n.

    Sampling, adaptation, meta-gradient and update all happen on the devices: each has its share of the
    tasks, takes them in chunks, and agrees with the others on the mean gradient.
    """
    local = meta_batch // mesh.size
    k_train = stream(seed, TRAIN)

    def chunk_grad(params: PyTree, data: PyTree, step: Array, indices: Array) -> tuple[PyTree, Metrics]:
        k_episodes, k_adapts = jax.vmap(task_key, (None, 0))(jax.random.fold_in(k_train, step), indices)
        episodes = jax.vmap(tasks.sample, (None, 0))(data, k_episodes)
        return learner.meta_grad(net, params, episodes, k_adapts, step)

    def meta_step(state: State, data: PyTree) -> State:
        first = jax.lax.axis_index("tasks") * local
        chunks = (first + jnp.arange(local)).reshape(-1, task_chunk)
        mean = mean_over(lambda indices: chunk_grad(state.params, data, state.step, indices), chunks)
        grads, metrics = jax.lax.pmean(mean, "tasks")
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = jax.tree.map(jnp.add, state.sums, metrics)
        return State(state.step + 1, params, opt_state, sums)

    def meta_steps(state: State, data: PyTree, n: Array) -> State:
        return jax.lax.fori_loop(0, n, lambda _, state: meta_step(state, data), state)

    sharded = jax.shard_map(meta_steps, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return jax.jit(sharded, donate_argnums=0)


def mean_over(f: Callable[[Array], PyTree], chunks: Array) -> PyTree:
    """The mean of f(chunk) over the rows of `chunks`, one row at a time."""
    if len(chunks) == 1:
        return f(chunks[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(f, chunks[0]))

    def add(total: PyTree, chunk: Array) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, f(chunk)), None

    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda leaf: leaf / len(chunks), total)


def make_over_tasks(per_task: Callable[..., PyTree], mesh: Mesh, task_chunk: int, seed: int) -> Callable[..., PyTree]:
    """(episodes, *arguments) -> per_task(k_episode, k_adapt, *arguments) for so many tasks, stacked, on the host."""
    k_eval = stream(seed, EVAL)

    def shard(indices: Array, arguments: tuple[PyTree, ...]) -> PyTree:
        def one(index: Array) -> PyTree:
            return per_task(*task_key(k_eval, index), *arguments)

        return jax.lax.map(one, indices, batch_size=task_chunk)

    sharded = jax.jit(
        jax.shard_map(shard, mesh=mesh, in_specs=(P("tasks"), P()), out_specs=P("tasks"), check_vma=False)
    )

    def over_tasks(episodes: int, *arguments: PyTree) -> PyTree:
        # Padded with more tasks until they share out evenly; the surplus is dropped.
        padded = -(-episodes // (mesh.size * task_chunk)) * mesh.size * task_chunk
        stacked = jax.device_get(sharded(jnp.arange(padded), arguments))
        return jax.tree.map(lambda leaf: leaf[:episodes], stacked)

    return over_tasks
