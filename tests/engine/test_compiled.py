"""Executables are kept under all that shapes them, and found by processes that come after."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import GIVEN, on_blobs, run_of

from metarun import engine
from metarun.config import choices
from metarun.config.run import build_run
from metarun.engine import compiled, executables
from metarun.engine.compiled import Indescribable, Program, description
from metarun.engine.executables import keep, load
from metarun.engine.program import programs


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache directory of this test's own; where executables lie in it."""
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    return tmp_path / "executables"


@pytest.fixture
def counted():
    """Makes a program, and the list of its traces."""
    this = uuid.uuid4().hex  # what jax's cache has of another time would not be kept

    def make(made_from, donate=()):
        return traced_twice(made_from and f"{made_from} {this}", donate)

    return make


def traced_twice(made_from, donate):
    traced = []

    def twice(x, y):
        traced.append(jax.tree.map(jnp.shape, (x, y)))
        return 2.0 * x + y["y"]

    return Program(twice, made_from, donate), traced


def test_a_program_is_compiled_once_for_each_shape_and_called_like_its_function(cache, counted):
    program, traced = counted("this test")
    for n in (3, 3, 4):
        np.testing.assert_array_equal(program(jnp.ones(n), {"y": np.float32(1)}), np.full(n, 3.0))
    assert len(traced) == 2
    program(jnp.ones(3), {"y": 1.0})  # a Python number is weakly typed, so another program
    assert len(traced) == 3
    assert len(list(cache.iterdir())) == 3


def test_another_process_finds_the_executable_and_traces_nothing(cache, counted):
    counted("this test")[0](jnp.ones(3), {"y": np.float32(1)})
    program, traced = counted("this test")  # as after a start: it knows no executable
    assert program.output_bytes(jnp.ones(3), {"y": np.float32(1)}) == 12
    np.testing.assert_array_equal(program(jnp.full(3, 5.0, jnp.float32), {"y": np.float32(1)}), np.full(3, 11.0))
    assert not traced
    np.testing.assert_array_equal(program(jnp.ones(5), {"y": np.float32(1)}), np.full(5, 3.0))
    other, traced = counted("another description")
    other(jnp.ones(3), {"y": np.float32(1)})
    assert len(traced) == 1
    program, traced = counted(None)
    program(jnp.ones(3), {"y": np.float32(1)})
    assert len(traced) == 1
    assert len(list(cache.iterdir())) == 3


def test_an_executable_that_was_found_takes_the_memory_of_what_it_is_given_as_the_compiled_one_does(cache, counted):
    for _ in range(2):
        program, _ = counted("donating", donate=(0,))
        x = jnp.ones(3)
        np.testing.assert_array_equal(program(x, {"y": np.float32(1)}), np.full(3, 3.0))
        assert x.is_deleted()


def test_an_executable_that_is_damaged_or_anothers_is_not_loaded(cache, counted):
    counted("this test")[0](jnp.ones(3), {"y": np.float32(1)})
    (path,) = cache.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path) is not None
    content = path.read_bytes()
    for damaged in (content[:-1], content[:40], b"", content[:32] + bytes([content[32] ^ 1]) + content[33:]):
        path.write_bytes(damaged)
        assert load(path) is None
    at = content.rindex(b"K\x0c")  # 12, the bytes of what it returns: only the digest tells that it is another
    path.write_bytes(content[:at] + b"K\x0d" + content[at + 2 :])
    assert load(path) is None
    path.write_bytes(content)
    path.chmod(0o620)
    assert load(path) is None
    program, traced = counted("this test")
    np.testing.assert_array_equal(program(jnp.ones(3), {"y": np.float32(1)}), np.full(3, 3.0))
    assert len(traced) == 1
    assert load(cache / "none") is None


def test_another_code_is_another_executable(tmp_path, monkeypatch):
    (tmp_path / "metarun").mkdir()
    file = tmp_path / "metarun" / "__init__.py"
    found = []
    for code in ("a = 1", "a = 2", "a = 1"):
        file.write_text(code)
        monkeypatch.setattr(executables.metarun, "__file__", str(file))
        executables.surroundings.cache_clear()
        found.append(executables.surroundings())
    executables.surroundings.cache_clear()
    assert found[0] == found[2] != found[1]


def test_what_comes_from_jaxs_own_cache_is_not_put_into_another_file(cache, tmp_path):
    """On a CPU it cannot be: the functions of an executable that was read are in no file that it writes."""
    code = (
        "import jax, numpy as np, sys; jax.config.update('jax_compilation_cache_dir', sys.argv[1]);"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0);"
        "from metarun.engine.compiled import Program; import shutil, pathlib, os;"
        "kept = pathlib.Path(os.environ['METARUN_CACHE_DIR']) / 'executables';"
        "f = lambda x: (jax.numpy.sin(x) @ x.T).sum(0);"
        "x = np.ones((64, 64), np.float32);"
        "one = Program(f, 'a'); a = one(x); had = len(list(kept.glob('*')));"
        "shutil.rmtree(kept, ignore_errors=True);"
        "f.__name__ = '<lambda>'; jax.clear_caches(); two = Program(f, 'a'); b = two(x);"
        "print(had, len(list(kept.glob('*'))), bool((a == b).all()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "xla")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "0", "True"]


def test_all_but_the_meta_steps_are_compiled_quickly_unless_xla_is_told_how(cache, monkeypatch):
    run = build_run(on_blobs("train.meta_batch=2"))
    mesh = run.hardware.set_up(2)
    told = {}

    def compiled_with(lowered, compiler_options=None):
        told["options"] = compiler_options
        raise NotImplementedError

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled_with)

    def options(program, *arguments):
        with pytest.raises(NotImplementedError):
            program.executable(*arguments)
        return told.pop("options")

    data, key = run.tasks.load("train"), jax.random.key(0)
    made, of_the_other = programs(run.shape, mesh, 1), {"xla_cpu_use_fusion_emitters": False}
    for flags, quick in (
        ("", compiled.QUICK),
        ("--xla_backend_optimization_level=2", of_the_other),
        (os.environ["XLA_FLAGS"], {}),
    ):
        monkeypatch.setenv("XLA_FLAGS", flags)
        state = jax.eval_shape(made.start.jitted, data, run.numbers, key)
        given = made.evaluate.arguments(state.params, data, key, run.numbers["eval_learner"], None)
        assert options(made.start, data, run.numbers, key) == quick
        assert options(made.sample, data, key, np.arange(2)) == quick
        assert options(made.evaluate.program, *given) == quick
        assert options(made.meta_steps, state, data, run.numbers, key, np.int32(1)) == {}


def test_what_shapes_a_program_is_in_its_description():
    run = run_of()
    for part in (run.shape.learner, run.shape.model, run.shape.tasks, run.shape.optimizer, run.shape.inner):
        assert description(part) == description(part)
    assert description(run.shape.learner) != description(dataclasses.replace(run.shape.learner, first_order=True))
    assert description(run.shape.model) != description(run_of("model.filters=32").shape.model)
    assert description(run.shape.tasks) != description(run_of("task.ways=6").shape.tasks)
    assert description(run.shape.optimizer) != description(run_of("optimizer=sgd").shape.optimizer)
    halving = [run_of("optimizer=adam_halving", f"optimizer.learning_rate.transition_steps={n}") for n in (10, 20)]
    assert description(halving[0].shape.optimizer) != description(halving[1].shape.optimizer)
    assert description(run_of("learner.inner_lr=0.1").shape.learner) == description(run.shape.learner)
    assert "0x" not in description((run.shape.optimizer, run.shape.learner, run.shape.model))


def test_what_is_not_metaruns_own_is_not_kept():
    run = build_run(on_blobs())
    with pytest.raises(Indescribable):
        description(run.tasks)
    with pytest.raises(Indescribable):
        description(lambda: 0)
    mesh = run.hardware.set_up(run.train.meta_batch)
    made = programs(run.shape, mesh, 1)
    assert [program.made_from for program in (made.start, made.meta_steps, made.evaluate.program, made.sample)] == [
        None
    ] * 4
    own = run_of("model=mlp", "model.hidden=[8]")
    made = programs(own.shape, mesh, 1)
    assert None not in (made.start.made_from, made.meta_steps.made_from, made.evaluate.program.made_from)


def test_a_program_that_is_compiled_ahead_is_waited_for_and_compiled_once(cache):
    begun, may_end = threading.Event(), threading.Event()
    traced, precise = [], []

    def slow(x):
        traced.append(threading.current_thread().name)
        begun.set()
        may_end.wait(10)
        precise.append(jax.config.values["jax_default_matmul_precision"])
        return x + 1

    program = Program(slow, None)
    engine.ahead((program, (jax.ShapeDtypeStruct((2,), np.float32),)))
    jax.config.update("jax_default_matmul_precision", "high")  # as by whoever goes on meanwhile
    try:
        assert begun.wait(10)
        assert engine.compiling_ahead()
        threading.Timer(0.05, may_end.set).start()
        np.testing.assert_array_equal(program(jnp.ones(2)), np.full(2, 2.0))
    finally:
        jax.config.update("jax_default_matmul_precision", "highest")
    assert (traced, precise) == (["compiling ahead"], ["highest"])
    for _ in range(200):
        if not engine.compiling_ahead():
            break
        time.sleep(0.05)
    assert not engine.compiling_ahead()


def test_what_fails_ahead_fails_again_where_it_is_called(cache):
    def wrong(x):
        raise ValueError("not with such a shape")

    program = Program(wrong, None)
    engine.ahead((program, (jnp.ones(2),)))
    for _ in range(2):
        with pytest.raises(ValueError, match="not with such a shape"):
            program(jnp.ones(2))


def test_what_was_not_used_for_longest_goes_first(cache, counted, monkeypatch):
    for i in range(3):
        counted(f"test {i}")[0](jnp.ones(3), {"y": np.float32(1)})
        newest = max(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        time.sleep(0.02)
    size = newest.stat().st_size
    monkeypatch.setattr(executables, "MOST_BYTES", 2.5 * size)
    program, _ = counted("test 3")
    executable = program.executable(jnp.ones(3), {"y": np.float32(1)})
    assert len(list(cache.iterdir())) == 2
    assert newest in cache.iterdir()
    keep(cache / "nowhere" / "\0", executable)  # what cannot be written is done without


# R2D2's ridge regression calls LAPACK. make slow takes them all, MANN's first parameters with them, which do so, too.
LEARNERS = [name if name == "r2d2" else pytest.param(name, marks=pytest.mark.slow) for name in choices("learner")]


@pytest.mark.parametrize("learner", LEARNERS)
def test_what_one_process_compiled_another_runs(learner, tmp_path, small_arrays):
    """A whole run, its process started twice: the second one compiles nothing, and ends with the same figures."""
    task = "sinusoid" if learner == "cnp" else "arrays" if learner in GIVEN else "bandits"
    small = ["model=mlp", "model.hidden=[8]", "train.meta_batch=2", "train.steps=1", "eval.episodes=2"]
    small += ["eval.inner_steps=[]", "eval.inductive=none"]
    arrays = [f"task.path={small_arrays}", "task.ways=3", "task.shots=1", "train.task.ways=3"]
    data = arrays if task == "arrays" else []
    small += ["learner.units=8", "learner.memory=[8,4]"] if learner == "mann" else []
    small += ["optimizer.minibatches=2"] if task == "bandits" else []
    command = [sys.executable, "-P", "-m", "metarun", f"task={task}", f"learner={learner}", *data, *small]
    command += ["eval.val_episodes=2", "hardware.task_chunk=1", "logger=none"]
    environment = os.environ | {"METARUN_CACHE_DIR": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    found, kept = [], []
    for name in ("one", "other"):
        done = subprocess.run(
            [*command, f"run.dir={tmp_path / name}"], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / name / "results.json").read_text())["test"])
        kept.append({path.name: path.stat().st_ino for path in (tmp_path / "executables").iterdir()})
    assert found[0] == found[1]
    assert kept[0] == kept[1]
    assert len(kept[0]) >= (3 if learner in ("scratch", "nearest_neighbour") else 4)


def test_a_program_that_calls_what_is_not_known_is_not_kept(cache, monkeypatch):
    def call_back(x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def triangle(x):
        return jnp.linalg.qr(x)[1]

    def kept(function):
        Program(function, uuid.uuid4().hex).executable(jnp.ones((2, 2)))
        return len(list(cache.glob("*")))

    assert kept(call_back) == 0
    assert kept(triangle) == 1
    monkeypatch.setattr(compiled, "LAPACK", "of another library")  # as if that were what is made ready
    assert kept(triangle) == 1
