"""Meta-steps that are not finite: the run stops with the state before, or skips them; clipping."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from jax.sharding import Mesh
from support import SMALL, close, equal, on_blobs, placed, run_in, run_of

from metarun import engine, gradients, inner
from metarun.core import ConfigError, DataError, State
from metarun.engine.meta_step import make_meta_steps, make_start
from metarun.engine.program import net_of
from metarun.run import nonfinite, train

RUN = run_of(*SMALL, "learner=fomaml")
NET = net_of(RUN.model, RUN.tasks, RUN.learner)
ADDED = {  # to each number of the meta-gradient, and to each of the metrics
    "gradient": (np.nan, 0.0),
    "infinite": (np.inf, 0.0),
    "parameters": (1e18, 0.0),
    "moments": (2e19, 0.0),  # of which Adam keeps the squares
    "metrics": (0.0, np.nan),
}


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """A learner whose meta-gradient is not finite at some meta-steps; or its metrics, or where it leads."""

    healthy: Any
    at: Any = ()
    to_gradient: float = 0.0
    to_metrics: float = 0.0

    def __getattr__(self, name):
        return getattr(self.healthy, name)

    def meta_grad(self, net, params, episodes, keys, step):
        grads, metrics = self.healthy.meta_grad(net, params, episodes, keys, step)
        at_this_step = jnp.isin(step, self.at)
        to_gradient, to_metrics = (jnp.where(at_this_step, x, 0.0) for x in (self.to_gradient, self.to_metrics))
        return jax.tree.map(lambda g: g + to_gradient, grads), jax.tree.map(lambda m: m + to_metrics, metrics)


sgd, adam = (lambda numbers, of=of: of(**numbers) for of in (optax.sgd, optax.adam))
start_of = cache(lambda optimizer: make_start(Poisoned(RUN.learner), NET, RUN.tasks, optimizer))


@cache
def meta_steps_of(optimizer: Callable, guard: engine.Guard):
    """Whatever is poisoned, and when."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("tasks",))
    return make_meta_steps(Poisoned(RUN.learner), NET, RUN.tasks, optimizer, mesh, 4, 2, RUN.inner, guard)


def meta_steps(poisoned_at: tuple[int, ...], skip_at_most: int, what: str = "gradient", **clip: float):
    guard = engine.Guard(clip.get("clip_value"), clip.get("clip_norm"), skip_at_most)
    optimizer = adam if what == "moments" else sgd
    program = meta_steps_of(optimizer, guard)
    at = np.array([*poisoned_at, -1, -1, -1][:3])
    learner = dict(zip(("at", "to_gradient", "to_metrics"), (at, *ADDED[what]), strict=True))
    numbers: dict = {"learner": learner, "optimizer": {"learning_rate": 1e30 if what == "parameters" else 0.01}}
    state = start_of(optimizer)((), numbers, engine.stream(0, engine.INIT))
    return state, lambda state, n: program(state, (), numbers, engine.stream(0, engine.TRAIN), n)


def test_a_meta_step_that_is_not_finite_ends_the_call_with_the_state_before_it():
    state, run = meta_steps((2,), skip_at_most=0)
    two = jax.device_get(run(state, 2)[0])
    stopped, report = run(meta_steps((2,), skip_at_most=0)[0], 5)
    assert report.stopped
    assert int(stopped.step) == 2
    equal(jax.device_get(stopped), two)
    again, report = run(stopped, 5)  # the call that was already on its way changes nothing more
    assert report.stopped
    equal(jax.device_get(again), two)


@pytest.mark.parametrize("what", ["metrics", "parameters", "infinite", "moments"])
def test_metrics_parameters_moments_or_a_gradient_alone_that_are_not_finite_end_the_call_too(what):
    """A step of 1e30 times a gradient of 1e18, whose square is finite, leads to no parameters.

    Clipped, an infinite gradient leads to some. So does one of 2e19 by Adam, once: whose square is infinity, by which
    it would divide for good.
    """
    start, run = meta_steps((0,), 0, what=what, **({"clip_value": 1.0} if what == "infinite" else {}))
    before = jax.device_get(start)
    stopped, report = run(start, 3)
    assert report.stopped
    equal(jax.device_get(stopped), before)


def test_a_skipped_meta_step_changes_nothing_but_the_counts():
    state, run = meta_steps((2,), skip_at_most=2)
    two = run(state, 2)[0]
    expected = jax.device_get(run(two._replace(step=np.int32(3)), 2)[0])
    got, report = run(meta_steps((2,), skip_at_most=2)[0], 5)
    assert not report.stopped
    assert (int(got.step), int(got.skipped), int(got.summed), int(got.in_a_row)) == (5, 1, 4, 0)
    equal(jax.device_get(got.params), expected.params)
    equal(jax.device_get(got.sums), expected.sums)


def test_too_many_skipped_in_a_row_stop_the_run():
    state, run = meta_steps((1, 2, 3), skip_at_most=2)
    stopped, report = run(state, 9)
    assert report.stopped
    assert (int(stopped.step), int(stopped.skipped)) == (3, 2)


def test_a_clipped_meta_gradient_has_the_length_asked_for_and_its_direction():
    moved = {}
    for norm in (None, 0.5):
        state, run = meta_steps((), 0, **({"clip_norm": norm} if norm else {}))
        before = jax.device_get(state.params)
        after = jax.device_get(run(state, 1)[0].params)
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)
        moved[norm] = np.concatenate([np.ravel(a - b) for a, b in pairs])
    assert np.linalg.norm(moved[None]) > 0.01 * 0.5
    np.testing.assert_allclose(np.linalg.norm(moved[0.5]), 0.01 * 0.5, rtol=1e-3)
    cosine = moved[None] @ moved[0.5] / np.linalg.norm(moved[None]) / np.linalg.norm(moved[0.5])
    np.testing.assert_allclose(cosine, 1, rtol=1e-4)


clipped = partial(jax.jit, static_argnums=(1, 2))(gradients.clipped)


def test_clipping_is_the_closed_form_and_differentiable_at_zero():
    grads = {"a": np.array([3, -4], np.float32), "b": np.array([12], np.float32)}
    equal(clipped(grads, None, None), grads)
    equal(clipped(grads, 3.5, None), {"a": np.array([3, -3.5]), "b": np.array([3.5])})
    equal(clipped(grads, None, 20.0), grads)
    for size in (1.0, 2e19, 1e30, 2e37):  # the squares of all but the first are more than a float32 holds
        shortened = clipped(jax.tree.map(lambda g, size=size: g * np.float32(size), grads), None, 6.5)
        close(shortened, jax.tree.map(lambda g: g * 6.5 / 13, grads), rtol=1e-6, atol=0)
    slope = jax.jit(jax.jacobian(lambda g: clipped(g, None, 1.0)))(np.zeros(2, np.float32))
    np.testing.assert_allclose(slope, np.eye(2))
    # Nor is any number on the way there none: the root of zero has no derivative.
    along = checkify.checkify(
        lambda g, v: jax.jvp(lambda g: gradients.clipped(g, None, 1.0), (g,), (v,))[1], checkify.nan_checks
    )
    none, slope = jax.jit(along)(np.zeros(2, np.float32), np.ones(2, np.float32))
    none.throw()
    np.testing.assert_allclose(slope, np.ones(2))


def test_what_is_clipped_is_of_the_type_that_it_was():
    grads = {"a": np.array([3, -4], jnp.bfloat16), "b": np.array([12], np.float32)}
    shortened = jax.eval_shape(lambda grads: gradients.clipped(grads, 11.0, 6.5), grads)
    assert jax.tree.map(lambda leaf: str(leaf.dtype), shortened) == {"a": "bfloat16", "b": "float32"}


NORMS = (1e-3, 0.5, 1.0, 7.0, 1.8e19, 2e19, 3e38, 1e300)


@jax.jit
def clipped_to_each(g):
    return [gradients.clipped({"w": g}, None, norm)["w"] for norm in NORMS]


@jax.jit
def clipped_along(g, v, norm):
    """What `g` is clipped to, and its derivative along `v` forwards and backwards."""

    def way(g):
        return gradients.clipped({"w": g}, None, norm)["w"]

    found, slope = jax.jvp(way, (g,), (v,))
    return found, slope, jax.vjp(way, g)[1](v)[0]


@np.errstate(over="ignore")  # of a bound that float32 does not hold
@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e-3, 1.0, 1e11, 1e19, 1e30])
def test_clipping_is_the_closed_form_whatever_the_size_of_gradients_and_of_the_bound(size):
    """Also where the squares of either are more, or less, than a float32 holds; to the second derivative.

    A program that has the bounds in it, and may square them before it knows the gradients, gives the same.
    """
    g, v = np.float32([3, -4]) * np.float32(size), np.float32([0.6, 0.8])
    along, across = np.array([0.6, -0.8]), np.array([0.8, 0.6])
    for norm, known in zip(NORMS, clipped_to_each(g), strict=True):
        found, slope, back = clipped_along(g, v, norm)
        np.testing.assert_allclose(known, found, rtol=1e-6)
        if norm > 5 * size:
            np.testing.assert_array_equal(found, g)
            np.testing.assert_array_equal([slope, back], [v, v])
        else:
            np.testing.assert_allclose(found, along * norm, rtol=1e-6)
            expected = norm / (5 * size) * (across @ v) * across  # what changes the direction alone
            np.testing.assert_allclose([slope, back], [expected] * 2, rtol=1e-5, atol=1e-37)
    many = clipped(np.full(1000, 2.0**59, np.float32), None, 1.0)  # each square is finite, and not their sum
    np.testing.assert_allclose(many, np.full(1000, 1000**-0.5), rtol=1e-6)


def test_an_inner_step_is_clipped_in_training_and_in_evaluation_alike():
    """On w^2 / 2 from 10 the gradient is 10: clipped to 1, three steps of 0.1 lead to 9.7."""
    with gradients.differentiated(gradients.Inner("mixed", 0, False, clip_value=1.0)):
        w = inner.descend(lambda w, _: w**2 / 2, jnp.array(10.0), optax.sgd(0.1), 3, first_order=False)
    np.testing.assert_allclose(w, 9.7, rtol=1e-6)


def test_a_learner_without_an_inner_rate_is_not_told_to_make_it_smaller(tmp_path):
    run = placed(on_blobs("learner=protonet", "logger=none"), tmp_path)
    state = State(np.int32(0), {"w": np.ones(2)}, (), {}, *[np.int32(0)] * 3)
    assert "is not finite (loss nan); try a smaller optimizer.learning_rate, train.clip" in nonfinite.keep(
        run, state, {"loss": jnp.nan}
    )


def test_what_is_not_finite_is_kept_and_runs_once_more_task_by_task(tmp_path):
    run = run_in(tmp_path / "run", "train.steps=4", "learner.inner_lr=1e30")
    with pytest.raises(
        nonfinite.NotFinite,
        match=r"meta-step 1 of MAML is not finite.*; try a smaller learner.inner_lr or opt.*metarun replay",
    ):
        train.train(run)
    report = json.loads((tmp_path / "run" / "nonfinite" / "report.json").read_text())
    key = jax.random.fold_in(engine.stream(0, engine.TRAIN), 0)
    k_episode, k_adapt = engine.task_key(key, 3)
    assert report["keys"][3]["episode"] == jax.random.key_data(k_episode).tolist()
    assert report["keys"][3]["adapt"] == jax.random.key_data(k_adapt).tolist()
    found = nonfinite.replay(tmp_path / "run")
    assert found["meta_step"] == 1
    assert [bool(task["not_finite"]) for task in found["tasks"]] == [True] * 4
    assert "4 of 4 tasks" in nonfinite.tell(found)
    (tmp_path / "run" / "nonfinite" / "state" / "_METADATA").write_text("{")
    with pytest.raises(DataError, match=r"nonfinite/state is damaged \(.*\); restore it from a copy"):
        nonfinite.replay(tmp_path / "run")


@pytest.mark.parametrize(
    ("report", "config"),
    [
        ("[]", "run: {}"),
        ('{"meta_step": 1, "learner": "MAML"}', "run: {}"),
        ('{"meta_step": 1, "learner": "MAML", "keys": [[1, 2]]}', "run: {}"),
        ('{"meta_step": 1, "learner": "MAML", "keys": []}', ""),
        ('{"meta_step": 1, "learner": "MAML", "keys": []}', "run: 3"),
    ],
)
def test_what_tells_of_a_meta_step_in_another_form_is_refused_in_a_line(report, config, tmp_path):
    (tmp_path / "nonfinite").mkdir()
    (tmp_path / "nonfinite" / "report.json").write_text(report)
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(ConfigError, match="holds no meta-step that can be run again"):
        nonfinite.replay(tmp_path)
