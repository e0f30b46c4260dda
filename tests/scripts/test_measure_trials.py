"""scripts/measure_trials.py: Gittins' index against closed forms and the best policy of a small bandit."""

from functools import cache

import jax
import numpy as np
from measure_trials import at_random, by_table, gittins, measured, of_index

from metarun.tasks.bandits import Bandits


@cache
def best_return(pulls, arms=((1, 1), (1, 1))):
    """What the best policy of a Bernoulli bandit with these priors is paid, by trying all of them."""
    if pulls == 0:
        return 0.0
    found = []
    for i, (won, lost) in enumerate(arms):
        p = won / (won + lost)
        after = [tuple((w + dw, n + dn) if j == i else (w, n) for j, (w, n) in enumerate(arms))
                 for dw, dn in ((1, 0), (0, 1))]  # fmt: skip
        found.append(p * (1 + best_return(pulls - 1, after[0])) + (1 - p) * best_return(pulls - 1, after[1]))
    return max(found)


def test_an_index_is_the_mean_and_more_the_longer_there_is_to_learn():
    table = np.asarray(jax.jit(gittins, static_argnums=(0, 1))(3, 4000))
    won, lost = np.meshgrid(np.arange(3), np.arange(3), indexing="ij")
    np.testing.assert_allclose(table[0, :3, :3], (1 + won) / (2 + won + lost), atol=3e-4)  # the last pull
    np.testing.assert_allclose(table[1, 0, 0], 5 / 9, atol=3e-4)  # 1/2 - x + 1/2 (2/3 - x) = 0
    np.testing.assert_allclose(table[1, 1, 0], (2 / 3 + 2 / 3 * 3 / 4) / (1 + 2 / 3), atol=3e-4)
    assert table[2, 0, 0] > table[1, 0, 0]


def test_an_index_is_the_fee_from_which_on_it_is_best_not_to_begin():
    def value(pulls, won, lost, fee):
        p = (1 + won) / (2 + won + lost)
        after = [value(pulls - 1, won + 1, lost, fee), value(pulls - 1, won, lost + 1, fee)] if pulls > 1 else [0, 0]
        return max(0, p - fee + p * after[0] + (1 - p) * after[1])

    table = np.asarray(jax.jit(gittins, static_argnums=(0, 1))(8, 1000))
    for won, lost in ((0, 0), (2, 1), (0, 4)):
        fees = np.linspace(0, 1, 1001)
        left = 8 - won - lost  # of 8 pulls
        expected = max(fee for fee in fees if value(left, won, lost, fee) > 1e-9)
        np.testing.assert_allclose(table[left - 1, won, lost], expected, atol=2e-3)
        at = [np.array([[count]], float) for count in (won + 1, lost + 1)]
        assert by_table(table, *at, np.array(float(won + lost)), None) == table[left - 1, won, lost]


def test_a_bandit_pays_by_the_index_what_the_best_policy_is_paid():
    tasks = Bandits(2, 20, 1, 1, 0.99, 1.0, "logp")
    table = jax.jit(gittins, static_argnums=0)(20)
    found, interval = measured(tasks, lambda n, key: of_index(2, lambda *v: by_table(table, *v), n, key), 60_000)
    assert abs(found - best_return(20)) < 2 * interval < 0.1
    assert abs(measured(tasks, lambda n, key: at_random(2), 60_000)[0] - 10) < 0.08
