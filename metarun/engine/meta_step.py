"""The compiled meta-steps: many tasks on the hardware at once, in chunks, over a mesh of devices."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metarun import recorded
from metarun.core import Array, Episode, Key, Learner, Metrics, Net, PyTree, State, Tasks
from metarun.engine.compiled import Program
from metarun.engine.evaluate import only_if
from metarun.engine.gathered import at, shares, within
from metarun.engine.kept import beside, of_learned
from metarun.engine.keys import task_key
from metarun.engine.private import Private, clipped_each, episode_of, noised, task_keys
from metarun.engine.selection import Selection, chosen, score
from metarun.gradients import Inner, clipped, differentiated
from metarun.recorded import SeesTasks

# The floats of "learner" and "optimizer", and in evaluation "eval_learner", by name; the "noise" of what is "private".
Numbers = dict[str, dict[str, Any]]
Optimizer = Callable[[dict[str, Any]], optax.GradientTransformation | SeesTasks]  # its numbers -> itself


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


def make_start(learner: Learner, net: Net, tasks: Tasks, optimizer: Optimizer, made_from: str | None = None) -> Program:
    """(data, numbers, seed's key) -> the state before the first meta-step. `made_from` as in `compiled.Program`."""

    def start(data: PyTree, numbers: Numbers, k_init: Key) -> State:
        own = dataclasses.replace(learner, **numbers["learner"])  # type: ignore[type-var]
        k_init, k_episode = jax.random.split(k_init)
        episode = tasks.sample(at(data, 0, 0), k_episode)
        params = own.init(net, k_init, episode.support.x)
        episodes, keys = jax.tree.map(lambda leaf: leaf[None], (episode, k_episode))
        step = jnp.zeros((), jnp.int32)
        _, metrics = jax.eval_shape(lambda *args: own.meta_grad(net, *args), params, episodes, keys, step)
        sums = {name: jnp.zeros(metric.shape, metric.dtype) for name, metric in metrics.items()}
        zero = jnp.zeros((), jnp.int32)
        return State(step, params, beside(own, optimizer(numbers["optimizer"])).init(params), sums, zero, zero, zero)

    return Program(start, made_from)


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
    made_from: str | None = None,
    members: int | None = None,
    selection: Selection | None = None,
    private: Private | None = None,
) -> Program:
    """(state, data, numbers, seed's key, n) -> the state n meta-steps later and its report, compiled once for every n.

    Sampling, adaptation, meta-gradient and update all happen on the devices: each has its share of the
    tasks, takes them in chunks, and agrees with the others on the mean gradient. `numbers` stand in for those of
    learner and optimizer; another value is no other program. A meta-step whose metrics, gradient or new parameters are
    not finite changes nothing: it is passed over, or ends the call, as `guard` says.

    With `members` it is the program of so many runs, on a mesh `of_members`: all arguments but the data, which they
    share, and all that comes back have a leading axis for them. Each makes n meta-steps of its own, or fewer.

    With a `selection` a meta-step's tasks are chosen from more candidates, which the devices score together.
    What `private` says is done to each task's meta-gradient before they are summed, and once to the sum.
    """
    devices = mesh.shape["tasks"]
    local = meta_batch // devices

    def on_a_device(state: State, data: PyTree, numbers: Numbers, k_train: Key, n: Array) -> tuple[State, Report]:
        own = dataclasses.replace(learner, **numbers["learner"])  # type: ignore[type-var]
        outer = beside(own, optimizer(numbers["optimizer"]))
        n = within(data, state.step, n)

        def drawn(state: State, indices: Array) -> tuple[Episode, Key]:
            """The episodes of these tasks, and the keys of their adaptation."""
            k_episodes, k_adapts = jax.vmap(task_key, (None, 0))(jax.random.fold_in(k_train, state.step), indices)
            return jax.vmap(lambda i, key: tasks.sample(at(data, state.step, i), key))(indices, k_episodes), k_adapts

        def selected(state: State, selection: Selection) -> Array:
            """The numbers (meta_batch,) of the candidates to train on, the same on every device."""

            def scores(indices: Array) -> Array:
                with differentiated(how):
                    return jax.vmap(partial(score, own, net, tasks, state.params))(*drawn(state, indices))

            # Chunks alike in size, no larger than the meta-gradient's; the last ones of all are beyond the candidates.
            share = -(-selection.candidates // devices)
            rows = -(-share // task_chunk)
            count = rows * -(-share // rows)
            mine = (jax.lax.axis_index("tasks") * count + jnp.arange(count)).reshape(rows, -1)
            every = jax.lax.all_gather(jax.lax.map(scores, mine).reshape(-1), "tasks", tiled=True)
            return chosen(selection, meta_batch, every[: selection.candidates], state.step)

        def meta_grad(state: State, episodes: Episode, k_adapts: Key) -> tuple[PyTree, Metrics]:
            with differentiated(how):
                return own.meta_grad(net, state.params, episodes, k_adapts, state.step)

        def chunk_of_clipped(state: State, private: Private, clip: float, indices: Array) -> tuple[PyTree, ...]:
            k_episodes, k_adapts, users, counts = task_keys(private, k_train, state.step, indices, meta_batch)

            def means() -> tuple[PyTree, ...]:
                def of_user(i: Array, user: Array, key: Key) -> Episode:
                    return episode_of(private, tasks, at(data, state.step, i), user, key)

                episodes = jax.vmap(of_user)(indices, users, k_episodes)
                return clipped_each(partial(meta_grad, state), episodes, k_adapts, counts, clip)

            return only_if(counts.any(), means)  # of users there may be fewer than tasks: those that count come first

        def seen(state: State, outer: SeesTasks, chunks: Array, first: Array) -> tuple[PyTree, Metrics, Any]:
            """The policy's meta-gradient, metrics, and the problem of this meta-step: of what is collected once.

            Each device keeps its own tasks'.
            """
            record = jax.vmap(partial(recorded.record, own, net, state.params))
            own_tasks = jax.lax.map(lambda indices: record(*drawn(state, indices)), chunks)
            mean = lambda chunks, f: jax.lax.pmean(mean_over(f, chunks), "tasks")  # noqa: E731
            grads, metrics = mean(own_tasks, partial(recorded.policy_grad, own, net, state.params))
            # One mean over devices after another: two that wait at once can wait for each other (on a busy CPU, say).
            params, metrics = jax.lax.optimization_barrier((state.params, metrics))
            return grads, metrics, outer.problem(own, net, params, own_tasks, first, mean)

        def tried(state: State) -> tuple[State, Metrics, Array]:
            """The state one meta-step later, its metrics, and whether all of it is finite."""
            first = jax.lax.axis_index("tasks") * local
            indices = first + jnp.arange(local)
            if selection is not None:
                indices = selected(state, selection)[indices]
            chunks = indices.reshape(-1, task_chunk)
            for_outer: dict[str, Any] = {}  # what the outer optimizer is told beside the gradient
            if isinstance(outer, SeesTasks):
                with differentiated(how):
                    grads, metrics, for_outer["problem"] = seen(state, outer, chunks, first)
            elif private is None or private.clip is None:
                grads, metrics = jax.lax.pmean(mean_over(lambda i: meta_grad(state, *drawn(state, i)), chunks), "tasks")
            else:
                of_chunk = partial(chunk_of_clipped, state, private, private.clip)
                means = jax.lax.pmean(mean_over(of_chunk, chunks), "tasks")
                k_step, own_noise = jax.random.fold_in(k_train, state.step), numbers["private"]["noise"]
                grads, metrics = noised(private, means, k_step, own_noise, meta_batch)
                grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)
            fine = is_finite(metrics)
            if not for_outer and guard.clip_value is not None:
                fine &= is_finite(grads)  # which bounds make finite numbers of
            grads = of_learned(own, lambda grads: clipped(grads, guard.clip_value, guard.clip_norm), grads)
            # Of gradients whose squares are not finite, moments would never be finite again. To look at the moments
            # themselves, which are twice as many, would double the program's size.
            if not for_outer:  # it may do without the gradient
                fine &= is_finite(jax.tree.map(jnp.square, grads))
            with differentiated(how):
                updates, opt_state = outer.update(grads, state.opt_state, state.params, **for_outer)
            params = optax.apply_updates(state.params, updates)
            sums = jax.tree.map(jnp.add, state.sums, metrics)
            summed, none = state.summed + 1, jnp.zeros((), jnp.int32)
            after = State(state.step + 1, params, opt_state, sums, summed, state.skipped, none)
            moments = are_finite_still(opt_state, state.opt_state) if for_outer else True
            return after, metrics, fine & is_finite(params) & moments

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

    def meta_steps(state: State, data: PyTree, numbers: Numbers, k_train: Key, n: Array) -> tuple[State, Report]:
        if members is None:
            on_each, of_a_run = on_a_device, P()
        else:
            on_each, of_a_run = jax.vmap(on_a_device, in_axes=(0, None, 0, 0, 0)), P("members")
        specs = (of_a_run, shares(data), of_a_run, of_a_run, of_a_run)
        sharded = jax.shard_map(on_each, mesh=mesh, in_specs=specs, out_specs=of_a_run, check_vma=False)
        return sharded(state, data, numbers, k_train, n)

    return Program(meta_steps, made_from, donate=(0,), often=True)


def is_finite(values: PyTree) -> Array:
    """() bool: whether all of the numbers are; an empty tree is."""
    return jnp.array([True, *(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values))]).all()


def are_finite_still(after: PyTree, before: PyTree) -> Array:
    """() bool: whether all leaves are finite but for those that were not before."""
    pairs = zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)
    return jnp.array([True, *(jnp.isfinite(a).all() | ~jnp.isfinite(b).all() for a, b in pairs)]).all()


def mean_over(f: Callable[[Any], PyTree], chunks: PyTree) -> PyTree:
    """The mean of f(chunk) over the rows of `chunks` (leading axis), one row at a time."""
    first, rows = jax.tree.map(lambda leaf: leaf[0], chunks), len(jax.tree.leaves(chunks)[0])
    if rows == 1:
        return f(first)
    f = jax.jit(f, inline=True)  # traced once, for its shapes and in the loop
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(f, first))

    def add(total: PyTree, chunk: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, f(chunk)), None

    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda leaf: leaf / rows, total)
