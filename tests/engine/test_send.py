"""Between the host and the devices there are whole trees, one program each, and never many programs at once."""

import os
import sys
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import SMALL, equal, run_of

from metarun import engine
from metarun.core import State
from metarun.engine.send import AT_ONCE


class Unfinished:
    """Stands for what a program gave that is not done yet."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log = number, log

    def is_deleted(self) -> bool:
        return False

    def is_ready(self) -> bool:
        return self.number < 0

    def block_until_ready(self) -> None:
        self.log.append(f"waited for {self.number}")


def test_one_more_program_than_may_be_unfinished_waits_for_the_first(monkeypatch):
    log: list[str] = []
    unfinished = deque(Unfinished(i, log) for i in range(AT_ONCE))
    monkeypatch.setattr(sys.modules["metarun.engine.send"], "_unfinished", unfinished)

    def program(x):
        log.append("launched")
        return jnp.asarray(x), jnp.float32(0)

    engine.send(program, 1)
    engine.send(program, 2)
    assert log == ["waited for 0", "launched", "waited for 1", "launched"]
    assert len(unfinished) == AT_ONCE
    engine.send(lambda: None)  # nothing to wait for
    assert len(unfinished) == AT_ONCE - 1


def test_what_is_done_is_not_held(monkeypatch):
    log: list[str] = []
    unfinished = deque(Unfinished(number, log) for number in (-1, -1, 0))
    monkeypatch.setattr(sys.modules["metarun.engine.send"], "_unfinished", unfinished)
    engine.send(lambda: None)
    assert [left.number for left in unfinished] == [0]
    assert log == []


def test_a_state_that_went_into_a_later_program_is_not_waited_for():
    give = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(3)
    for _ in range(3 * AT_ONCE):
        x = engine.send(give, x)
    np.testing.assert_array_equal(x, np.full(3, 3 * AT_ONCE))


def test_a_copy_outlives_the_state_and_sums_at_zero_are_all_that_changes():
    run = run_of(*SMALL)
    mesh = run.hardware.set_up(run.train.meta_batch)
    state = engine.first_state(run.shape, mesh, (), run.numbers, 0)
    state = engine.placed(state._replace(sums={"loss": np.float32(3)}, summed=np.int32(2)), mesh)
    before = jax.device_get(state)
    kept = engine.copied(state)
    zero = engine.sums_at_zero(state)
    equal(jax.device_get(zero), before._replace(sums={"loss": np.float32(0)}, summed=np.int32(0)))
    engine.send(jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0), zero)
    equal(jax.device_get(kept), before)
    assert isinstance(kept, State)


@pytest.mark.parametrize("given", ["", "--xla_cpu_collective_call_terminate_timeout_seconds=7"])
def test_xla_waits_for_a_slow_machine_and_what_the_user_has_set_stands(monkeypatch, given):
    from metarun.engine.xla_flags import PATIENT, set_flags

    monkeypatch.setenv("XLA_FLAGS", given)
    set_flags(PATIENT | {"xla_no_such_flag_there_is": "1"})
    words = os.environ["XLA_FLAGS"].split()
    told = dict(word.lstrip("-").split("=") for word in words)
    assert len(told) == len(words) == 2
    assert int(told["xla_cpu_collective_call_warn_stuck_timeout_seconds"]) >= 3600
    terminate = int(told["xla_cpu_collective_call_terminate_timeout_seconds"])
    assert terminate == 7 if given else terminate >= 86400
