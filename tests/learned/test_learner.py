"""A learner in use: its predictions are those of the evaluation, whatever its labels are called."""

import dataclasses
import re
from enum import Enum
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from blobs import Blobs
from support import GIVEN, composed, drawn_like, no_meta_steps, on_blobs, run_in

import metarun
from metarun import engine, losses
from metarun.config.learned import parts
from metarun.config.run import Run, build_run
from metarun.core import Batch, ConfigError, Episode, Key, Measured, Tasks
from metarun.data import Image
from metarun.engine import EVAL, stream, task_key
from metarun.learned import Learned, load, loaded
from metarun.learned.examples import as_inputs, as_targets
from metarun.learned.programs import SIZES, filled, made, net_of, numbers, programs
from metarun.run import purpose, train

QUICK = ("maml", "protonet", "mann", "cnp")  # make slow takes them all


def learned_of(run: Run) -> Learned:
    """A learner with small numbers of its parameters' shapes: nothing is compiled for it."""
    net, data = engine.nets(run.shape)[0], run.tasks.load("train")
    x = jax.eval_shape(run.tasks.sample, data, jax.random.key(0)).support.x
    params = drawn_like(lambda: run.learner.init(net, jax.random.key(1), jnp.zeros_like(x)))
    return Learned(run.config, purpose.purpose_of(run.tasks, data), jax.tree.map(lambda leaf: leaf / 4, params), {})


@cache
def on_blobs_learned(*overrides: str) -> Learned:
    """What is learned of blobs, for all tests that ask for it so."""
    return learned_of(build_run(on_blobs(*overrides)))


def evaluated(run: Run, learned: Learned, tasks: int) -> np.ndarray:
    """The outputs (tasks, queries, n_out) of the evaluation."""
    run = dataclasses.replace(run, eval=dataclasses.replace(run.eval, inner_steps=()))
    mesh = run.hardware.set_up(run.train.meta_batch)
    data = engine.held("device", {"eval": (run.eval_tasks, run.eval_tasks.load("test"))}, mesh)["eval"]
    evaluate = engine.programs(run.shape, mesh, 1).evaluate
    params, numbers = engine.placed(learned.params, mesh), run.numbers["eval_learner"]
    return evaluate(params, data, tasks, stream(run.eval.seed, EVAL), numbers)[0].answers.outputs


@partial(jax.jit, static_argnums=(0, 1))
def episode(tasks: Tasks, seed: int, index: np.int32) -> tuple[Episode, Key, Key]:
    """One of the test's, and the key that it is adapted to by: a learner that is measured has half of it."""
    k_episode, k_adapt = task_key(stream(seed, EVAL), index)
    return tasks.sample(tasks.load("test"), k_episode), k_adapt, jax.random.split(k_adapt)[0]


@pytest.mark.parametrize(("precision", "products"), [("float32", "HIGHEST"), ("tf32", "HIGH")])
@pytest.mark.parametrize("model", [("filters=8",), ("filters=32", "downsample=max_pool")])  # these multiply less
def test_its_products_are_as_precise_as_the_runs_whatever_the_process_has_set(precision, products, model):
    """Left to themselves a GPU's are tf32, and a TPU's bfloat16: also those made of what is lowered later."""
    model = ("model=conv4", "model.norm=layer", *(f"model.{setting}" for setting in model))
    of = parts(composed("learner=maml", "task=strokes", *model, f"hardware.precision={precision}"), 3, "accuracy")
    its, net, key = programs(made(of, 3, True)), net_of(made(of, 3, True)), jax.random.key(0)
    x, support = np.zeros((3, 28, 28, 1), np.float32), Batch(np.zeros((3, 28, 28, 1), np.float32), np.arange(3))
    params = jax.eval_shape(lambda key: of.learner.init(net, key, x), key)
    with jax.default_matmul_precision(None):
        given = {"adapt": (params, support, key, numbers(of.learner, None))}
        fast = jax.eval_shape(its.adapt.jitted, *given["adapt"])
        given |= {"predict": (fast, x, given["adapt"][-1]), "alone": (fast, x, x, given["adapt"][-1])}
        for name, arguments in given.items():
            text = getattr(its, name).jitted.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
            assert set(re.findall(r"precision = \[(\w+), \w+\]", text)) == {products}
            assert text.count("stablehlo.dot_general") == text.count("precision = [") > 3


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GIVEN]
)
def test_it_predicts_what_the_evaluation_does_whatever_the_labels_are_called(name):
    run = build_run(on_blobs(f"learner={name}", "hardware.devices=1"))
    learned = learned_of(run)
    outputs = evaluated(run, learned, 2)
    for index in range(2):
        (support, query, *_), *keys = episode(run.eval_tasks, run.eval.seed, np.int32(index))
        k_adapt = keys[isinstance(run.learner, Measured)]
        names = np.array(["ant", "bee", "cow"])
        adapted = learned.adapt(support.x, names[support.y], seed=k_adapt)
        for queries in ("alone", "together"):
            np.testing.assert_allclose(adapted.outputs(query.x, queries), outputs[index], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(adapted.predict(query.x), names[outputs[index].argmax(-1)])
        wanted = scipy.special.softmax(outputs[index], axis=-1)
        np.testing.assert_allclose(adapted.predict_proba(query.x), wanted, atol=1e-5)


class Silent(nn.Module):
    """A user's model that normalises by its batch, and does not say so."""

    n_out: int | None

    @nn.compact
    def __call__(self, x):
        z = nn.relu(x - x.mean(0, keepdims=True))
        return z if self.n_out is None else nn.Dense(self.n_out, name="head")(z)


def test_a_model_that_does_not_say_what_its_outputs_depend_on_has_figures_of_each_query_alone(monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", f"blobs,{__name__}")
    run = build_run(on_blobs("learner=protonet") | {"model": {"_target_": f"{__name__}.Silent"}})
    assert run.asked.inductive == run.eval.inductive != "none"
    (support, query, *_), *_ = episode(run.eval_tasks, 7, np.int32(0))
    adapted = learned_of(run).adapt(support.x, support.y)
    every, one = (adapted.outputs(x, "alone") for x in (query.x, query.x[:1]))
    np.testing.assert_allclose(every[:1], one, atol=1e-5)
    assert not np.allclose(every, adapted.outputs(query.x, "together"), atol=1e-2)


@dataclasses.dataclass(frozen=True)
class Smoothed(Blobs):
    """A user's tasks, whose loss is by their settings."""

    smoothing: float

    def loss(self, outputs, y):
        return losses.smoothed(losses.cross_entropy, self.smoothing)(outputs, y)


def test_it_adapts_by_the_loss_of_the_evaluations_tasks(monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", f"blobs,{__name__}")
    values = on_blobs("learner=maml", "hardware.devices=1", "++eval.task.smoothing=0.5")
    values["task"] |= {"_target_": f"{__name__}.Smoothed", "smoothing": 0.0}
    run = build_run(values)
    learned = learned_of(run)
    (support, query, *_), *_ = episode(run.eval_tasks, run.eval.seed, np.int32(0))
    outputs = learned.adapt(support.x, support.y).outputs(query.x)
    np.testing.assert_allclose(outputs, evaluated(run, learned, 2)[0], rtol=1e-5, atol=1e-5)


def test_a_query_alone_has_the_support_set_for_company_and_together_all_the_others():
    run = build_run(on_blobs("learner=protonet", "model.norm=batch"))
    learned = learned_of(run)
    net = engine.net_for(run.model, None, run.tasks.loss, 3, True)
    (support, query, *_), *_ = episode(run.eval_tasks, 7, np.int32(0))
    adapted = learned.adapt(support.x, support.y)

    @jax.jit
    def predicted(params, x):
        fast = run.learner.adapt(net, params, support, jax.random.key(0))
        return run.learner.predict(net, fast, x)

    support_x, some = (np.asarray(x) for x in (support.x, query.x[:3]))
    np.testing.assert_allclose(adapted.outputs(some, "together"), predicted(learned.params, some), atol=1e-4)
    alone = [predicted(learned.params, np.concatenate([support_x, x[None]]))[-1] for x in some]
    np.testing.assert_allclose(adapted.outputs(some), alone, atol=1e-4)
    assert not np.allclose(adapted.outputs(some), adapted.outputs(some, "together"), atol=1e-2)
    np.testing.assert_allclose(adapted.outputs(some[:1]), adapted.outputs(some)[:1], atol=1e-5)


def test_ways_are_the_users_own_and_a_trained_head_has_only_so_many():
    free, fixed = (on_blobs_learned(f"learner={name}") for name in ("protonet", "maml"))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    seven = free.adapt(x, [3, 1, 4, 1, 5, 9, 2, 6])
    np.testing.assert_array_equal(seven.classes, [1, 2, 3, 4, 5, 6, 9])
    assert seven.predict_proba(x).shape == (8, 7)
    two = fixed.adapt(x[:3], ["b", "a", "b"])
    assert two.predict_proba(x).shape == (8, 2)
    with pytest.raises(ConfigError, match="y=4 classes: at most 3: MAML was trained with so many outputs"):
        fixed.adapt(x[:4], [0, 1, 2, 3])
    with pytest.raises(ConfigError, match="y=1 class: at least two"):
        free.adapt(x[:2], [7, 7])


def test_inner_steps_are_the_learners_own_or_what_is_asked_for():
    learned = on_blobs_learned("learner=maml", "learner.inner_steps=3")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    own, three, none = (learned.adapt(x, [0, 1, 2], inner_steps=n) for n in (None, 3, 0))
    np.testing.assert_array_equal(own.outputs(x), three.outputs(x))
    jax.tree.map(np.testing.assert_array_equal, none.fast, learned.params)
    other = on_blobs_learned("learner=protonet")
    with pytest.raises(ConfigError, match="inner_steps=2: ProtoNet takes none"):
        other.adapt(x, [0, 1, 2], inner_steps=2)
    for given in (2.5, -1, 2**31, "3"):
        with pytest.raises(ConfigError, match=f"inner_steps={given}: must be a whole number from 0 to 2,147,483,647"):
            learned.adapt(x, [0, 1, 2], inner_steps=given)
    by_numpy = learned.adapt(x, [0, 1, 2], inner_steps=np.int64(3), seed=np.int64(0))
    np.testing.assert_array_equal(by_numpy.outputs(x), three.outputs(x))


def test_a_seed_is_a_whole_number_or_a_key():
    learned = on_blobs_learned("learner=mann")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    by_number, *by_keys = (
        learned.adapt(x, [0, 1, 2], seed=one) for one in (5, jax.random.key(5), jax.random.PRNGKey(5))
    )
    for one in by_keys:
        np.testing.assert_array_equal(one.outputs(x), by_number.outputs(x))
    keys = jax.random.split(jax.random.key(0))
    for given in (2**64, 2**32, -1, 1.5, None, "5", np.random.RandomState(0), jnp.uint32(5), keys):
        with pytest.raises(ConfigError, match=r"seed=.*: must be a whole number from 0 to 4,294,967,295") as told:
            learned.adapt(x, [0, 1, 2], seed=given)
        assert "\n" not in str(told.value)


def test_a_new_number_of_queries_is_one_of_a_few_sizes():
    for n in range(1, 200):
        x = np.arange(n)
        parts = filled(x)
        assert all(len(part) in SIZES for part, _ in parts)
        np.testing.assert_array_equal(np.concatenate([part[:own] for part, own in parts]), x)
        assert sum(len(part) for part, _ in parts) <= 2 * n


Colour = Enum("Colour", "RED BLUE")


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((2, 5)), [0, 1], r"x=an array \(2, 5\): must be \(n, 4\), as in training"),
        (np.full((2, 4), np.nan), [0, 1], r"x=row 0: holds what is no finite number \(so do 2 of 2 rows\)"),
        (np.zeros((0, 4)), [], "x=an array without rows"),
        ([[1], [1, 2]], [0, 1], "x=rows of different shapes: must be an array, whose rows are of one shape"),
        (np.zeros((2, 4)), [[1], [1, 2]], "y=rows of different shapes: must be an array"),
        (np.zeros((2, 4)), np.array([None, (1,), (1, 2)], object)[1:], "y=rows of different shapes: must be an array"),
        (np.array([["a"] * 4] * 2), [0, 1], r"x=an array of <U1: must be real numbers \(n, 4\)"),
        (np.full((2, 4), 1 + 2j), [0, 1], r"x=an array of complex128: must be real numbers \(n, 4\)"),
        (np.zeros((2, 4)), [0, 1, 2], r"y=an array \(3,\): must be \(2,\), a label for each row of x"),
        (np.zeros((2, 4)), [0.5, np.nan], "y=nan: is no label"),
        (np.zeros((2, 4)), np.array(["a", 1], object), r"y=labels of several kinds \(int, str\)"),
        (np.zeros((2, 4)), ["a", 1], r"y=labels of several kinds \(int, str\)"),
        (np.zeros((2, 4)), np.array(["2026-01-01", "NaT"], "datetime64[D]"), "y=NaT: is no label"),
        (np.zeros((2, 4)), [None] * 2, "y=None: is no label but a NoneType; labels are text, numbers"),
        (np.zeros((2, 4)), list(Colour), r"y=Colour.RED: is no label but a Colour; labels are text"),
        (np.zeros((2, 4)), [frozenset("a"), frozenset("b")], "is no label but a frozenset; labels are text"),
    ],
)
def test_a_mistake_is_one_line(x, y, said):
    learned = on_blobs_learned("learner=protonet")
    with pytest.raises(ConfigError, match=said):
        learned.adapt(x, y)


OF_INTEGERS = purpose.Purpose((2,), "int32", "accuracy", 2, None)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([[3, 4], [0.7, 1.9]], "x=0.7 in row 1: must be whole numbers from -2,147,483,648 to 2,147,483,647, as in"),
        ([[3, 2**40 + 1]], "x=1099511627777 in row 0: must be whole numbers from -2,147,483,648 to"),
        (np.array([[3, 2**64 - 1]], np.uint64), "x=18446744073709551615 in row 0: must be whole numbers from"),
        ([[1e300, 0.0]], r"x=1e\+300 in row 0: must be whole numbers from"),
        ([[3, 4], [np.nan, 1]], r"x=row 1: holds what is no finite number \(so do 1 of 2 rows\)"),
        ([[-np.inf, 1]], r"x=row 0: holds what is no finite number \(so do 1 of 1 rows\)"),
    ],
)
def test_what_learned_from_integers_is_given_no_others_in_silence(x, said):
    with pytest.raises(ConfigError, match=said):
        as_inputs("x", x, OF_INTEGERS)


def test_what_learned_from_truth_values_is_given_no_others_in_silence():
    of_truth_values = purpose.Purpose((2,), "bool", "accuracy", 2, None)
    assert as_inputs("x", [[1.0, 0.0]], of_truth_values).tolist() == [[True, False]]
    with pytest.raises(
        ConfigError, match=r"x=0\.2 in row 1: must be whole numbers from 0 to 1, as in training \(bool\)"
    ):
        as_inputs("x", [[0.0, 1.0], [0.2, 1.0]], of_truth_values)


def test_whole_numbers_are_integers_whatever_their_type():
    extremes = [[-(2**31), 2**31 - 1]]
    for dtype in (np.float64, np.int64, np.int32):
        found = as_inputs("x", np.array(extremes, dtype), OF_INTEGERS)
        assert (found.dtype, found.tolist()) == (np.int32, extremes)
    assert as_inputs("x", np.array([[200, 7]], np.uint8), OF_INTEGERS).tolist() == [[200, 7]]


def test_targets_are_real_numbers():
    with pytest.raises(ConfigError, match="y=an array of complex128: must be real numbers: the run's task is a regr"):
        as_targets([1j, 2.0], 2, 1)
    with pytest.raises(ConfigError, match="y=rows of different shapes: must be an array"):
        as_targets([[1.0], [1.0, 2.0]], 2, 1)


def test_images_that_are_neither_bytes_nor_from_0_to_1_are_refused():
    """As PIL and torch may give them: taken for numbers they would be 255 times too bright."""
    of_images = purpose.Purpose((4, 4, 1), "float32", "accuracy", 3, None)
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    np.testing.assert_allclose(as_inputs("x", pixels, of_images), pixels / 255, rtol=1e-6)
    with pytest.raises(
        ConfigError, match=r"x=an array of int64 up to 31: images are bytes \(uint8\), or numbers from 0"
    ):
        as_inputs("x", pixels.astype(np.int64), of_images)
    of_files = of_images._replace(prepares=Image(side=4, colour="grey", fit="crop", invert=False))
    with pytest.raises(ConfigError, match=r"x=an array of float64 up to 31: images are bytes \(uint8\), or numbers"):
        as_inputs("x", pixels.astype(float), of_files)
    for black_or_white in (np.eye(4, dtype=int)[None, :, :, None], np.ones((1, 4, 4, 1), bool)):
        np.testing.assert_array_equal(as_inputs("x", black_or_white, of_images), black_or_white)


def test_standard_deviations_are_of_learners_that_have_them_and_the_queries_company_changes_them_too():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 1)).astype(np.float32)
    model = "model=mlp", "model.hidden=[8]", "model.norm=batch"
    adapted = learned_of(build_run(composed("task=sinusoid", "learner=cnp", *model))).adapt(x, y)
    alone, together = (adapted.predict(x[:3], queries, return_std=True) for queries in ("alone", "together"))
    for (mean, sd), queries in ((alone, "alone"), (together, "together")):
        np.testing.assert_array_equal(mean, adapted.predict(x[:3], queries))
        assert (sd > 0.1).all()  # its min_sigma
    assert not np.allclose(alone[1], together[1], rtol=1e-3)
    np.testing.assert_allclose(adapted.predict(x[1:2], return_std=True)[1], alone[1][1:2], rtol=1e-5)
    waves = learned_of(build_run(composed("task=sinusoid", "learner=maml", "model.hidden=[8]")))
    for other, what in ((waves, "MAML"), (on_blobs_learned("learner=cnp"), "a classification")):
        adapted = other.adapt(np.zeros((2, *other.purpose.shape)), [0, 1])
        with pytest.raises(ConfigError, match=f"return_std=True: {what} has no standard deviations of targets"):
            adapted.predict(np.zeros((2, *other.purpose.shape)), return_std=True)


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """A finished run on sine waves."""
    directory = tmp_path_factory.mktemp("waves") / "run"
    with no_meta_steps():
        train.train(run_in(directory, "learner=maml", "train.steps=4", "eval.inner_steps=[0]"))
    return directory


def test_a_finished_run_answers_as_its_test_did_and_needs_no_data(waves, monkeypatch):
    kept = np.load(waves / "examples.npz")
    monkeypatch.setattr(loaded, "from_its_data", lambda config: pytest.fail("looked for the data"))
    learned = metarun.load(waves)
    endless = ["continuum", None]
    assert learned.purpose == purpose.Purpose((1,), "float32", "mse", 1, None, {"train": endless, "val": endless})
    for i in range(2):
        adapted = learned.adapt(kept["support_x"][i], kept["support_y"][i])
        np.testing.assert_allclose(adapted.predict(kept["query_x"][i]), kept["outputs"][i], rtol=1e-5, atol=1e-5)
        before = learned.adapt(kept["support_x"][i], kept["support_y"][i], inner_steps=0)
        np.testing.assert_allclose(before.predict(kept["query_x"][i]), kept["before"][i], rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match=r"y=an array \(10, 3\): must be \(10, 1\), targets of each row of x"):
        learned.adapt(kept["support_x"][0], np.zeros((10, 3)))


def test_a_run_of_an_earlier_version_tells_by_its_data_what_it_is_for(waves):
    told = purpose.read(waves)
    (waves / purpose.FILE).unlink()
    assert load(waves).purpose == told._replace(data=None)


def test_a_purpose_is_read_as_it_was_written():
    for task in ("strokes", "sinusoid"):
        run = build_run(composed(f"task={task}"))
        one = purpose.purpose_of(run.tasks, run.tasks.load("train"))
        assert purpose.of_json(purpose.as_json(one)) == one


def test_inner_loops_are_clipped_as_in_training():
    """An inner gradient that is clipped to nothing moves nothing."""
    learned = on_blobs_learned("learner=maml", "inner.clip_norm=1e-30")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    adapted = learned.adapt(x, [0, 1, 2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), adapted.fast, learned.params)
