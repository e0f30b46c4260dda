"""The machine changes the speed and nothing else: devices, chunks, precision, programs that are shared and kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from support import composed, run_of

from metarun import engine
from metarun.config.run import Run, build_run
from metarun.engine import chunks, programs, speed
from metarun.engine.meta_step import make_meta_steps, make_start
from metarun.engine.net import make_net
from metarun.run import bench, train

SMALL = ("task=sinusoid", "model.hidden=[8]", "train.meta_batch=8", "hardware.devices=2", "logger=none")


def k_train(seed: int = 0) -> jax.Array:
    return engine.stream(seed, engine.TRAIN)


def k_init() -> jax.Array:
    return engine.stream(0, engine.INIT)


def after(run: Run, task_chunk: int, seed: int = 0):
    start, meta_steps, *_ = programs(run.shape, run.hardware.set_up(run.train.meta_batch), task_chunk)
    data = run.tasks.load("train")
    return meta_steps(start(data, run.numbers, k_init()), data, run.numbers, k_train(seed), jnp.int32(3))[0]


def flattened(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.slow  # test_engine.py has one and two devices
def test_one_two_and_eight_devices_give_the_same(tmp_path):
    script = Path(__file__).parent / "eight_devices.py"
    beside = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # support.py
    subprocess.run([sys.executable, script, tmp_path / "found.npz"], check=True, timeout=240, env=beside)
    found = np.load(tmp_path / "found.npz")
    for what in ("params", "figures"):
        for devices in (2, 8):
            np.testing.assert_allclose(found[f"{what}_{devices}"], found[f"{what}_1"], rtol=2e-4, atol=2e-5)


def test_jobs_that_differ_in_numbers_and_seeds_share_one_compilation():
    one = run_of(*SMALL, "learner.inner_lr=0.01", "optimizer.learning_rate=0.001", "train.seed=0")
    other = run_of(*SMALL, "learner.inner_lr=0.02", "optimizer.learning_rate=0.01", "train.seed=1")
    mesh = one.hardware.set_up(8)
    shared = programs(one.shape, mesh, 2)
    assert programs(other.shape, mesh, 2) is shared
    before = len(shared.meta_steps._executables)
    states = [after(one, 2), after(other, 2), after(one, 2, seed=1)]
    assert len(shared.meta_steps._executables) == before + 1
    first, second, third = (flattened(state.params) for state in states)
    assert not np.allclose(first, second)
    assert not np.allclose(first, third)
    assert programs(run_of(*SMALL, "learner.inner_steps=2").shape, mesh, 2) is not shared


def test_a_process_with_runs_of_both_precisions_has_programs_of_each():
    run, mesh = run_of("task=sinusoid"), Mesh(np.array(jax.devices()[:1]), ("tasks",))
    highest = programs(run.shape, mesh, 1)
    jax.config.update("jax_default_matmul_precision", "high")
    try:
        assert programs(run.shape, mesh, 1) is not highest
    finally:
        jax.config.update("jax_default_matmul_precision", "highest")
    assert programs(run.shape, mesh, 1) is highest


def test_programs_of_other_devices_are_others():
    """An executable that lies on the disk was compiled for its devices."""
    run = run_of("task=sinusoid")
    on_one, on_two = (programs(run.shape, Mesh(np.array(jax.devices()[:n]), ("tasks",)), 1) for n in (1, 2))
    for name in ("start", "meta_steps", "sample"):
        one, two = (getattr(each, name).made_from for each in (on_one, on_two))
        assert one is not None
        assert one != two
    assert on_one.evaluate.program.made_from != on_two.evaluate.program.made_from


def test_a_number_as_an_argument_is_the_same_as_in_the_program():
    run = run_of(*SMALL, "learner.inner_lr=0.02", "optimizer.learning_rate=0.01")
    mesh = run.hardware.set_up(8)
    net = make_net(run.model, run.tasks, 1)
    numbers = {"learner": {}, "optimizer": {}}

    def optimizer(_):
        return run.optimizer(run.numbers["optimizer"])

    start = make_start(run.learner, net, run.tasks, optimizer)((), numbers, k_init())
    fixed = make_meta_steps(run.learner, net, run.tasks, optimizer, mesh, 8, 2, run.inner, run.train.guard)
    expected = fixed(start, (), numbers, k_train(), jnp.int32(3))[0]
    np.testing.assert_allclose(flattened(after(run, 2).params), flattened(expected.params), rtol=1e-5, atol=1e-6)


def test_bfloat16_follows_float32():
    """Losses agree within 0.5 %, meta-gradients point the same way (cosine over 0.95), parameters stay in float32.

    A number has 8 bits there, so 0.4 % may be lost in each. Longer inner steps magnify it: by this measure an
    untrained network's meta-gradient has a cosine of 0.8 at an inner step of 0.4.
    """
    small = (
        "task=sinusoid", "model.norm=batch", "learner.inner_lr=0.01", "train.meta_batch=8", "optimizer=sgd",
        "optimizer.learning_rate=1.0",
    )  # fmt: skip
    moved, losses = [], []
    for precision in ("float32", "bfloat16"):
        run = run_of(*small, f"hardware.precision={precision}")
        start, meta_steps, *_ = programs(run.shape, run.hardware.set_up(8), 4)
        data = run.tasks.load("train")
        before = start(data, run.numbers, k_init())
        begin = flattened(before.params)
        state, report = meta_steps(before, data, run.numbers, k_train(), jnp.int32(1))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
        moved.append(flattened(state.params) - begin)
        losses.append(report.sums["loss"])
    exact, rough = moved
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3)
    assert exact @ rough > 0.95 * np.linalg.norm(exact) * np.linalg.norm(rough)


def test_a_chunk_that_does_not_fit_is_halved_with_a_line_that_says_so(tmp_path, monkeypatch, capsys):
    values = composed(
        *SMALL, "train.steps=3", "eval.episodes=4", "eval.val_episodes=4", "hardware.task_chunk=4", "logger=none"
    )
    values["run"]["dir"] = str(tmp_path / "run")
    run = build_run(values)
    mesh = run.hardware.set_up(8)
    needed = []
    for task_chunk in (1, 4):
        start, meta_steps, *_ = programs(run.shape, mesh, task_chunk)
        arguments = (start((), run.numbers, k_init()), (), run.numbers, k_train(), jnp.int32(1))
        needed.append(2 * mesh.size * meta_steps.executable(*arguments).temporary_bytes)
    assert needed[0] < needed[1]
    monkeypatch.setattr(chunks, "free_host_bytes", lambda: needed[1] - 1)
    found = train.train(run)
    assert found["machine"]["task_chunk"] in (1, 2)
    assert "4 tasks at once on a device need more memory than there is" in capsys.readouterr().out


def test_a_model_that_no_memory_holds_is_refused_before_anything_of_it_is_made(monkeypatch):
    run = run_of(*SMALL, "model.hidden=[1000000,1000000]")
    mesh = run.hardware.set_up(8)
    monkeypatch.setattr(chunks, "send", lambda *_: pytest.fail("it was made"))
    with pytest.raises(
        engine.OutOfMemory, match=r"GiB of parameters and optimizer's state on each of 2 devices, where"
    ):
        engine.first_state(run.shape, mesh, (), run.numbers, 0)


def test_the_fastest_chunk_is_measured_once_and_remembered(tmp_path, monkeypatch, caplog):
    others = [0.04]
    monkeypatch.setattr(chunks.machine, "taken_by_others", lambda before, after: others[0])
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(chunks, "WORTH_MEASURING_S", 0.0)
    times = {1: 3.0, 2: 1.0, 4: 2.0}
    asked = []

    def seconds(task_chunk, n):
        asked.append(task_chunk)
        return times[task_chunk]

    monkeypatch.setattr(chunks, "stopwatch", lambda *_: seconds)
    run = run_of(*SMALL)
    mesh = run.hardware.set_up(8)
    state = programs(run.shape, mesh, 1).start((), run.numbers, k_init())

    def chosen(run: Run) -> int:
        training = engine.Training(state, (), run.numbers, k_train())
        return chunks.choose_chunk(run.shape, mesh, run.hardware, training, run.train.steps, run.shaping)

    assert chosen(run) == 2
    assert set(asked) == {1, 2, 4}
    (file,) = (tmp_path / "task_chunk").iterdir()
    assert json.loads(file.read_text())["seconds_per_meta_step"] == {str(n): t for n, t in times.items()}

    # Another learning rate and seed are the same circumstances, another network is not; a damaged file is none.
    asked.clear()
    assert chosen(run_of(*SMALL, "learner.inner_lr=0.3", "train.seed=5")) == 2
    assert asked == []
    chosen(run_of(*SMALL, "model.hidden=[9]"))
    assert asked != []
    file.write_text("{")
    asked.clear()
    assert chosen(run) == 2
    assert asked != []

    # One task at once is tried where two are no faster than four.
    times.update({1: 0.5, 2: 3.0})
    assert chosen(run_of(*SMALL, "model.hidden=[11]")) == 1
    times.update({1: 3.0, 2: 1.0})

    # What is measured while others compute is theirs as well: it serves once.
    others[0] = 0.43
    other = run_of(*SMALL, "model.hidden=[10]")
    caplog.set_level("INFO", logger="metarun")
    for _ in range(2):
        asked.clear()
        assert chosen(other) == 2
        assert asked != []
    assert "task_chunk=2 was fastest, which is not remembered: others took 43% of the cores" in caplog.text
    others[0] = None  # where the system does not tell, it is remembered
    assert chosen(other) == 2
    asked.clear()
    assert chosen(other) == 2
    assert asked == []


@pytest.mark.parametrize("slow", [range(3), [3], range(4, 6)])
def test_a_machine_that_is_slow_for_a_while_chooses_no_chunk(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks.machine, "taken_by_others", lambda before, after: 0.0)
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(chunks, "WORTH_MEASURING_S", 0.0)
    times, calls = {1: 3.0, 2: 2.0, 4: 1.0}, []

    def seconds(task_chunk, n):
        calls.append(task_chunk)
        return times[task_chunk] * (10 if len(calls) - 1 in slow else 1)

    monkeypatch.setattr(chunks, "stopwatch", lambda *_: seconds)
    run = run_of(*SMALL)
    training = engine.Training((), (), (), k_train())
    assert chunks.choose_chunk(run.shape, run.hardware.set_up(8), run.hardware, training, 10**6, run.shaping) == 4
    assert len(calls) > 12


def test_what_is_timed_is_a_copy_and_what_does_not_fit_takes_for_ever(monkeypatch):
    run = run_of(*SMALL)
    mesh = run.hardware.set_up(8)
    state = engine.first_state(run.shape, mesh, (), run.numbers, 0)
    training = engine.Training(state, (), run.numbers, k_train())
    seconds = chunks.stopwatch(run.shape, mesh, training)
    assert 0 < seconds(1, 2) < 60
    assert int(state.step) == 0  # it can still be read, so no program was given it
    compiled = [programs(run.shape, mesh, n).meta_steps.executable(*training, jnp.int32(1)) for n in (1, 4)]
    between = mesh.size * sum(program.temporary_bytes for program in compiled)
    monkeypatch.setattr(chunks, "free_host_bytes", lambda: between)
    found = chunks.in_turn(seconds, 4, 1)
    assert found[4] == float("inf")
    assert 0 < found[1] < 60


@pytest.mark.parametrize("steps", [1, 7])
def test_flops_are_those_of_the_matrix_products_times_the_iterations_of_their_loops(steps):
    def program(x, w):
        return jax.lax.fori_loop(0, steps, lambda _, x: jnp.tanh(x @ w), x)

    text = jax.jit(program).lower(jnp.ones((128, 256)), jnp.ones((256, 256))).compile().as_text()
    assert speed.flops(text) == steps * 2 * 128 * 256 * 256


def test_flops_of_branches_are_those_of_the_one_that_takes_most():
    def program(which, x, v, w):
        return jax.lax.cond(which, lambda: jnp.tanh(x @ w) @ w, lambda: x @ v)

    text = jax.jit(program).lower(True, jnp.ones((128, 256)), *jnp.ones((2, 256, 256))).compile().as_text()
    assert speed.flops(text) == 2 * 2 * 128 * 256 * 256


def test_a_bench_repeats_a_short_meta_step_often_and_a_long_one_seldom(monkeypatch, capsys):
    monkeypatch.setattr(speed, "SECONDS_PER_REPEAT", 0.0)
    monkeypatch.setattr(speed, "matrix_product", lambda *_: 100.0)
    run = run_of(*SMALL)
    monkeypatch.setattr(speed.machine, "taken_by_others", lambda before, after: 0.02)
    often = bench.bench(run)
    monkeypatch.setattr(speed, "LONG", 0.0)
    monkeypatch.setattr(speed.machine, "taken_by_others", lambda before, after: 0.43)
    seldom = bench.bench(run)
    assert [found["repeats"] for found in (often, seldom)] == [7, 3]
    slowest, fastest = often["meta_steps_per_s_range"]
    assert slowest <= often["meta_steps_per_s"] <= fastest
    assert often["tasks_per_s"] == run.train.meta_batch * often["meta_steps_per_s"]
    assert often["gflop_per_meta_step"] == seldom["gflop_per_meta_step"]
    assert often["fraction_of_matrix_product"] == pytest.approx(often["gflop_per_s"] / 100)
    assert [(found["cores_taken_by_others"], found["busy"]) for found in (often, seldom)] == [
        (0.02, False),
        (0.43, True),
    ]
    for found, says in ((often, ""), (seldom, "metarun: the machine is busy: others took 43% of the cores meanwhile")):
        bench.tell(found)
        out, err = capsys.readouterr()
        assert json.loads(out) == found
        assert err.startswith(says)
        assert bool(err) == bool(says)


@pytest.mark.parametrize(("anonymous", "cached", "free"), [(6, 1, 2), (0, 8, 8), (1, 9, 8)])
def test_a_groups_caches_are_free_as_far_as_its_limit(anonymous, cached, free, monkeypatch):
    """A download, or a build, fills a container's memory with what is given up as soon as a program wants it."""
    stat = f"anon {anonymous}\ninactive_file {cached - 1}\nactive_file 1\nslab_reclaimable 0\nsock 5\n"
    told = {"memory.max": "8\n", "memory.current": f"{min(8, anonymous + cached)}\n", "memory.stat": stat}
    told |= {"meminfo": "MemTotal: 9 kB\nMemAvailable: 9 kB\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: told[path.name])
    assert engine.free_host_bytes() == free
