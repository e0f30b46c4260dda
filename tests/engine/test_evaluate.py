"""Evaluation against its definition, written out task by task."""

import dataclasses
from collections import Counter
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import classifier, drawn_like, learners_with, on_blobs, one_of, run_of

from metarun import engine, inner
from metarun.config.run import build_run
from metarun.core import Measured
from metarun.engine.evaluate import Asked, make_evaluate, queries_at_once, query_metrics
from metarun.engine.meta_step import make_meta_steps, make_start
from metarun.engine.net import make_net
from metarun.gradients import Inner, differentiated

RUN = build_run(on_blobs("learner.inner_steps=2", "learner.inner_lr=0.5", "learner.inner_loss=mean"))


def in_company(net):
    """A net whose predictions are of all examples together, as with batch norm."""

    def centred(x):
        return x - x.mean(0, keepdims=True)

    return net._replace(
        apply=lambda params, x: net.apply(params, centred(x)),
        features=lambda params, x: net.features(params, centred(x)),
    )


NET = in_company(classifier(3, n_classes=20))
TASKS = 7
MAIN = Asked(after=0, inductive="none")


@pytest.fixture(scope="module")
def drawn():
    """Parameters, the data, and the first tasks of an evaluation, drawn by their keys."""
    data = RUN.tasks.load("test")

    @jax.jit
    def begun(data):
        k_episodes, _ = jax.vmap(engine.task_key, (None, 0))(engine.stream(3, engine.EVAL), jnp.arange(TASKS))
        episodes = jax.vmap(RUN.tasks.sample, (None, 0))(data, k_episodes)
        return NET.init(jax.random.key(1), np.zeros((1, 4))), data, episodes

    return jax.device_get(begun(data))


@lru_cache
def of_two_devices():
    mesh, asked = Mesh(np.array(jax.devices()[:2]), ("tasks",)), Asked(after=2, inductive="all")
    return make_evaluate(RUN.learner, NET, RUN.tasks, mesh, 2, asked, RUN.inner), asked


def alone(learner, episode, asked, steps, params, net=NET, key=None, whole=True):
    """What one task tells, computed by itself, after `steps` inner steps."""
    return jax.device_get(compiled(learner, asked, net)(params, episode, key, np.array(steps), whole))


@lru_cache
def compiled(learner, asked, net):
    return jax.jit(lambda *given: query_metrics(learner, net, *given, asked))


def test_an_evaluation_is_every_tasks_metrics_one_by_one(drawn):
    """Chunks of two tasks on two devices against a loop in Python: means, intervals, answers, in the tasks' order."""
    params, data, episodes = drawn
    evaluate, asked = of_two_devices()
    evaluations = evaluate(params, data, TASKS, engine.stream(3, engine.EVAL), {}, (4, 0))

    for after, (figures, answers) in zip((2, 4, 0), evaluations, strict=True):
        found = [alone(RUN.learner, one_of(episodes, i), asked, [after], params) for i in range(TASKS)]
        assert {"loss", "accuracy", "loss_inductive", "accuracy_inductive"} == figures.keys()
        for name, figure in figures.items():
            metric, inductive, _ = name.partition("_inductive")
            told = [task.inductive if inductive else task.metrics for task in found]
            values = np.array([metrics[metric][0] for metrics in told], np.float64)
            np.testing.assert_allclose(figure["mean"], values.mean(), rtol=1e-4, err_msg=name)
            expected = 1.96 * values.std(ddof=1) / np.sqrt(TASKS)
            np.testing.assert_allclose(figure["ci95"], expected, rtol=1e-3, err_msg=name)
            np.testing.assert_allclose(answers.metrics[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(answers.outputs, [task.outputs[0] for task in found], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(answers.y, episodes.query.y)
        np.testing.assert_array_equal(answers.classes, episodes.classes)
    assert len({row.tobytes() for row in np.asarray(answers.classes)}) == TASKS


def test_a_tasks_metrics_are_those_of_its_query_set_after_its_own_support_set(drawn):
    """Two steps of descent on the support set by hand, then the loss of the queries: together, and each alone."""
    params, _, episodes = drawn
    support, query, *_ = one_of(episodes)

    @jax.jit
    def by_hand(params):
        theta = params
        for _ in range(2):
            grads = jax.grad(lambda theta: NET.loss(NET.apply(theta, support.x), support.y)[0])(theta)
            theta = jax.tree.map(lambda p, g: p - 0.5 * g, theta, grads)
        alone = [NET.apply(theta, jnp.concatenate([support.x, x[None]]))[-1] for x in query.x]
        together, alone = NET.apply(theta, query.x), jnp.stack(alone)
        return together, *(NET.loss(outputs, query.y)[0] for outputs in (together, alone))

    together, loss, loss_alone = by_hand(params)
    told = alone(RUN.learner, one_of(episodes), Asked(0, "main"), [2], params)
    np.testing.assert_allclose(told.outputs[0], together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told.metrics["loss"][0], loss, rtol=1e-4)
    np.testing.assert_allclose(told.inductive["loss"][0], loss_alone, rtol=1e-4)
    assert abs(told.metrics["loss"][0] - told.inductive["loss"][0]) > 1e-3


@pytest.mark.parametrize("inductive", ["main", "all"])
def test_what_a_program_repeats_is_traced_once(drawn, monkeypatch, inductive):
    """A start waits for it: seconds, of learners that differentiate through many inner steps."""
    params, data, _ = drawn
    kind, traced = type(RUN.learner), Counter()

    def count(name, own):
        def counted(*given):
            traced[name] += 1
            return own(*given)

        monkeypatch.setattr(kind, name, counted)

    for name in ("adapt", "predict", "meta_grad"):
        count(name, getattr(kind, name))
    mesh = Mesh(np.array(jax.devices()[:2]), ("tasks",))
    evaluate = make_evaluate(RUN.learner, NET, RUN.tasks, mesh, 2, Asked(2, inductive), RUN.inner)
    k_eval, k_train = (engine.stream(3, which) for which in (engine.EVAL, engine.TRAIN))
    jax.eval_shape(evaluate.program.jitted, *evaluate.arguments(params, data, k_eval, {}, (4, 0)))
    assert traced == {"adapt": 1, "predict": 2}  # of all queries together, and of each alone

    how = RUN.learner, NET, RUN.tasks, lambda _: optax.sgd(0.1)
    numbers = {"learner": {}, "optimizer": {}}
    state = jax.eval_shape(make_start(*how).jitted, data, numbers, k_train)
    meta_steps = make_meta_steps(*how, mesh, 8, 2, RUN.inner, RUN.train.guard)
    traced.clear()
    jax.eval_shape(meta_steps.jitted, state, data, numbers, k_train, np.int32(1))
    assert traced["meta_grad"] == 1


@dataclasses.dataclass(frozen=True)
class Still(type(RUN.learner)):
    """Stays as it is: quick to compile."""

    def adapt(self, net, params, support, key):
        return params


def test_inductive_figures_are_told_where_they_are_asked_for(drawn):
    params, data, _ = drawn
    learner = Still(**vars(RUN.learner))
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    for inductive, where in {"main": [True, False], "all": [True, True], "none": [False, False]}.items():
        asked = Asked(after=1, inductive=inductive)
        evaluate = make_evaluate(learner, NET, RUN.tasks, mesh, 1, asked, RUN.inner)
        found = evaluate(params, data, 2, engine.stream(3, engine.EVAL), {}, (1,))
        assert ["loss_inductive" in one.figures for one in found] == where
    run = build_run(on_blobs("model.norm=batch", "eval.inductive=all"))
    assert run.asked.inductive == "all"
    assert build_run(on_blobs("model.norm=none", "eval.inductive=all")).asked.inductive == "none"


QUICK = ("maml", "reptile", "cavia")  # of each way to adapt one: make slow takes all


@pytest.mark.parametrize(
    "learner",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in learners_with("inner_steps")],
)
def test_one_adaptation_tells_after_each_number_of_inner_steps_what_an_adaptation_of_its_own_does(learner):
    # Adam divides by the gradient's size: rounding, where that is next to nothing.
    sgd = ("learner.inner_optimizer=sgd",) if learner in learners_with("inner_optimizer") else ()
    layers = ("learner.layers=[hidden]",) if learner == "cavia" else ()
    run, net = build_run(on_blobs(f"learner={learner}", *sgd, *layers)), NET

    @jax.jit
    def start(data):
        episode = run.tasks.sample(data, jax.random.key(0))
        return episode, run.learner.init(net, jax.random.key(1), episode.support.x)

    episode, params = start(run.tasks.load("train"))
    numbers, key = [2, 3, 0, 2], jax.random.key(2)  # to put them in order is not to put them back
    found = alone(run.learner, episode, Asked(2, "all"), numbers, params, net, jax.random.clone(key))
    k_adapt = jax.random.split(key)[0] if isinstance(run.learner, Measured) else key

    @partial(jax.jit, static_argnums=0)
    def after(own, key):
        fast = own.adapt(net, params, episode.support, key)
        together = jax.vmap(lambda x: own.predict(net, fast, jnp.concatenate([episode.support.x, x[None]]))[-1])
        loss = net.loss(together(episode.query.x), episode.query.y)[0]
        return own.predict(net, fast, episode.query.x), loss

    for i, n in enumerate(numbers):
        outputs, loss = after(dataclasses.replace(run.learner, inner_steps=n), jax.random.clone(k_adapt))
        np.testing.assert_allclose(found.outputs[i], outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.inductive["loss"][i], loss, rtol=1e-4)
    assert np.abs(found.outputs[0] - found.outputs[2]).max() > 1e-4


def test_a_learner_that_loops_in_its_own_way_is_told_after_each_number_of_inner_steps_too(drawn):
    """With fori_loop itself, from a start that depends on the number, and twice in a row."""
    params, _, episodes = drawn

    @dataclasses.dataclass(frozen=True)
    class Own(type(RUN.learner)):
        loop: str = "fori"

        def adapt(self, net, params, support, key):
            def step(i, theta):
                return jax.tree.map(lambda leaf: leaf * 0.9 + 0.01 * i, theta)

            if self.loop == "fori":
                return jax.lax.fori_loop(0, self.inner_steps, step, params)
            if self.loop == "start":
                return inner.loop(self.inner_steps, step, jax.tree.map(lambda leaf: leaf + self.inner_steps, params))
            return inner.loop(self.inner_steps + 1, step, inner.loop(self.inner_steps, step, params))

    for kind in ("fori", "start", "twice"):
        learner = Own(**vars(RUN.learner), loop=kind)
        told = alone(learner, one_of(episodes), Asked(2, "none"), [3, 0, 7], params)
        for i, n in enumerate((3, 0, 7)):
            one = alone(learner, one_of(episodes), MAIN, [n], params)
            np.testing.assert_allclose(told.outputs[i], one.outputs[0], rtol=1e-4, atol=1e-5)


def test_queries_predicted_alone_are_shared_out_evenly_and_are_no_more_than_an_episode():
    assert queries_at_once(5, 15) == 3  # 3 times 6 examples of 20
    assert queries_at_once(25, 75) == 3
    assert queries_at_once(100, 7) == 1
    assert queries_at_once(1, 13) == 1
    assert queries_at_once(1, 12) == 6


def test_the_numbers_of_an_evaluation_are_arguments_and_inner_steps_are_clipped_as_in_training(drawn):
    params, data, episodes = drawn
    mesh, how = Mesh(np.array(jax.devices()[:1]), ("tasks",)), Inner("mixed", 0, False, clip_value=0.01)
    compiled = dataclasses.replace(RUN.learner, inner_lr=1.0)
    evaluate = make_evaluate(compiled, NET, RUN.tasks, mesh, 1, MAIN, how)
    _, answers = evaluate(params, data, 2, engine.stream(3, engine.EVAL), {"inner_lr": 3.0})[0]
    own = dataclasses.replace(RUN.learner, inner_lr=3.0)
    outputs = []
    for clip in (how, RUN.inner):

        def told(params, episode):
            return query_metrics(own, NET, params, episode, None, jnp.array([2]), True, MAIN)

        with differentiated(clip):
            outputs.append(np.asarray(jax.jit(told)(params, one_of(episodes)).outputs)[0])
    np.testing.assert_allclose(answers.outputs[0], outputs[0], rtol=1e-3, atol=1e-4)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


def test_what_a_learner_measures_itself_stands_beside_the_figures_of_its_predictions_in_a_test():
    run = run_of("learner=cnp", "task=sinusoid", "model.hidden=[4]", "learner.encoder=[4]", "learner.decoder=[4]")
    net = make_net(run.model, run.tasks, None)
    episode = jax.jit(run.tasks.sample)((), jax.random.key(0))
    params = drawn_like(lambda: run.learner.init(net, jax.random.key(1), episode.support.x))
    measured = jax.jit(lambda: run.learner.measure(net, params, episode, None))()
    evaluate = make_evaluate(
        run.learner, net, run.tasks, Mesh(np.array(jax.devices()[:1]), ("tasks",)), 1, run.asked, run.inner
    )
    told = alone(run.learner, episode, run.asked, [0], params, net, jax.random.key(2))
    np.testing.assert_allclose(told.measured["log_likelihood"], measured["log_likelihood"], rtol=1e-5)
    whole = evaluate(params, (), 2, jax.random.key(3), {}, ())[0].figures
    assert {"loss", "mse", "log_likelihood"} == whole.keys()
    main = evaluate(params, (), 2, jax.random.key(3), {})[0].figures
    assert main == {name: whole[name] for name in ("loss", "mse")}


def test_what_selects_is_the_main_figure_of_the_whole_test_bit_for_bit(drawn):
    params, data, _ = drawn
    evaluate, _ = of_two_devices()
    k_eval = engine.stream(3, engine.EVAL)
    whole, *_ = evaluate(params, data, TASKS, k_eval, {}, (4, 0))
    (main,) = evaluate(params, data, TASKS, k_eval, {})
    assert main.figures == {name: whole.figures[name] for name in ("loss", "accuracy")}
    np.testing.assert_array_equal(main.answers.outputs, whole.answers.outputs)
    assert len(evaluate.program._executables) == 1
