"""A call that hangs is told, and ends the process; a machine that is slow, suspended or busy is left alone."""

import gzip
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import jax
import pytest
from support import QUICK, complete, metarun, run_in, saved, start

from metarun import engine
from metarun.run import loop, train, watch

BESIDE = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
LEARNER = (
    "learner._target_=hanging.Hanging",
    "learner.inner_steps=1",
    "logger=none",
    "run.dir=RUN",
    "hardware.task_chunk=2",
)


def test_a_call_is_three_programs_however_many_leaves_the_state_has(tmp_path, monkeypatch):
    """The meta-steps, the sums set to zero, the copy to save: XLA's own record of what was launched.

    A copy was a program a leaf once: more than the 32 that XLA has places for, and two devices starved each other.
    """
    settings = ("train.steps=16", "train.log_every=1", "train.save_every=1", "train.eval_every=16")
    of_many_leaves = (
        "learner=fomaml",
        "learner.inner_steps=1",
        "model.hidden=[8,8]",
        "eval.inner_steps=[]",
        "hardware.devices=2",
    )
    run = run_in(tmp_path / "run", *of_many_leaves, *settings)
    trace = tmp_path / "trace"
    quiet = jax.profiler.ProfileOptions()
    quiet.python_tracer_level, quiet.host_tracer_level = 0, 2
    finish = loop.Loop.finish

    def recorded(self, call, last=False) -> None:
        if call.step == 4:
            jax.profiler.start_trace(str(trace), profiler_options=quiet)
        if call.step == 12:
            jax.profiler.stop_trace()
            pytest.fail("launched")  # nothing that comes after is compiled
        finish(self, call, last)

    monkeypatch.setattr(loop.Loop, "finish", recorded)
    monkeypatch.setattr(engine, "ahead", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="launched"):
        train.train(run)
    (file,) = trace.rglob("*.trace.json.gz")
    names = [event.get("name", "") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]]
    launched = sum("ExecutePrepare" in name for name in names)
    assert launched == 3 * 2 * 8  # on 2 devices, in 8 calls


def test_a_call_that_hangs_ends_the_process_with_what_it_takes_to_go_on(tmp_path):
    settings = ("train.save_every=10", "run.max_silent_minutes=0.04")
    hangs = metarun(*QUICK, *LEARNER, *settings, cwd=tmp_path, code=75, HANGS_AT="25", **BESIDE)
    (line,) = hangs.stderr.splitlines()
    assert re.match(r"metarun: meta-steps 2\d to \d\d: ", line), line
    assert "no answer for 0.0" in line
    assert re.search(r"saved is meta-step 2\d of 40; go on with: metarun run.dir=RUN; stacks in RUN/stacks.txt", line)
    stacks = (tmp_path / "RUN" / "stacks.txt").read_text()
    assert "in meta_train" in stacks  # what the host was at
    assert "watch" in stacks
    step = max(int(path.name) for path in complete(tmp_path / "RUN"))
    assert f"saved is meta-step {step} of" in line
    assert saved(tmp_path / "RUN")["['step']"] == step  # it is whole; test_cli.py goes on from what a kill has left


# Gives a sign of life every 200 ms, and is given up after 400 ms without one.
ALIVE = """
import sys, time
from pathlib import Path
from metarun.run import watch

watch.TICK = 0.05
with watch.watched(0.4 / 60, Path("stacks.txt")) as watching:
    for number in range(10**6):
        watching.at("something")
        print(number, flush=True)
        for _ in range(10):  # that none comes at once when it goes on
            time.sleep(0.02)
"""


def test_a_process_that_was_suspended_goes_on(tmp_path):
    process = start(cwd=tmp_path, program=("-c", ALIVE))
    assert process.stdout.readline() == "0\n"
    for _ in range(3):
        time.sleep(0.1)  # between two signs: what looks has seen the one before
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)  # longer than it may be silent
        process.send_signal(signal.SIGCONT)
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            assert process.stdout.readline(), process.communicate()
    assert process.poll() is None


@pytest.fixture
def given_up(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(watch, "TICK", 0.02)

    def leave(message: str) -> None:
        said.append(message)
        raise SystemExit  # ends the thread, where the real one ends the process

    monkeypatch.setattr(watch, "leave", leave)
    return said


def silent_for(seconds: float) -> None:
    threading.Event().wait(seconds)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_only_what_was_announced_is_watched_and_each_word_is_a_sign_of_life(tmp_path, given_up):
    with watch.watched(0.2 / 60, tmp_path / "stacks.txt") as watching:
        silent_for(0.5)
        assert not given_up
        for _ in range(6):
            watching.at("something")
            silent_for(0.1)
        assert not given_up
        watching.saved = lambda: "all is saved"
        silent_for(0.6)
    assert given_up[0].startswith("something: no answer for")
    assert "all is saved" in given_up[0]
    assert "silent_for" in (tmp_path / "stacks.txt").read_text()


def test_a_process_that_computes_does_not_hang_nor_does_one_without_a_limit(tmp_path, given_up):
    for patience, work in ((0.2 / 60, lambda: sum(range(100_000))), (None, lambda: silent_for(0.02))):
        with watch.watched(patience, tmp_path / "stacks.txt") as watching:
            watching.at("something")
            begin = time.monotonic()
            while time.monotonic() - begin < 0.6:
                work()
        assert not given_up


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="no /proc")
def test_a_thread_that_waits_for_a_core_is_seen_and_one_that_sleeps_is_not():
    over = threading.Event()
    assert not all(watch.other_threads_would_run() for _ in range(100))  # XLA has threads of its own

    def spin() -> None:
        while not over.is_set():
            sum(range(1_000_000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert any(watch.other_threads_would_run() for _ in range(100))
    finally:
        over.set()
        thread.join()
