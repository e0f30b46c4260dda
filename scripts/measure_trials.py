"""The return of policies that need no learning, on bandits and tabular MDPs: it tells whether these are right.

Random, UCB1, Thompson sampling and Gittins' index on bandits, random and PSRL on MDPs: Duan et al. 2016, tables 1 and
2. Each is a policy with a memory, that sees what RL^2 sees and acts in the same environment.

    python scripts/measure_trials.py bandits --pulls=10 --arms=5
    python scripts/measure_trials.py tabular_mdp
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from metarun.core import Act, Array, Key, PyTree
from metarun.tasks.bandits import Bandits
from metarun.tasks.tabular_mdp import TabularMDP

SURE = 1e9  # of a logit
Index = Callable[[Array, Array, Array, Key], Array]


def at_random(n_out: int) -> Act:
    return Act(lambda memory, x: (jnp.zeros((len(x), n_out)), memory))


def of_index(arms: int, index: Index, n: int, key: Key) -> Act:
    """Pulls an arm of the highest index(successes (n, arms), failures (n, arms), pulls (), key), counted from 1."""

    def answer(memory: PyTree, x: Array) -> tuple[Array, PyTree]:
        counts, t, key = memory
        arm, reward = x[:, :arms], x[:, arms, None]
        counts = counts + jnp.stack([arm * reward, arm * (1 - reward)])
        key, k_index, k_ties = jax.random.split(key, 3)
        values = index(counts[0], counts[1], t, k_index)
        best = values >= values.max(1, keepdims=True)
        chosen = jax.random.categorical(k_ties, jnp.where(best, 0.0, -SURE))
        return SURE * jax.nn.one_hot(chosen, arms), (counts, t + 1, key)

    return Act(answer, (jnp.ones((2, n, arms)), jnp.zeros(()), key))


def ucb1(width: float, won: Array, lost: Array, t: Array, key: Key) -> Array:
    """Auer et al. 2002, with a width to be tuned, and a success and a failure of each arm that never were."""
    pulled = won + lost
    return won / pulled + width * jnp.sqrt(2 * jnp.log(t + 2 * won.shape[1]) / pulled)


def thompson(won: Array, lost: Array, t: Array, key: Key) -> Array:
    return jax.random.beta(key, won, lost)


def gittins(pulls: int, grid: int = 1000) -> Array:
    """Gittins' index of a Bernoulli arm with a horizon, (pulls, pulls + 1, pulls + 1).

    By how many pulls are left, less one, and how often the arm won and lost: the fee a pull at which it is as good to
    pull it, as long as one likes, as not to begin. For each of a `grid` of fees the best is told by dynamic
    programming, from the last pull to the first; where it is nothing, the fee is too high.
    """
    fees = ((jnp.arange(grid) + 0.5) / grid)[:, None, None]
    won = jnp.arange(pulls + 1)
    p = ((1 + won[:, None]) / (2 + won[:, None] + won[None]))[None]

    def longer(best: Array, _: None) -> tuple[Array, Array]:
        after_a_win = jnp.pad(best[:, 1:], ((0, 0), (0, 1), (0, 0)))
        after_a_loss = jnp.pad(best[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
        best = jnp.maximum(0, p - fees + p * after_a_win + (1 - p) * after_a_loss)
        return best, (best > 0).mean(0)

    return jax.lax.scan(longer, jnp.zeros((grid, pulls + 1, pulls + 1)), None, length=pulls)[1]


def by_table(table: Array, won: Array, lost: Array, t: Array, key: Key) -> Array:
    """`won` and `lost` count one that never was."""
    left, wins, losses = (v.astype(int) for v in (len(table) - 1 - t, won - 1, lost - 1))
    return table[left, wins, losses]


def psrl(tasks: TabularMDP, n: int, key: Key) -> Act:
    """The best policy of an MDP that is drawn from the posterior at each episode's start. Osband et al. 2013."""
    s, a = tasks.states, tasks.actions

    def planned(next_counts: Array, sums: Array, counts: Array, key: Key) -> Array:
        """The best action by step of an episode and state (steps, s), by value iteration over a drawn MDP."""
        k_next, k_mean = jax.random.split(key)
        drawn = jax.random.gamma(k_next, 1 + next_counts)
        transitions = drawn / drawn.sum(-1, keepdims=True)
        # Of a mean with prior N(1, 1), and rewards about it with deviation 1.
        means = (1 + sums) / (1 + counts) + jax.random.normal(k_mean, (s, a)) / jnp.sqrt(1 + counts)

        def back(values: Array, _: None) -> tuple[Array, Array]:
            q = means + transitions @ values
            return q.max(1), q.argmax(1)

        return jax.lax.scan(back, jnp.zeros(s), None, length=tasks.steps, reverse=True)[1]

    def answer(memory: PyTree, x: Array) -> tuple[Array, PyTree]:
        next_counts, sums, counts, plan, before, t, key = memory
        key, k_plan = jax.random.split(key)
        state, action, reward, ended, begins = jnp.split(x, [s, s + a, s + a + 1, s + a + 2], axis=1)
        done = before[:, :, None] * action[:, None]  # (n, s, a): 0 where the trial begins
        counts, sums = counts + done, sums + done * reward[:, :, None]
        seen = jnp.where(ended[:, :, None, None] > 0, 0, done[..., None] * state[:, None, None])
        next_counts = next_counts + seen  # where an episode has ended, the next state is not seen
        anew = (begins + ended)[0, 0] > 0  # all at once
        draw = partial(jax.vmap(planned), next_counts, sums, counts, jax.random.split(k_plan, n))
        plan = jax.lax.cond(anew, draw, lambda: plan)
        t = jnp.where(anew, 0, t)
        best = jnp.take_along_axis(plan[:, t], state.argmax(1)[:, None], axis=1)[:, 0]
        return SURE * jax.nn.one_hot(best, a), (next_counts, sums, counts, plan, state, t + 1, key)

    table = jnp.zeros((n, s, a))
    plan = jnp.zeros((n, tasks.steps, s), jnp.int32)
    return Act(answer, (jnp.zeros((n, s, a, s)), table, table, plan, jnp.zeros((n, s)), jnp.zeros((), jnp.int32), key))


def measured(tasks: Bandits | TabularMDP, act: Callable[[int, Key], Act], n: int) -> tuple[float, float]:
    """The mean return over n tasks, a trial each, and half of its 95% interval."""

    @jax.jit
    def returns(key: Key) -> Array:
        k_tasks, k_act, k_collect = jax.random.split(key, 3)
        query = jax.vmap(lambda k: tasks.sample((), k).query)(jax.random.split(k_tasks, n))
        source = jax.tree.map(lambda leaf: leaf[:, 0], query)  # side by side
        _, y = tasks.collect(source, act(n, k_act), k_collect)
        steps: Any = y
        return steps.reward.reshape(n, -1).sum(1)

    found = returns(jax.random.key(0))
    return float(found.mean()), float(1.96 * found.std() / jnp.sqrt(n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["bandits", "tabular_mdp"])
    parser.add_argument("--arms", type=int, default=5)
    parser.add_argument("--pulls", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--widths", type=float, nargs="*", default=[0.1, 0.2, 0.3, 0.4, 0.5, 1.0], help="of UCB1")
    given = parser.parse_args()
    acts: dict[str, Callable[[int, Key], Act]]
    if given.task == "bandits":
        arms = given.arms
        tasks: Bandits | TabularMDP = Bandits(arms, given.pulls, 1, 1, 0.99, 1.0, "logp")
        acts = {"random": lambda n, key: at_random(arms)}
        for width in given.widths:
            acts[f"UCB1, width {width:g}"] = partial(of_index, arms, partial(ucb1, width))
        acts["Thompson"] = partial(of_index, arms, thompson)
        acts["Gittins"] = partial(of_index, arms, partial(by_table, gittins(given.pulls)))
    else:
        mdp = tasks = TabularMDP(10, 5, 10, given.episodes, 1, 1, 0.99, 1.0, "logp")
        acts = {"random": lambda n, key: at_random(5), "PSRL": lambda n, key: psrl(mdp, n, key)}
    for name, act in acts.items():
        mean, interval = measured(tasks, act, given.tasks)
        print(f"{name:20} {mean:7.2f} ± {interval:.2f}", flush=True)


if __name__ == "__main__":
    main()
