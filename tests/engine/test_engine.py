"""Chunks and devices change nothing but the order of summation; calls may be cut anywhere."""

import dataclasses
from dataclasses import dataclass
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import run_of

from metarun import engine, inner
from metarun.core import ConfigError, Episode
from metarun.engine import evaluate
from metarun.engine.evaluate import Asked, make_evaluate, mean_and_interval, query_metrics
from metarun.engine.meta_step import make_meta_steps, make_start
from metarun.engine.net import make_net

RUN = run_of("task=sinusoid", "model.hidden=[8]", "learner.inner_steps=2")
NET = make_net(RUN.model, RUN.tasks, 1)
MAIN = Asked(after=0, inductive="none")


NUMBERS = {"learner": {}, "optimizer": {"learning_rate": 0.01}}
K_TRAIN, K_EVAL = engine.stream(0, engine.TRAIN), engine.stream(0, engine.EVAL)


def sgd(numbers):
    return optax.sgd(**numbers)


START = make_start(RUN.learner, NET, RUN.tasks, sgd)


def start():
    return START((), NUMBERS, engine.stream(0, engine.INIT))


@cache
def steps(devices: int, task_chunk: int):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("tasks",))
    program = make_meta_steps(RUN.learner, NET, RUN.tasks, sgd, mesh, 8, task_chunk, RUN.inner, RUN.train.guard)
    return lambda state, data, n: program(state, data, NUMBERS, K_TRAIN, n)[0]


@pytest.mark.parametrize(
    ("devices", "task_chunk"),
    [pytest.param(1, 1, marks=pytest.mark.slow), (1, 2), (2, 1), pytest.param(2, 4, marks=pytest.mark.slow)],
)
def test_devices_and_chunks_change_no_result(devices, task_chunk):
    expected = steps(1, 8)(start(), (), 3)
    got = steps(devices, task_chunk)(start(), (), 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_many_meta_steps_in_one_call_are_as_many_calls_bit_for_bit():
    meta_steps = steps(2, 2)
    whole = meta_steps(start(), (), 7)
    state = start()
    for n in (1, 4, 2):
        state = meta_steps(state, (), n)
    jax.tree.map(np.testing.assert_array_equal, whole, state)
    assert int(state.step) == 7


def test_a_meta_step_is_the_mean_gradient_over_the_sampled_tasks():
    """The compiled step against the same thing written out: sample, meta-gradient, update."""

    @jax.jit
    def written_out(params):
        key = jax.random.fold_in(engine.stream(0, engine.TRAIN), 0)
        k_episodes, k_adapts = jax.vmap(engine.task_key, (None, 0))(key, jnp.arange(8))
        episodes = jax.vmap(RUN.tasks.sample, (None, 0))((), k_episodes)
        grads, metrics = RUN.learner.meta_grad(NET, params, episodes, k_adapts, 0)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), metrics

    expected, metrics = written_out(start().params)
    after = steps(2, 2)(start(), (), 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.params, expected)
    np.testing.assert_allclose(after.sums["loss"], metrics["loss"], rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Told:
    """A learner whose metrics are what it is told: a number drawn by each task's key, and the meta-step."""

    def init(self, net, key, x):
        return {"w": jnp.zeros(1)}

    def meta_grad(self, net, params, episodes, keys, step):
        drawn = jax.vmap(jax.random.uniform)(keys)
        return params, {"loss": jnp.float32(0), "drawn": drawn.mean(), "step": jnp.float32(step)}


def test_a_learner_is_given_the_adaptations_keys_and_the_meta_step():
    mesh, numbers = Mesh(np.array(jax.devices()[:2]), ("tasks",)), {"learner": {}, "optimizer": NUMBERS["optimizer"]}
    state = make_start(Told(), NET, RUN.tasks, sgd)((), numbers, engine.stream(0, engine.INIT))
    program = make_meta_steps(Told(), NET, RUN.tasks, sgd, mesh, 8, 2, RUN.inner, RUN.train.guard)
    sums = jax.device_get(program(state, (), numbers, K_TRAIN, 3)[1].sums)
    assert sums["step"] == 0 + 1 + 2

    @jax.jit
    def drawn(step):
        key = jax.random.fold_in(engine.stream(0, engine.TRAIN), step)
        _, k_adapts = jax.vmap(engine.task_key, (None, 0))(key, jnp.arange(8))
        return jax.vmap(jax.random.uniform)(k_adapts)

    np.testing.assert_allclose(sums["drawn"], sum(np.mean(drawn(step)) for step in range(3)), rtol=1e-5)


def test_another_seed_is_another_initialisation():
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    one, same, other = (engine.first_state(RUN.shape, mesh, (), RUN.numbers, seed).params for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["head"]["kernel"], other["head"]["kernel"])


def test_whatever_the_model_computes_in_float32_comes_out():
    run = run_of("task=sinusoid", "model.hidden=[8]", "hardware.precision=bfloat16")
    net, x = make_net(run.model, run.tasks, 1), np.ones((2, 1), np.float32)
    for of in (net.apply, net.features):
        outputs = jax.eval_shape(lambda key, of=of: of(net.init(key, x), x), jax.random.key(0))
        assert outputs.dtype == jnp.float32


def test_every_task_of_a_run_is_another():
    """Keys of meta-steps, tasks and uses never coincide, nor do initialisation's, training's and evaluation's."""
    train = [jax.random.fold_in(engine.stream(0, engine.TRAIN), step) for step in range(3)]
    evaluation = engine.stream(0, engine.EVAL)
    keys = [k for key in (*train, evaluation) for index in range(4) for k in engine.task_key(key, index)]
    keys += list(jax.random.split(engine.stream(0, engine.INIT)))
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 4 * 4 * 2 + 2


@cache
def evaluation(devices: int, task_chunk: int):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("tasks",))
    made = make_evaluate(RUN.learner, NET, RUN.tasks, mesh, task_chunk, MAIN, RUN.inner)
    return lambda tasks, **how: made(start().params, (), tasks, K_EVAL, {}, **how)[0].figures


@pytest.mark.parametrize(("devices", "task_chunk"), [(1, 3), (2, 4)])
def test_evaluation_is_the_same_on_any_hardware_and_pads_nothing_in(devices, task_chunk):
    expected, got = evaluation(1, 1)(13), evaluation(devices, task_chunk)(13)
    for metric in expected:
        np.testing.assert_allclose(got[metric]["mean"], expected[metric]["mean"], rtol=1e-5)
        np.testing.assert_allclose(got[metric]["ci95"], expected[metric]["ci95"], rtol=1e-5)


def test_evaluation_after_other_inner_steps_is_that_learners():
    params, mesh = start().params, Mesh(np.array(jax.devices()[:1]), ("tasks",))
    asked = dataclasses.replace(MAIN, after=1)
    found = make_evaluate(RUN.learner, NET, RUN.tasks, mesh, 4, asked, RUN.inner)(params, (), 8, K_EVAL, {}, (5,))
    as_argument = found[1].figures
    other = run_of("task=sinusoid", "model.hidden=[8]", "learner.inner_steps=5").learner
    made = make_evaluate(other, NET, RUN.tasks, mesh, 4, MAIN, RUN.inner)
    as_learner = made(params, (), 8, K_EVAL, {})[0].figures
    np.testing.assert_allclose(as_argument["mse"]["mean"], as_learner["mse"]["mean"], rtol=1e-5)


def test_inductive_and_transductive_differ_only_by_the_company_a_query_keeps():
    """One query: alone with the support set, its prediction is that of a batch of support and query."""
    episode = ("task=sinusoid", "task.queries=1", "task.shots=3")
    run = run_of(*episode, "model=mlp", "model.norm=batch", "model.hidden=[8]")
    net = make_net(run.model, run.tasks, 1)
    squared = net._replace(loss=lambda outputs, y: (outputs.sum(), {"loss": outputs.sum()}))
    asked = dataclasses.replace(MAIN, inductive="main")

    @jax.jit
    def both(data):
        support, query, *_ = run.tasks.sample(data, jax.random.key(0))
        params = run.learner.init(net, jax.random.key(1), support.x)
        episode, steps = Episode(support, query), jnp.array([1])
        told = query_metrics(run.learner, squared, params, episode, None, steps, jnp.bool_(True), asked)
        fast = run.learner.adapt(squared, params, support, None)
        return told, net.apply(fast, jnp.concatenate([support.x, query.x]))[-1]

    told, together = jax.device_get(both(run.tasks.load("train")))
    np.testing.assert_allclose(told.inductive["loss"], together.sum(), rtol=1e-5)
    assert abs(told.metrics["loss"] - told.inductive["loss"]) > 1e-4


def test_fewer_ways_at_evaluation_leave_the_surplus_outputs_out():
    run = run_of("model=mlp", "model.hidden=[8]", "task.ways=4", "eval.task={ways: 3}".replace("eval", "++eval"))
    net = make_net(run.model, run.eval_tasks, run.eval_learner.width(run.eval_tasks.n_out))
    x = np.ones((2, 28, 28, 1), np.float32)
    params = jax.eval_shape(run.model.init, jax.random.key(0), x)["params"]
    assert params["head"]["kernel"].shape == (8, 4)
    assert jax.eval_shape(net.apply, params, x).shape == (2, 3)


def test_the_interval_is_1_96_standard_errors():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    figure = mean_and_interval(values)
    np.testing.assert_allclose(figure["mean"], values.mean())
    np.testing.assert_allclose(figure["ci95"], 1.96 * np.sqrt(((values - values.mean()) ** 2).sum() / 399 / 400))


def test_an_automatic_chunk_divides_the_tasks_and_is_small_for_large_episodes_on_a_cpu():
    hardware = RUN.hardware
    assert hardware.chunk(25, 20, "cpu") == 25
    assert hardware.chunk(16, 10 * 28 * 28, "cpu") == 4
    assert hardware.chunk(15, 100 * 84 * 84, "cpu") == 3
    assert hardware.chunk(15, 100 * 84 * 84, "gpu") == 15


def test_evaluation_takes_few_tasks_at_once_on_a_cpu_and_what_was_set_where_something_was():
    hardware = RUN.hardware
    assert hardware.chunk_of_evaluation(4, 10 * 28 * 28, "cpu") == 4
    assert hardware.chunk_of_evaluation(4, 20 * 28 * 28, "cpu") == 2
    assert hardware.chunk_of_evaluation(4, 100 * 84 * 84, "cpu") == 1
    assert hardware.chunk_of_evaluation(4, 20, "cpu") == 64
    assert [hardware.chunk_of_evaluation(n, 100 * 84 * 84, "gpu") for n in (4, 100)] == [64, 100]
    assert dataclasses.replace(hardware, task_chunk=3).chunk_of_evaluation(4, 20, "cpu") == 3


def test_a_fast_evaluation_asks_for_no_more_at_a_time_than_has_its_place(monkeypatch):
    asked_for, of_three = [], []
    monkeypatch.setattr(evaluate, "SECONDS_BETWEEN_PAUSES", 1e6)
    expected = evaluation(1, 1)(11, pause=asked_for.append)
    assert asked_for == [1, 11]
    monkeypatch.setattr(evaluate, "CHUNKS_AT_ONCE", 3)
    assert evaluation.__wrapped__(1, 1)(11, pause=of_three.append) == expected
    assert of_three == [1, 4, 7, 10, 11]


@pytest.mark.parametrize(
    "overrides",
    [
        ("learner=protonet", "++eval.learner.learn_temperature=true"),
        ("learner=mamlpp", "++eval.learner.learn_inner_lr=false"),
        ("learner=lstm", "++eval.learner.units=7"),
        ("learner=hierarchical", "++eval.learner.tree=[6,2]"),  # which would compute with those of [4, 2]
    ],
)
def test_evaluation_may_not_change_what_is_learned(overrides):
    run = run_of("model=mlp", "model.hidden=[8]", *overrides)
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    data = run.tasks.load("train")
    shapes = engine.check_shapes(run.learner, net, run.tasks, data)
    engine.check_shapes(run.learner, net, run.tasks, data, shapes)
    with pytest.raises(ConfigError, match="they change what is learned"):
        engine.check_shapes(run.eval_learner, net, run.tasks, data, shapes)


def test_evaluation_may_take_more_steps_than_what_is_learned_has_rows_for():
    run = run_of("model=mlp", "model.hidden=[8]", "learner=mamlpp", "++eval.learner.inner_steps=9")
    net = make_net(run.model, run.tasks, run.learner.width(run.tasks.n_out))
    data = run.tasks.load("train")
    shapes = engine.check_shapes(run.learner, net, run.tasks, data)
    found = engine.check_shapes(run.eval_learner, net, run.tasks, data, shapes)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes)


class Own(nn.Module):
    """A user's model that is not what a model is, as `how` says."""

    how: str
    n_out: int | None

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        if self.how == "statistics":
            x = nn.BatchNorm(use_running_average=False)(x)
        if self.how == "an integer":
            x = x * self.param("shift", lambda key: jnp.int32(3))
        if self.how == "a slash":
            x = x * self.param("shift/scale", nn.initializers.ones, ())
        if self.how == "chance":
            x = nn.Dropout(0.5, deterministic=False)(x)
        if self.how == "a count":
            x = x + self.variable("counts", "seen", lambda: jnp.zeros(())).value
        x = nn.Dense(4)(x)
        if self.n_out is not None:
            x = nn.Dense(self.n_out, name="last" if self.how == "no head" else "head")(x)
        return {"a tuple": (x, x), "maps": x[:, None], "one row": x[:1]}.get(self.how, x)


@pytest.mark.parametrize(
    ("how", "learner", "said"),
    [
        ("a tuple", "maml", "model=Own: gives a tuple where outputs are an array (5, d), a row for each input"),
        ("maps", "protonet", "model=Own: gives (20, 1, 4) where features, which it gives where n_out is None, are"),
        ("one row", "maml", "model=Own: gives (1, 5) where outputs are an array (5, d), a row for each input"),
        (
            "statistics",
            "maml",
            "model=Own: keeps running statistics, and models here have no state; use metarun.models",
        ),
        ("a slash", "protonet", "model=Own: has the parameter shift/scale with a slash in a name; give it"),
        ("chance", "maml", "model=Own: needs random numbers, as Dropout does, and models here are functions of"),
        ("a count", "protonet", "model=Own: needs variables of its own, and models here are functions of"),
        ("an integer", "maml", "model=Own: has the parameter shift of int32; only floats can be learned"),
        ("no head", "anil", "model=(Dense_0, last): needs a last layer named head, which anil adapts"),
        (
            "no head",
            "finetune",
            "model=(Dense_0, last): needs a last layer named head, which finetune with adapts=head",
        ),
    ],
)
def test_a_model_that_breaks_its_contract_is_refused_in_a_line_before_training(how, learner, said):
    run = run_of(f"learner={learner}", "task.pool=20")
    net = make_net(Own(how, run.learner.width(5)), run.tasks, run.learner.width(5))
    with pytest.raises(ConfigError) as refused:
        engine.check_shapes(run.learner, net, run.tasks, run.tasks.load("train"))
    assert str(refused.value).startswith(said)


def test_a_model_that_asks_for_more_than_inputs_is_refused_in_a_line():
    class Modal(Own):
        @nn.compact
        def __call__(self, x, train, scale=1.0, *rest, **more):
            return super().__call__(scale * x)

    with pytest.raises(ConfigError, match=r"^model=Modal: is called with its inputs alone, and asks for train as"):
        make_net(Modal("", 5), RUN.tasks, 5)


@pytest.mark.parametrize(
    ("task", "dtype", "said"),
    [
        ("sinusoid", "int32", "task=Sinusoid: gives support.y (10, 1) of int32, and targets (n, d) are float32"),
        ("sinusoid", "bfloat16", "task=Sinusoid: gives support.y (10, 1) of bfloat16, and targets (n, d) are float32"),
        ("strokes", "float32", "task=Strokes: gives support.y (5,) of float32, and labels (n,) are int32"),
        ("strokes", "uint8", None),
        ("sinusoid", "float16", None),
    ],
)
def test_answers_of_a_kind_that_a_test_cannot_be_told_of_are_refused_before_training(task, dtype, said, monkeypatch):
    run = run_of(f"task={task}", "model=mlp", "model.hidden=[8]")
    net = make_net(run.model, run.tasks, run.tasks.n_out)
    sample = type(run.tasks).sample

    def other(self, data, key):
        episode = sample(self, data, key)
        parts = (batch._replace(y=batch.y.astype(dtype)) for batch in (episode.support, episode.query))
        return Episode(*parts, *episode[2:])

    monkeypatch.setattr(type(run.tasks), "sample", other)
    engine.check_shapes.__globals__["_fitting"].cache_clear()
    if said is None:
        engine.check_shapes(run.learner, net, run.tasks, run.tasks.load("train"))
        return
    with pytest.raises(ConfigError) as refused:
        engine.check_shapes(run.learner, net, run.tasks, run.tasks.load("train"))
    assert str(refused.value) == said


@dataclass(frozen=True)
class Looping:
    """A user's learner that has a field `inner_steps`, and loops over it as `how` says."""

    inner_steps: int
    how: str

    def init(self, net, key, x):
        return net.init(key, x)

    def adapt(self, net, params, support, key):
        def step(_, params):
            return jax.tree.map(lambda leaf: 0.9 * leaf, params)

        if self.how == "a Python loop":
            for i in range(self.inner_steps):
                params = step(i, params)
            return params
        if self.how == "a shape":
            return step(jnp.zeros(self.inner_steps), params)
        if self.how == "a condition":
            return params if self.inner_steps == 0 else step(0, params)
        return inner.loop(self.inner_steps, step, params)

    def predict(self, net, fast, x):
        return net.apply(fast, x)


@pytest.mark.parametrize("how", ["a Python loop", "a shape", "a condition", "inner.loop"])
def test_inner_steps_that_evaluation_cannot_trace_are_refused_before_training(how):
    learner, data = Looping(3, how), RUN.tasks.load("train")
    net = make_net(RUN.model, RUN.tasks, RUN.tasks.n_out)
    shapes = engine.check_shapes(learner, net, RUN.tasks, data)
    if how == "inner.loop":
        engine.check_shapes(learner, net, RUN.tasks, data, shapes)
        return
    with pytest.raises(ConfigError, match=r"^learner\.inner_steps=3: .*Looping.*metarun\.inner\.loop") as refused:
        engine.check_shapes(learner, net, RUN.tasks, data, shapes)
    assert "\n" not in str(refused.value)
