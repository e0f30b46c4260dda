"""What a learner sees of a model and its tasks, and whether the three fit together."""

import dataclasses
import inspect
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError, ScopeCollectionNotFound, ScopeParamShapeError

from metarun.core import Act, Array, Batch, Collecting, ConfigError, Episode, InTrials, Key, Learner, Net, PyTree, Tasks
from metarun.engine.gathered import at
from metarun.inner import queries
from metarun.losses import Loss


def make_net(model: Any, tasks: Tasks, width: int | None) -> Net:
    """What a learner sees of a flax model and of its tasks.

    `width` is the outputs the learner wants, None for features: where evaluation has fewer ways than
    training had, the surplus outputs are left out. Whatever the model computes in, float32 (or more) comes out.
    """
    net = net_for(model, width, tasks.loss, tasks.n_out, tasks.metric == "accuracy", tasks.n_classes("train"))
    if not isinstance(tasks, Collecting):
        return net

    def collect(source: Batch, act: Act, key: Key, step: Array | int) -> Batch:
        return jax.lax.stop_gradient(tasks.collect(source, act, jax.random.fold_in(key, step)))

    net = net._replace(collect=collect, inner_loss=tasks.inner_loss, policy=tasks.policy)
    return net._replace(trial=tasks.trial, by_step=tasks.by_step) if isinstance(tasks, InTrials) else net


def net_for(
    model: Any, width: int | None, loss: Loss, n_out: int, classification: bool, n_classes: int | None = None
) -> Net:
    """The same without the tasks: their loss, outputs and kind; `n_classes` is for training.

    It and its functions, where they are traced, raise ConfigError for a model that is not what `metarun.models` says.
    """
    must_take_inputs_alone(model)
    body = model.clone(n_out=None)

    def out(whose: Any, params: PyTree, x: Array) -> Array:
        try:
            y = whose.apply({"params": params}, x)
        except (InvalidRngError, ScopeCollectionNotFound) as error:
            needs = "random numbers, as Dropout does" if isinstance(error, InvalidRngError) else "variables of its own"
            allowed = f"needs {needs}, and models here are functions of their parameters and inputs; leave them out"
            raise ConfigError("model", type(model).__name__, allowed) from error
        shape = getattr(y, "shape", f"a {type(y).__name__}")
        if len(shape) != 2 or shape[0] != x.shape[0]:  # an exported program's number of queries is not known
            what = "outputs" if whose is model else "features, which it gives where n_out is None,"
            allowed = f"gives {shape} where {what} are an array ({x.shape[0]}, d), a row for each input"
            raise ConfigError("model", type(model).__name__, allowed)
        return y.astype(jnp.promote_types(y.dtype, jnp.float32))

    return Net(
        init=lambda key, x: parameters(model, model.init(key, x)),
        apply=lambda params, x: out(model, params, x)[:, :width],
        features=lambda params, x: out(body, params, x),
        loss=loss,
        n_out=n_out,
        classification=classification,
        n_classes=n_classes,
    )


def is_transductive(model: Any) -> bool:
    """Whether a model's outputs may depend on what is predicted beside: of one that does not say, they may."""
    return getattr(model, "transductive", True)


def must_take_inputs_alone(model: Any) -> None:
    """Raises ConfigError for a model that is to be called with more, whether it is being trained, say."""
    _, *others = inspect.signature(model.__call__).parameters.values()
    needed = [
        one.name for one in others if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        allowed = f"is called with its inputs alone, and asks for {', '.join(needed)} as well; give that a default"
        raise ConfigError("model", type(model).__name__, allowed)


def parameters(model: Any, variables: PyTree) -> PyTree:
    """Of what flax has initialised. Raises ConfigError for what cannot be learned by gradients, or has a state."""
    name, params = type(model).__name__, variables.get("params", {})
    if "batch_stats" in variables:
        allowed = "keeps running statistics, and models here have no state; use metarun.models.layers.Normalisation"
        raise ConfigError("model", name, allowed)
    for path, leaf in jax.tree.leaves_with_path(params):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ConfigError("model", name, f"has the parameter {where} of {leaf.dtype}; only floats can be learned")
        if where.count("/") >= len(path):
            raise ConfigError("model", name, f"has the parameter {where} with a slash in a name; give it another")
    return params


def check_shapes(learner: Learner, net: Net, tasks: Tasks, data: PyTree, trained: PyTree = None) -> PyTree:
    """Raises ConfigError if model, learner and tasks do not fit together. Traces only: touches no device.

    Returns the shapes of what is learned. Given those of training's learner as `trained`, it is with them that this
    one, evaluation's, must work. The runs of a process that are alike are traced once.
    """
    leaves, structure = jax.tree.flatten((data, trained))
    shapes = tuple(jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in leaves)
    return _fitting(learner, net, tasks, structure, shapes)  # type: ignore[arg-type]  # frozen, as `programs` wants them


@lru_cache(maxsize=64)
def _fitting(learner: Learner, net: Net, tasks: Tasks, structure: Any, shapes: tuple[Any, ...]) -> PyTree:
    data, trained = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in shapes])
    k_episode, k_init, k_adapt = jax.eval_shape(lambda: tuple(jax.random.split(jax.random.key(0), 3)))
    episode = jax.eval_shape(tasks.sample, data, k_episode)

    def learned(learner: Learner) -> PyTree:
        return jax.eval_shape(lambda key, x: learner.init(net, key, x), k_init, episode.support.x)

    must_have_answers(tasks, episode)
    steps = getattr(learner, "inner_steps", None)
    own = learned(learner)
    params = own if trained is None else trained

    def predict(params: PyTree, episode: Episode, key: Key, traced: dict[str, Any] | None = None) -> Array:
        own = dataclasses.replace(learner, **traced) if traced else learner  # type: ignore[type-var]
        fast = own.adapt(net, params, episode.support, key)
        return own.predict(net, fast, queries(own, net, fast, episode.query, key).x)

    refused = ConfigError("eval.learner", "(its settings)", "they change what is learned; set them under learner")
    if jax.tree.structure(own) != jax.tree.structure(params):  # type: ignore[operator]
        raise refused
    if (mine := shapes_in(own)) != (theirs := shapes_in(params)):
        # What has a row for each inner step may have more, or fewer: an evaluation may take other steps.
        longer = own if steps is None else learned(dataclasses.replace(learner, inner_steps=steps + 1))  # type: ignore[type-var]
        if any(a != b and a == c for a, b, c in zip(mine, theirs, shapes_in(longer), strict=True)):
            raise refused
    # As the compiled evaluation has it, which serves every number of inner steps.
    any_number = None if trained is None or steps is None else {"inner_steps": np.int32(steps)}
    no_fit = (KeyError, TypeError, ValueError, ScopeParamShapeError)  # jax's errors about what is traced among them
    try:
        outputs = jax.eval_shape(predict, params, episode, k_adapt, any_number)
    except no_fit as error:
        if trained is None:
            raise
        try:
            jax.eval_shape(predict, params, episode, k_adapt)
        except no_fit as of_this_number:
            raise refused from of_this_number
        raise ConfigError(
            "learner.inner_steps",
            steps,
            "is an abstract int32 when evaluation is compiled, once for every number of steps, so no Python loop, "
            f"shape or condition may depend on it in {type(learner).__name__}.adapt, predict or __post_init__: "
            "loop with metarun.inner.loop or jax.lax.fori_loop",
        ) from error
    if outputs.shape[1:] != (tasks.n_out,):
        name = type(learner).__name__
        raise ConfigError("learner", name, f"predicts {outputs.shape[1:]} a query where the task has ({tasks.n_out},)")
    return params


def must_have_answers(tasks: Tasks, episode: Episode) -> None:
    """Raises ConfigError for labels that are no integers, and for a regression's targets that are no floats of numpy's.

    What is made of a test tells them apart so.
    """
    for name, batch in {"support": episode.support, "query": episode.query}.items():
        if isinstance(tasks, Collecting):
            return
        kind, labels = np.dtype(batch.y.dtype).kind, tasks.metric == "accuracy"
        if kind not in "iu" if labels else batch.y.ndim == 2 and kind != "f":
            wanted = "labels (n,) are int32" if labels else "targets (n, d) are float32"
            allowed = f"gives {name}.y {batch.y.shape} of {batch.y.dtype}, and {wanted}"
            raise ConfigError("task", type(tasks).__name__, allowed)


def shapes_in(tree: PyTree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def input_of(tasks: Tasks, data: PyTree) -> jax.ShapeDtypeStruct:
    """What stands for one example, as a model sees it. Traces only."""
    x = shapes_of_episode(tasks, data).support.x
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def episode_size(tasks: Tasks, data: PyTree) -> int:
    """How many numbers the inputs of one episode have. Traces only."""
    episode = shapes_of_episode(tasks, data)
    return episode.support.x.size + episode.query.x.size


def shapes_of_episode(tasks: Tasks, data: PyTree) -> Episode:
    """The shapes of an episode."""
    return jax.eval_shape(lambda data: tasks.sample(at(data, 0, 0), jax.random.key(0)), data)
