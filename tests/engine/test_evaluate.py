"""Evaluation against its definition, written out task by task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from support import one_of, run_of

from metarun import engine
from metarun.engine.evaluate import make_evaluate, query_metrics
from metarun.engine.net import make_net
from metarun.inner import Inner, differentiated

RUN = run_of(
    "task=strokes", "task.ways=3", "task.queries=2", "model=mlp", "model.hidden=[4]", "model.norm=batch",
    "learner.inner_steps=2", "learner.inner_lr=0.5", "learner.inner_loss=mean",
)  # fmt: skip
NET = make_net(RUN.model, RUN.tasks, 3)
TASKS = 7


@pytest.fixture(scope="module")
def drawn():
    """Parameters, the data, and the first tasks of an evaluation, drawn by their keys."""
    data = RUN.tasks.load("test")
    k_episodes, _ = jax.vmap(engine.task_key, (None, 0))(engine.stream(3, engine.EVAL), jnp.arange(TASKS))
    episodes = jax.jit(jax.vmap(RUN.tasks.sample, (None, 0)))(data, k_episodes)
    params = jax.jit(lambda key: NET.init(key, one_of(episodes).support.x))(jax.random.key(1))
    return params, data, episodes


@pytest.mark.parametrize("after", [None, 4])
def test_an_evaluation_is_every_tasks_metrics_one_by_one(drawn, after):
    """Chunks of two tasks on two devices against a loop in Python: means, intervals, answers, in the tasks' order."""
    params, data, episodes = drawn
    mesh = Mesh(np.array(jax.devices()[:2]), ("tasks",))
    evaluate = make_evaluate(RUN.learner, NET, RUN.tasks, mesh, 2, 20, True, RUN.inner)
    figures, answers = evaluate(params, data, TASKS, engine.stream(3, engine.EVAL), {}, after)

    learner = RUN.learner if after is None else dataclasses.replace(RUN.learner, inner_steps=after)
    alone = jax.jit(lambda episode: query_metrics(learner, NET, params, episode, None, inductive=True))
    found = [alone(one_of(episodes, i)) for i in range(TASKS)]
    for name in found[0][0]:
        values = np.array([metrics[name] for metrics, _ in found], np.float64)
        np.testing.assert_allclose(figures[name]["mean"], values.mean(), rtol=1e-4, err_msg=name)
        expected = 1.96 * values.std(ddof=1) / np.sqrt(TASKS)
        np.testing.assert_allclose(figures[name]["ci95"], expected, rtol=1e-3, err_msg=name)
    assert {"loss", "accuracy", "loss_inductive", "accuracy_inductive"} == figures.keys()
    np.testing.assert_allclose(answers.outputs, [outputs for _, outputs in found], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(answers.y, episodes.query.y)
    np.testing.assert_array_equal(answers.classes, episodes.classes)
    assert len({row.tobytes() for row in np.asarray(answers.classes)}) == TASKS


def test_a_tasks_metrics_are_those_of_its_query_set_after_its_own_support_set(drawn):
    """Two steps of descent on the support set by hand, then the loss of the queries: together, and each alone."""
    params, _, episodes = drawn
    support, query, _ = one_of(episodes)

    @jax.jit
    def by_hand(params):
        theta = params
        for _ in range(2):
            grads = jax.grad(lambda theta: NET.loss(NET.apply(theta, support.x), support.y)[0])(theta)
            theta = jax.tree.map(lambda p, g: p - 0.5 * g, theta, grads)
        alone = [NET.apply(theta, jnp.concatenate([support.x, x[None]]))[-1] for x in query.x]
        return NET.apply(theta, query.x), jnp.stack(alone)

    together, alone = by_hand(params)
    metrics, outputs = query_metrics(RUN.learner, NET, params, one_of(episodes), None, inductive=True)
    np.testing.assert_allclose(outputs, together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], NET.loss(together, query.y)[0], rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_inductive"], NET.loss(alone, query.y)[0], rtol=1e-4)
    assert abs(metrics["loss"] - metrics["loss_inductive"]) > 1e-3


def test_the_numbers_of_an_evaluation_are_arguments_and_inner_steps_are_clipped_as_in_training(drawn):
    params, data, episodes = drawn
    mesh, how = Mesh(np.array(jax.devices()[:1]), ("tasks",)), Inner("mixed", 0, False, clip_value=0.01)
    compiled = dataclasses.replace(RUN.learner, inner_lr=1.0)
    evaluate = make_evaluate(compiled, NET, RUN.tasks, mesh, 1, 2, False, how)
    _, answers = evaluate(params, data, 2, engine.stream(3, engine.EVAL), {"inner_lr": 3.0})
    own = dataclasses.replace(RUN.learner, inner_lr=3.0)
    outputs = []
    for clip in (how, RUN.inner):

        @jax.jit
        def alone(episode, clip=clip):
            with differentiated(clip):
                return query_metrics(own, NET, params, episode, None, inductive=False)[1]

        outputs.append(alone(one_of(episodes)))
    np.testing.assert_allclose(answers.outputs[0], outputs[0], rtol=1e-3, atol=1e-4)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


def test_what_a_learner_measures_itself_stands_beside_the_figures_of_its_predictions():
    run = run_of("learner=cnp", "task=sinusoid", "model.hidden=[4]", "learner.encoder=[4]", "learner.decoder=[4]")
    net = make_net(run.model, run.tasks, None)
    episode = jax.jit(run.tasks.sample)((), jax.random.key(0))
    params = jax.jit(lambda key: run.learner.init(net, key, episode.support.x))(jax.random.key(1))

    @jax.jit
    def both(params, key):
        metrics, _ = query_metrics(run.learner, net, params, episode, key, inductive=False)
        return metrics, run.learner.measure(net, params, episode, None)

    metrics, measured = both(params, jax.random.key(2))
    np.testing.assert_allclose(metrics["log_likelihood"], measured["log_likelihood"])
    assert {"loss", "mse", "log_likelihood"} == metrics.keys()
