"""Starting from another run: what is taken, what is not, and what is refused."""

import jax
import numpy as np
import pytest
from support import changed, complete, equal, no_meta_steps, on_blobs, placed, run_of, to_yaml

from metarun import engine
from metarun.core import ConfigError, DataError
from metarun.engine.net import make_net
from metarun.learned import load
from metarun.run import train, transfer
from metarun.run.transfer import by_layer, match, network_of, start_from


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_parts_that_agree_in_layer_name_and_shape_are_taken():
    new = {
        "encoder": {
            "conv0": {"kernel": zeros(3, 2), "bias": zeros(2)},
            "conv1": {"kernel": zeros(4, 4)},
        },
        "cell": {"lstm": {"kernel": zeros(3, 2)}},
    }
    source = {
        "conv0": {"kernel": np.ones((3, 2)), "bias": np.full(2, 2.0)},
        "conv1": {"kernel": np.ones((4, 5))},
        "head": {"kernel": np.ones((3, 2))},
    }
    found = match(new, source, ours="encoder/")
    assert found.taken == {"encoder/conv0/kernel": "conv0/kernel", "encoder/conv0/bias": "conv0/bias"}
    assert found.left == ["cell/lstm/kernel", "encoder/conv1/kernel"]
    assert found.in_words == "encoder/conv0 (bias, kernel); as initialised: cell/lstm (kernel), encoder/conv1 (kernel)"
    assert by_layer(["scale", "down/kernel"]) == "scale, down (kernel)"
    np.testing.assert_array_equal(found.params["encoder"]["conv0"]["bias"], 2.0)
    np.testing.assert_array_equal(found.params["cell"]["lstm"]["kernel"], 0.0)


def test_of_a_networks_blocks_each_is_taken_for_itself():
    new = {"net": {"block1": {"dense": {"kernel": zeros(2)}}}}
    source = {"block0": {"dense": {"kernel": np.zeros(2)}}, "block1": {"dense": {"kernel": np.ones(2)}}}
    assert match(new, source, ours="net/").taken == {"net/block1/dense/kernel": "block1/dense/kernel"}
    assert not match(new, {"block0": source["block0"]}, ours="net/").taken


def test_a_network_is_not_taken_for_what_has_its_name_beside_another():
    layer = {"dense0": {"kernel": zeros(2, 3)}}
    found = match({"theta": layer, "encoder": layer}, {"encoder": layer, "cell": layer}, "theta/", "encoder/")
    assert found.taken == {"theta/dense0/kernel": "encoder/dense0/kernel"}
    assert not [path for path in match({"theta": layer, "dense0": layer}, layer, "theta/").taken if path[0] == "d"]


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
    before, after = (load(tmp_path / name, "best").params for name in ("maml", "mann"))
    np.testing.assert_allclose(after["encoder"]["dense0"]["kernel"], before["dense0"]["kernel"], atol=1e-7)


@pytest.mark.parametrize("there", ["nothing", "empty", "other"])
def test_a_start_from_nothing_is_refused_in_one_line(tmp_path, there):
    source = tmp_path / "source"
    if there == "empty":
        source.mkdir()
    if there == "other":
        with no_meta_steps():
            run_in(source, "learner=protonet", "model.hidden=[7]")
    with pytest.raises(ConfigError, match=r"train\.init_from=") as refused:
        run_in(tmp_path / "run", "learner=maml", "model.hidden=[5]", f"train.init_from={source}")
    assert "\n" not in str(refused.value)
    assert not [path for path in (tmp_path / "run").glob("*") if path.name != ".lock"]


def test_of_several_processes_the_first_alone_needs_the_source(tmp_path, monkeypatch):
    run = placed(on_blobs(*SMALL, "train.init_from=nowhere"), tmp_path)
    with pytest.raises(ConfigError, match=r"train\.init_from=nowhere"):
        transfer.must_have_a_source(run)
    monkeypatch.setattr(engine.hosts, "is_first", lambda: False)
    transfer.must_have_a_source(run)
    assert transfer.source_of(run, None, None) is None


# What comes of the arrays that nobody waits for any more finds the loop closed.
@pytest.mark.filterwarnings(r"ignore:[\s\S]*Event loop is closed:pytest.PytestUnraisableExceptionWarning")
def test_a_source_that_was_changed_is_refused_by_its_digests_and_an_older_whole_state_of_it_taken(tmp_path):
    source = tmp_path / "source"
    run_in(source, "learner=protonet", "train.steps=4", "train.save_every=2", "train.eval_every=2")
    first, last = sorted(complete(source), key=lambda path: int(path.name))
    changed(last / "host" / "metadata", lambda host: host.update(best=None))
    run_in(tmp_path / "run", "learner=protonet", f"train.init_from={source}", "optimizer.learning_rate=1e-30")
    equal(load(tmp_path / "run", "best").params, load(source, "best").params)
    for file in (source / "checkpoints" / "best").rglob("*ocdbt*"):
        if file.is_file():
            file.write_text("")
    damaged = rf"{last} \(its digest is not that of its content\)"
    with pytest.raises(DataError, match=f"^{source} holds no whole checkpoint: {damaged}; restore it from a copy$"):
        run_in(tmp_path / "other", "learner=protonet", f"train.init_from={source}")
    last.rename(tmp_path / "last")
    damaged = rf"{source}/checkpoints/best/\d is damaged: what is saved there cannot be read"
    with pytest.raises(DataError, match=rf"^{source} holds no whole checkpoint: {first} \({damaged}\); restore"):
        run_in(tmp_path / "other", "learner=protonet", f"train.init_from={source}")
    assert not (tmp_path / "other" / "config.yaml").exists()


def initial(learner: str, *overrides: str):
    """A learner, its parameters, and where in them the model's are."""
    run = run_of(f"learner={learner}", "model=mlp", "model.hidden=[5]", "task.ways=5", *overrides)
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    of = jax.eval_shape(lambda key: run.learner.init(net, key, np.ones((2, 28, 28, 1), np.float32)), jax.random.key(0))
    leaves, structure = jax.tree.flatten(of)
    params = [np.full(leaf.shape, number, leaf.dtype) for number, leaf in enumerate(leaves)]
    return run, jax.tree.unflatten(structure, params), network_of(run.learner)


TWO = {
    "hierarchical": ("theta/", ("learner.hidden=4", "learner.embed=4", "learner.tree=[3,2]")),
    "cnp": ("embedding/", ("model.hidden=[784]", "learner.encoder=[784,784]", "learner.decoder=[784]")),
}


@pytest.mark.parametrize("learner", TWO)
def test_of_several_networks_the_one_that_is_meta_learned_is_taken_and_started(learner, tmp_path, monkeypatch):
    """The second one of `hierarchical` embeds images; those of `cnp` may have layers of the same widths."""
    place, overrides = TWO[learner]
    run, params, network = initial(learner, *overrides)
    maml, single, _ = initial("maml", *overrides[:1] if learner == "cnp" else ())
    (tmp_path / "config.yaml").write_text(to_yaml(run.config))
    monkeypatch.setattr(transfer, "saved", lambda *_: (jax.device_get(params), {}))
    found = start_from(maml.learner, single, tmp_path).taken
    assert found["dense0/kernel"] == f"{place}dense0/kernel"
    assert all(old == place + new for new, old in found.items())
    there = match(params, single, network)
    assert "dense0/kernel" in there.taken.values()
    assert all(new == place + old for new, old in there.taken.items())
    own = match(jax.tree.map(np.zeros_like, params), params, network, network)
    assert not own.left
    jax.tree.map(np.testing.assert_array_equal, own.params, params)


def test_a_start_from_a_learner_that_cannot_be_made_here_is_refused_in_one_line(tmp_path, monkeypatch):
    run, params, _ = initial("maml")
    config = run.config | {"learner": run.config["learner"] | {"_target_": "nobody.knows.Mine"}}
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    monkeypatch.setattr(transfer, "saved", lambda *_: (params, {}))
    with pytest.raises(
        ConfigError, match=r"^train\.init_from=\S+: its learner cannot be made here: learner\._target_="
    ):
        start_from(run.learner, params, tmp_path)


@pytest.mark.parametrize("learner", ["meta_sgd", "mamlpp", "cavia", "mann"])
def test_what_a_learner_keeps_beside_a_network_is_not_taken_for_weights_nor_lost(learner):
    _, params, ours = initial(learner)
    network = {"dense0": {"kernel": np.ones((784, 5)), "bias": np.ones(5)}, "head": {"bias": np.ones(5)}}
    other = {"net": network, "alpha": network, "maps": network}
    found = match(params, other, ours, "net/")
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    assert all(new.startswith("alpha/") == old.startswith("alpha/") for new, old in found.taken.items())
    assert not any(new.startswith("maps/") != old.startswith("maps/") for new, old in found.taken.items())
    assert found.taken[f"{ours}dense0/kernel"] == "net/dense0/kernel"
    # Of a run that has nothing but a network, nothing else is.
    taken = match(params, network, ours).taken
    assert f"{ours}dense0/kernel" in taken
    assert all(path.startswith(ours) for path in taken)
    # A run's own parameters are taken back whole.
    whole = match(jax.tree.map(np.zeros_like, params), jax.device_get(params), ours, ours)
    assert not whole.left
    jax.tree.map(np.testing.assert_array_equal, whole.params, params)


def test_moments_that_are_kept_are_no_weights_in_either_direction():
    theta = {"dense0": {"kernel": zeros(2, 3)}}
    kept = {"theta": theta, "adam": {"second": {"dense0": {"kernel": zeros(2, 3)}}, "steps": zeros()}}
    weights = {"dense0": {"kernel": zeros(2, 3)}}
    ours = network_of(run_of("learner=reptile", "learner.moments=kept").learner)
    assert match(weights, kept, network_of(run_of("learner=reptile").learner), ours).taken == {
        "dense0/kernel": "theta/dense0/kernel"
    }
    there = match(kept, {"dense0": {"kernel": np.full((2, 3), 5.0)}}, ours)
    assert there.taken == {"theta/dense0/kernel": "dense0/kernel"}
    assert set(there.left) == {"adam/second/dense0/kernel", "adam/steps"}
    assert len(match(kept, kept, ours, ours).taken) == 3  # a run of the same learner has them all
