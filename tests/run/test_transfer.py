"""Starting from another run: what is taken, what is not, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import on_blobs, placed, run_of

from metarun.core import ConfigError
from metarun.engine.net import make_net
from metarun.run import train
from metarun.run.checkpoint import saved_params
from metarun.run.transfer import match


def test_parts_that_agree_in_layer_name_and_shape_are_taken():
    new = {
        "encoder": {
            "conv0": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)},
            "conv1": {"kernel": jnp.zeros((4, 4))},
        },
        "cell": {"lstm": {"kernel": jnp.zeros((3, 2))}},
    }
    source = {
        "conv0": {"kernel": np.ones((3, 2)), "bias": np.full(2, 2.0)},
        "conv1": {"kernel": np.ones((4, 5))},
        "head": {"kernel": np.ones((3, 2))},
    }
    found = match(new, source)
    assert found.taken == {"encoder/conv0/kernel": "conv0/kernel", "encoder/conv0/bias": "conv0/bias"}
    assert found.left == ["cell/lstm/kernel", "encoder/conv1/kernel"]
    np.testing.assert_array_equal(found.params["encoder"]["conv0"]["bias"], 2.0)
    np.testing.assert_array_equal(found.params["cell"]["lstm"]["kernel"], 0.0)


def test_of_several_candidates_the_path_that_agrees_most_is_taken():
    new = {"net": {"block1": {"dense": {"kernel": jnp.zeros(2)}}}}
    source = {"block0": {"dense": {"kernel": np.zeros(2)}}, "block1": {"dense": {"kernel": np.ones(2)}}}
    assert match(new, source).taken == {"net/block1/dense/kernel": "block1/dense/kernel"}


SMALL = (
    "logger=none", "train.steps=2", "train.meta_batch=2", "hardware.task_chunk=1",
    "eval.episodes=2", "eval.val_episodes=2", "eval.inner_steps=[]", "hardware.devices=1",
)  # fmt: skip


def run_in(directory, *overrides: str):
    return train.train(placed(on_blobs(*SMALL, *overrides), directory))


@pytest.mark.slow
def test_a_run_starts_from_anothers_network_and_says_so(tmp_path, capsys):
    run_in(tmp_path / "maml", "learner=maml")
    # A step of length 0 leaves what the run started from.
    run_in(tmp_path / "mann", "learner=mann", f"train.init_from={tmp_path / 'maml'}", "optimizer.learning_rate=1e-30")
    said = " ".join(capsys.readouterr().out.split())
    assert f"from {tmp_path / 'maml'}: encoder/dense0 (bias, kernel); as initialised: cell/gate" in said
    before, after = saved_params(tmp_path / "maml"), saved_params(tmp_path / "mann")
    np.testing.assert_allclose(after["encoder"]["dense0"]["kernel"], before["dense0"]["kernel"], atol=1e-7)


@pytest.mark.parametrize("there", ["nothing", "empty", "other"])
def test_a_start_from_nothing_is_refused_in_one_line(tmp_path, there):
    source = tmp_path / "source"
    if there == "empty":
        source.mkdir()
    if there == "other":
        run_in(source, "learner=protonet", "model.hidden=[7]")
    with pytest.raises(ConfigError, match=r"train\.init_from=") as refused:
        run_in(tmp_path / "run", "learner=maml", "model.hidden=[5]", f"train.init_from={source}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("learner", ["meta_sgd", "mamlpp", "cavia", "mann"])
def test_what_a_learner_keeps_beside_a_network_is_not_taken_for_weights_nor_lost(learner):
    model = ("model=pixels",) if learner == "mann" else ("model=mlp", "model.hidden=[5]", "task.ways=5")
    run = run_of(f"learner={learner}", *model)
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    params = jax.jit(lambda key: run.learner.init(net, key, jnp.ones((2, 28, 28, 1))))(jax.random.key(0))
    network = {"dense0": {"kernel": np.ones((784, 5)), "bias": np.ones(5)}, "head": {"bias": np.ones(5)}}
    found = match(params, network | {"alpha": network, "maps": network})
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    assert all(new.startswith("alpha/") == old.startswith("alpha/") for new, old in found.taken.items())
    assert not any(new.startswith("maps/") != old.startswith("maps/") for new, old in found.taken.items())
    assert found.taken.get("theta/dense0/kernel", "dense0/kernel") == "dense0/kernel"
    # Of a run that has nothing but a network, nothing else is.
    assert not [new for new in match(params, network).taken if new.startswith(("alpha/", "maps/"))]
    # A run's own parameters are taken back whole.
    whole = match(jax.tree.map(jnp.zeros_like, params), jax.device_get(params))
    assert not whole.left
    jax.tree.map(np.testing.assert_array_equal, whole.params, params)


def test_moments_that_are_kept_are_no_weights_in_either_direction():
    theta = {"dense0": {"kernel": jnp.ones((2, 3))}}
    kept = {"theta": theta, "adam": {"second": {"dense0": {"kernel": jnp.full((2, 3), 9.0)}}, "steps": jnp.ones(())}}
    weights = {"dense0": {"kernel": jnp.zeros((2, 3))}}
    assert match(weights, kept).taken == {"dense0/kernel": "theta/dense0/kernel"}
    there = match(kept, {"dense0": {"kernel": jnp.full((2, 3), 5.0)}})
    assert there.taken == {"theta/dense0/kernel": "dense0/kernel"}
    assert set(there.left) == {"adam/second/dense0/kernel", "adam/steps"}
    assert len(match(kept, kept).taken) == 3  # a run of the same learner has them all
