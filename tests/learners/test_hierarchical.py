"""The tree of task clusters, its gates and the autoencoder against numpy; with open gates it is MAML."""

import dataclasses

import jax
import numpy as np
import pytest
from support import run_of

from metarun.core import ConfigError
from metarun.engine.net import make_net
from metarun.gradients import differentiated

SETTINGS = (
    "task=mixture",
    "task.shots=4",
    "task.queries=3",
    "model.hidden=[6]",
    "learner.inner_lr=0.01",
    "learner.inner_steps=2",
)
RUN = run_of("learner=hierarchical", *SETTINGS, "learner.embed=3", "learner.hidden=4", "learner.tree=[3,2]")
NET = make_net(RUN.model, RUN.tasks, 1)
LEARNER = RUN.learner


@pytest.fixture(scope="module")
def given():
    """Parameters, none of them zero, and an episode."""
    shapes = jax.eval_shape(lambda key: RUN.tasks.sample((), key), jax.random.key(0))
    shapes = jax.eval_shape(lambda x: LEARNER.init(NET, jax.random.key(0), x), shapes.support.x), shapes
    random = np.random.default_rng(0)
    return jax.device_put(jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_shares_clusters_and_gates_are_the_papers(given):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), given[0])
    task = np.array([0.5, -1.0, 0.2, 0.8])
    weights = np.exp([-((task - c) ** 2).sum() / (2 * 2.0) for c in p["centres"]])
    shares = weights / weights.sum()
    np.testing.assert_allclose(jax.jit(LEARNER.assignment)(given[0], np.float32(task)), shares, rtol=1e-5)

    leaves = [shares[i] * np.tanh(task @ p["leaves"]["kernel"][i] + p["leaves"]["bias"][i]) for i in range(3)]
    level, middle = p["levels"][0], np.zeros((2, 4))
    for leaf in leaves:
        share = softmax(leaf @ level["share"]["kernel"] + level["share"]["bias"])
        for j in range(2):
            middle[j] += share[j] * np.tanh(leaf @ level["nodes"]["kernel"][j] + level["nodes"]["bias"][j])
    root = sum(np.tanh(m @ p["root"]["kernel"] + p["root"]["bias"]) for m in middle)
    np.testing.assert_allclose(jax.jit(LEARNER.clusters)(given[0], np.float32(task)), root, rtol=1e-4)

    gates = sigmoid(np.concatenate([task, root]) @ p["gates"]["kernel"] + p["gates"]["bias"])
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(p["theta"])])
    gated = jax.jit(LEARNER.gated)(given[0], np.float32(task))
    found = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gated)])
    np.testing.assert_allclose(found, gates * flat, rtol=1e-4, atol=1e-6)


def test_the_embedding_is_the_mean_state_of_a_recurrence_and_the_last_example_is_reconstructed_first(given):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), given[0])
    support, key = given[1].support, jax.random.key(3)
    order = np.asarray(jax.random.permutation(key, len(support.y)))
    rows = np.concatenate([support.x, support.y], 1).astype(np.float64)[order]
    examples = rows @ p["example"]["kernel"] + p["example"]["bias"]

    def gru(unit, x, h):
        added = x @ unit["x"] + unit["bias"]
        update, reset = np.split(sigmoid(added[:8] + h @ unit["gates"]), 2)
        return update * h + (1 - update) * np.tanh(added[8:] + (reset * h) @ unit["new"])

    state, states = np.zeros(4), []
    for x in examples:
        state = gru(p["encoder"], x, state)
        states.append(state)
    back, wrong = np.zeros(3), []
    for x in examples[::-1]:
        state = gru(p["decoder"], back, state)
        back = state @ p["reconstruction"]["kernel"] + p["reconstruction"]["bias"]
        wrong.append((back - x) ** 2)
    task, reconstruction = jax.jit(lambda p, s, k: LEARNER.embedding(NET, p, s, k))(
        given[0], support, jax.random.clone(key)
    )
    np.testing.assert_allclose(task, np.mean(states, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reconstruction, np.mean(wrong), rtol=1e-4)


def test_with_open_gates_it_is_maml(given):
    params, episode = given
    shut = {"kernel": np.zeros_like(params["gates"]["kernel"]), "bias": np.full_like(params["gates"]["bias"], 100.0)}
    maml = run_of("learner=maml", *SETTINGS).learner
    episodes = jax.tree.map(lambda leaf: np.asarray(leaf)[None], episode)

    @jax.jit
    def both(params):
        keys = jax.random.key(5)[None]
        with differentiated(RUN.inner):
            own = dataclasses.replace(LEARNER, reconstruction=0.0).meta_grad(NET, params, episodes, keys, 0)
            return own, maml.meta_grad(NET, params["theta"], episodes, jax.random.clone(keys), 0)

    (own, metrics), (theirs, expected) = both({**params, "gates": shut})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), own["theta"], theirs)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)


def test_the_reconstruction_is_learned_with_its_weight_and_a_test_tells_of_the_leaves(given):
    params, episode = given
    episodes = jax.tree.map(lambda leaf: np.asarray(leaf)[None], episode)

    def decoder(weight):
        own = dataclasses.replace(LEARNER, reconstruction=weight)
        return own.meta_grad(NET, params, episodes, jax.random.key(5)[None], 0)[0]["decoder"]

    def alone(params):
        return LEARNER.embedding(NET, params, episode.support, jax.random.key(5))[1]

    @jax.jit
    def all_of(params):
        task, _ = LEARNER.embedding(NET, params, episode.support, jax.random.key(7))
        told = LEARNER.measure(NET, params, episode, jax.random.key(7))
        return decoder(0.5), jax.grad(alone)(params)["decoder"], told, LEARNER.assignment(params, task)

    found, expected, told, shares = jax.device_get(all_of(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.5 * b, rtol=1e-4, atol=1e-6), found, expected)
    np.testing.assert_allclose([told[f"leaf_{i}"] for i in (1, 2, 3)], shares, rtol=1e-5)


def test_a_tree_has_leaves():
    with pytest.raises(ConfigError, match=r"learner.tree=\[\]: needs a level of leaves"):
        run_of("learner=hierarchical", "task=mixture", "learner.tree=[]")
