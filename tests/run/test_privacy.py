"""The accountant against closed forms, against published values, and against Google's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from metarun.engine import Private
from metarun.run import privacy
from metarun.run.announce import of_its_privacy
from metarun.run.privacy import ORDERS, epsilon, in_words, renyi


def test_at_whole_orders_the_divergence_is_the_binomial_sum():
    """Mironov et al. 2019, section 3.3: E[(1 - q + q r)^a] with E[r^k] = exp(k (k - 1) / 2 s^2)."""
    for q, s in ((0.01, 1.0), (0.2, 0.7), (0.5, 3.0)):
        for order in (2, 5, 17):
            terms = [
                math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp(k * (k - 1) / (2 * s * s))
                for k in range(order + 1)
            ]
            found = renyi(q, s, np.array([float(order)]))[0]
            np.testing.assert_allclose(found, math.log(sum(terms)) / (order - 1), rtol=1e-8)


def test_a_user_who_is_always_there_is_met_by_a_plain_gaussian_and_one_who_is_never_there_by_none():
    np.testing.assert_allclose(renyi(1.0, 2.0), ORDERS / 8)
    np.testing.assert_allclose(renyi(1 - 1e-12, 2.0), ORDERS / 8, rtol=1e-6)
    np.testing.assert_allclose(renyi(0.0, 2.0), 0, atol=1e-9)
    assert epsilon(0.1, 0.0, 10, 1e-5) == math.inf


def test_weak_noise_is_counted_at_once_and_never_for_less_than_it_tells():
    """The grid of noise 1e-6 had 10 billion points. A user who is there at times is as one who always is."""
    for noise in (1e-6, 1e-3, 0.099):
        np.testing.assert_allclose(renyi(0.01, noise), ORDERS / (2 * noise**2))
    at_least = renyi(0.01, 0.1)
    assert (at_least <= renyi(0.01, 0.0999)).all()
    assert epsilon(0.01, 1e-9, 10, 1e-5) == math.inf  # of which float32 keeps nothing beside a clipped meta-gradient


def test_the_published_epsilon_of_dp_sgd_on_mnist():
    """TensorFlow Privacy's tutorial: batches of 256 of 60,000, noise 1.1, 60 epochs, delta 1e-5: 3.01.

    With the conversion of its day (Mironov 2017, proposition 3), which gives a little more than today's.
    """
    told = 14_063 * renyi(256 / 60_000, 1.1) + math.log(1e5) / (ORDERS - 1)
    np.testing.assert_allclose(told.min(), 3.01, atol=0.005)


@pytest.mark.parametrize(
    ("q", "noise", "steps", "delta", "theirs"),
    [
        (256 / 60_000, 1.1, 14_063, 1e-5, 2.596656),
        (0.01, 1.0, 1000, 1e-5, 2.101365),
        (0.02, 0.7, 500, 1e-5, 7.664088),
        (0.05, 2.0, 2000, 1e-6, 6.540318),
        (1.0, 1.0, 1, 1e-5, 4.728507),
    ],
)
def test_epsilon_is_that_of_dp_accounting(q, noise, steps, delta, theirs):
    """RdpAccountant of dp-accounting 0.6.0, PoissonSampledDpEvent(q, GaussianDpEvent(noise))."""
    np.testing.assert_allclose(epsilon(q, noise, steps, delta), theirs, rtol=1e-5)


def run(init_from=None, **settings):
    private = Private(**{"clip": 1.0, "noise": 1.0, "users": None, "delta": 1e-5} | settings)
    train = SimpleNamespace(meta_batch=64, init_from=init_from, steps=1000)
    return SimpleNamespace(private=private, train=train, tasks=SimpleNamespace())


def spent(run, steps, data=()):
    return privacy.spent(run, data, steps)


def test_new_users_are_met_once_and_the_same_ones_again_and_again():
    assert spent(run(), 10)["epsilon"] == spent(run(), 10_000)["epsilon"] == epsilon(1.0, 1.0, 1, 1e-5)
    few, many = (spent(run(users=2000), steps) for steps in (100, 1000))
    assert few["epsilon"] < many["epsilon"]
    assert many["epsilon"] == epsilon(many["rate"], 1.0, 1000, 0.5e-5)  # the other half is for a step without room
    assert many["expected_tasks"] == 2000 * many["rate"] < 64
    assert in_words(many) == f"epsilon {many['epsilon']:.3g} at delta 1e-05, for each of 2,000 users"


def test_what_the_end_will_say_is_said_at_the_start():
    one = run(users=2000)
    assert of_its_privacy(one, ()) == f"privacy after 1,000 meta-steps: {in_words(spent(one, 1000))}"
    assert of_its_privacy(run(clip=None, noise=0.0), ()) is None


def test_without_noise_no_epsilon_holds_and_without_clipping_none_is_told():
    assert spent(run(noise=0.0), 10)["epsilon"] is None
    assert "no epsilon" in in_words(spent(run(noise=0.0), 10))
    assert "noise=0 hides nothing" in in_words(spent(run(noise=0.0), 10))
    assert "noise=1e-09 is too weak" in in_words(spent(run(noise=1e-9, users=2000), 10))
    assert spent(run(clip=None, noise=0.0), 10) is None


def test_where_room_may_lack_too_often_for_delta_each_user_counts_twice_and_always():
    """Who is left out of a full meta-step makes room for another: one task less, and one more."""
    at_most = epsilon(1.0, 0.1, 10, 1e-5)  # a plain Gaussian of twice the length
    assert spent(run(noise=0.2, users=2000), 10)["epsilon"] == at_most < math.inf
    rate = Private(1.0, 0.2, 2000, 1e-5).rate(64)
    assert at_most > epsilon(rate, 0.2, 10, 1e-5) > 27  # more than 1 in e^27 is the chance that 64 is not enough


def test_what_a_run_starts_from_is_not_counted_and_that_is_said():
    """A network learned from the same users' data without noise would tell of them whatever this run does."""
    found = spent(run(users=2000, init_from="runs/first"), 100)
    assert found["epsilon"] == spent(run(users=2000), 100)["epsilon"]
    assert found["init_from"] == "runs/first"
    assert in_words(found).endswith(
        "of this run alone, as it starts from runs/first: holds only if that was not learned from their data"
    )


class OfThree:
    """Tasks of three groups."""

    def n_groups(self, split):
        return 3

    def of_group(self, data, group):
        return data


class Scaled(OfThree):
    prepares = None


def test_whom_epsilon_is_of_is_told():
    """A task that is drawn from a pool of classes is nobody's: its examples are other tasks' as well."""

    def words(tasks, data=(), **settings):
        one = run(**settings)
        one.tasks = tasks
        return in_words(privacy.spent(one, data, 100)).partition(", for ")[2]

    pool, plain = {"x": np.zeros((3, 2))}, SimpleNamespace()
    assert words(plain) == words(plain, np.int32(3)) == "new users, each met once"  # a number is no data
    assert words(plain, users=2000) == "each of 2,000 users"
    shared = ", and for none of the classes and examples that they share"
    assert words(plain, pool) == "new tasks, each met once" + shared
    assert words(plain, pool, users=2000) == "each of 2,000 tasks" + shared
    assert words(OfThree(), pool, users=3) == "each of 3 groups"
    assert words(Scaled(), pool, users=3).startswith("each of 3 groups, given how columns are scaled")
