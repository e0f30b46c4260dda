"""Examples that stay on the host: the same episodes, the same numbers, and little memory."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from jax.sharding import Mesh
from support import composed, equal, rows, run_of, saved, to_yaml
from support import placed as run_placed

from metarun import engine
from metarun.core import ConfigError
from metarun.data import Pool, draw, let_go, look_up
from metarun.engine import gathered, source
from metarun.engine.compiled import signature_of
from metarun.engine.gathered import Examples, Gathered, can_be_gathered
from metarun.run import bench, nonfinite, separation, train
from metarun.run.clock import Clock
from metarun.tasks import classes, groups
from metarun.tasks.episode import by_class
from metarun.tasks.folder import Folder

SMALL = (
    "task=folder", "task.image.side=6", "task.ways=3", "task.queries=2", "model=mlp", "model.hidden=[4]",
    "learner=protonet", "train.task.ways=3", "train.meta_batch=4", "train.steps=6", "eval.episodes=10",
    "eval.val_episodes=7",    "eval.inner_steps=[]", "eval.inductive=none", "logger=none", "hardware.task_chunk=1",
)  # fmt: skip
K_TRAIN = engine.stream(0, engine.TRAIN)
K_EVAL = engine.stream(0, engine.EVAL)


@pytest.fixture
def run(small_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    return run_of(*SMALL, f"task.path={small_folder}")


def held(run, where, mesh):
    data = {split: (run.tasks, run.tasks.load(split)) for split in ("train", "test")}
    return engine.held(where, data, mesh)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_parameters_and_figures_are_those_of_data_in_memory_bit_for_bit(run, monkeypatch, devices):
    monkeypatch.setattr(source, "LONGEST_PART", 3)
    mesh = Mesh(np.array(jax.devices()[-devices:]), ("tasks",))  # of one it is not the one that tells the rows
    programs = engine.programs(run.shape, mesh, 1)
    first = jax.device_get(engine.first_state(run.shape, mesh, held(run, "device", mesh)["train"], run.numbers, 0))

    def trained_and_tested(where):
        data = held(run, where, mesh)
        state = engine.placed(first, mesh)
        parts = engine.in_parts(run.tasks, data["train"], engine.of_meta_step, K_TRAIN, 4, end=5)
        step, lengths = 0, []
        while step < 5:
            part, most = parts.at(step)
            n = min(5 - step, most, 3 if step else 1)  # a call need not use its part up
            state, report = programs.meta_steps(state, part, run.numbers, K_TRAIN, np.int32(n))
            step += n
            lengths.append(n)
        tested = programs.evaluate(state.params, data["test"], 10, K_EVAL, run.numbers["eval_learner"])
        index = np.array([5, 2, 9])
        drawn = engine.for_episodes(run.eval_tasks, data["test"], engine.of_evaluation, K_EVAL, index)
        return jax.device_get((state, report)), tested, programs.sample(drawn, K_EVAL, index.astype(np.int32)), lengths

    in_memory, on_host = trained_and_tested("device"), trained_and_tested("host")
    assert (in_memory[3], on_host[3]) == ([1, 3, 1], [1, 2, 2])
    equal(on_host[:3], in_memory[:3])
    train, test = held(run, "host", mesh).values()
    part, _ = engine.in_parts(run.tasks, train, engine.of_meta_step, K_TRAIN, 4).at(0)
    assert signature_of((engine.stand_in(run.tasks, train, 4),)) == signature_of((part,))  # as it is compiled ahead
    part, _ = engine.in_parts(run.eval_tasks, test, engine.of_evaluation, K_EVAL, programs.evaluate.at_once).at(0)
    assert signature_of((programs.evaluate.stand_in(test),)) == signature_of((part,))
    assert int(in_memory[0][0].step) == 5


def test_a_run_that_is_broken_off_goes_on_to_the_end_of_one_in_memory(small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "LONGEST_PART", 3)
    monkeypatch.setattr(Clock, "steps_per_call", lambda _: 100)
    overrides = (*SMALL, f"task.path={small_folder}", "train.eval_every=2", "train.log_every=2", "eval.shots=[2]")

    def result(name, *others):
        return train.train(run_placed(composed(*overrides, *others), tmp_path / name))

    whole = result("device", "hardware.data=device")
    with monkeypatch.context() as patch:
        patch.setattr(train.Loop, "test", lambda _: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            result("host", "hardware.data=host", "train.steps=4")
    broken = result("host", "hardware.data=host")
    assert broken["test"] == whole["test"]
    assert broken["test_by_shots"] == whole["test_by_shots"]
    equal(saved(tmp_path / "host"), saved(tmp_path / "device"))
    assert rows(tmp_path / "host") == rows(tmp_path / "device")
    examples = [dict(np.load(tmp_path / name / "examples.npz", allow_pickle=True)) for name in ("host", "device")]
    equal(*examples)


def test_a_call_whose_part_begins_after_the_state_changes_nothing(run):
    """The call before it has ended early; with the episodes of another meta-step it would hide why."""
    mesh = run.hardware.set_up(4)
    data = held(run, "host", mesh)["train"]
    state = engine.first_state(run.shape, mesh, data, run.numbers, 0)
    before = jax.device_get(state)
    part, _ = engine.in_parts(run.tasks, data, engine.of_meta_step, K_TRAIN, 4, end=5).at(1)
    state, report = engine.programs(run.shape, mesh, 1).meta_steps(state, part, run.numbers, K_TRAIN, np.int32(2))
    equal(jax.device_get(state), before)
    assert not report.stopped


def test_a_meta_step_that_is_not_finite_is_told_task_by_task_as_in_memory(small_folder, tmp_path):
    run = run_placed(composed(*SMALL, f"task.path={small_folder}"), tmp_path)
    mesh = run.hardware.set_up(4)
    state = engine.first_state(run.shape, mesh, held(run, "device", mesh)["train"], run.numbers, 0)
    nonfinite.keep(run, state._replace(step=np.int32(3)), {})
    told = []
    for where in ("device", "host"):
        config = run.config | {"hardware": run.config["hardware"] | {"data": where}}
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        told.append(nonfinite.replay(tmp_path))
    assert told[1] == told[0]
    assert told[0]["meta_step"] == 4
    assert len({task["metrics"]["loss"] for task in told[0]["tasks"]}) == 4


def test_a_bench_takes_its_data_from_the_host(run, monkeypatch):
    monkeypatch.setattr(source, "LONGEST_PART", 2)
    monkeypatch.setattr(engine.speed, "SECONDS_PER_REPEAT", 0.0)
    monkeypatch.setattr(engine.speed, "matrix_product", lambda *_: 100.0)
    on_host = replace(run, hardware=replace(run.hardware, data="host"))
    made, program = [], source.rows_program

    def counted(*of):
        rows = program(*of)

        def call(data, key, numbers):
            made.extend(numbers[numbers > 0].tolist())
            return rows(data, key, numbers)

        return call

    monkeypatch.setattr(source, "rows_program", counted)
    assert bench.bench(on_host)["repeats"] == 7
    assert made[:7] == [1, 2, 3, 4, 5, 6, 7]  # two meta-steps before the repeats, of one each


class Recorded:
    """Stands for data on the host: what is gathered is told as (first, wanted)."""

    def __init__(self):
        self.gathers = []

    def longest_part(self, tasks, count):
        return 4

    def gathered(self, tasks, rule, key, numbers, wanted, count, first):
        assert numbers.tolist() == list(range(first, first + 4))
        self.gathers.append(first)
        return first, wanted


def test_the_part_after_the_one_at_work_is_gathered_ahead_and_none_after_the_end():
    data = Recorded()
    ahead = source.Ahead(None, data, None, None, count=1, end=13, longest=10)
    assert ahead.at(3) == ((3, 4), 4)
    assert ahead.at(6) == ((3, 4), 1)
    assert ahead.next[0] == 7
    assert ahead.at(7) == ((7, 4), 4)
    assert ahead.at(11) == ((11, 2), 4)
    assert ahead.next is None
    assert ahead.at(1) == ((1, 4), 4)  # anew, as after another state has been restored
    assert ahead.at(9) == ((9, 4), 4)  # what was on its way is not what is asked for
    assert data.gathers == [3, 7, 11, 1, 5, 9]


@pytest.mark.parametrize(
    ("where", "size", "free", "expected"),
    [
        ("auto", 25, 100, False), ("auto", 26, 100, True), ("auto", 10**15, None, False), ("device", 10**15, 1, False),
        ("host", 1, None, True),
    ],
)  # fmt: skip
def test_what_takes_more_than_a_quarter_stays_on_the_host(where, size, free, expected):
    assert source.stays_on_host(where, size, free) is expected


def test_large_data_stay_on_the_host_with_a_line_that_says_so(run, monkeypatch, caplog):
    mesh = run.hardware.set_up(4)
    size = sum(leaf.nbytes for split in ("train", "test") for leaf in jax.tree.leaves(run.tasks.load(split)))
    caplog.set_level("INFO", logger="metarun")
    monkeypatch.setattr(source, "free_device_bytes", lambda _: 4 * size)
    assert isinstance(held(run, "auto", mesh)["train"], Pool)
    assert caplog.text == ""
    monkeypatch.setattr(source, "free_device_bytes", lambda _: 4 * size - 1)
    assert isinstance(held(run, "auto", mesh)["train"], source.OnHost)
    assert "the examples stay on the host: the data take" in caplog.text
    monkeypatch.setattr(source.hosts, "agreed", lambda _: 4 * size)  # what process 0 has free
    assert isinstance(held(run, "auto", mesh)["train"], Pool)
    endless = run_of("task=sinusoid")
    assert engine.held("auto", {"train": (endless.tasks, endless.tasks.load("train"))}, mesh) == {"train": ()}


@dataclass(frozen=True)
class OneByOne(Folder):
    """Draws each class by itself, in a trace of its own."""

    def sample(self, data, key):
        rows = jax.vmap(lambda key: draw(data, key, 1, 3)[1])(jax.random.split(key, 3))
        return by_class(data.x[rows.reshape(3, 3)].astype(jnp.float32), 1, jnp.arange(3))


@dataclass(frozen=True)
class Twice(Folder):
    def sample(self, data, key):
        k_first, k_again = jax.random.split(key)
        draw(data, k_first, 2, 2)
        return classes.sample(self, data, k_again)


@dataclass(frozen=True)
class Alone(Folder):
    def sample(self, data, key):
        rows = jax.random.randint(key, (3, 3), 0, 10)
        return by_class(data.x[rows].astype(jnp.float32), 1, jnp.arange(3))


def test_tasks_whose_examples_cannot_stay_on_the_host_are_refused_in_a_line(run, tmp_path):
    data = run.tasks.load("train")
    assert can_be_gathered(run.tasks, data)
    for kind in (OneByOne, Twice, Alone):
        jax.eval_shape(kind(**vars(run.tasks)).sample, data, jax.random.key(0))
        assert not can_be_gathered(kind(**vars(run.tasks)), data)
    endless = run_placed(composed("task=sinusoid", "logger=none", "hardware.data=host"), tmp_path / "run")
    with pytest.raises(ConfigError) as error:
        train.train(endless)
    assert str(error.value) == (
        "hardware.data=host: sinusoid has no pool of examples that each episode draws from once; use auto or device"
    )
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_was_gathered_is_found_by_its_number_and_the_place_of_the_task():
    examples = Examples(np.arange(24).reshape(3, 4, 2), np.arange(24, dtype=np.float32).reshape(3, 4, 2, 1))
    data = {"pool": Pool(Gathered(examples, np.int32(7)), None, None), "other": 5}
    at = gathered.at(data, 8, 6)
    assert at["other"] == 5
    assert at["pool"].x.tolist() == [12, 13]  # of number 7 + 1, the task in place 6 of 4
    assert at["pool"].y.tolist() == [[12.0], [13.0]]
    assert at["pool"].places(np.array([[99], [98]])).tolist() == [[0], [1]]
    with pytest.raises(ValueError, match="3 examples are drawn where 2 were gathered"):
        at["pool"].places(np.arange(3))


@dataclass(frozen=True)
class Pairs:
    """A regression on groups, whose rows have targets."""

    shots: int = 2
    queries: int = 3
    sample = groups.sample


def test_targets_come_along_with_their_inputs():
    x = np.arange(200, dtype=np.float32).reshape(40, 5)
    pool = Pool(x, np.array([0, 10, 25], np.int32), np.array([10, 15, 15], np.int32), x[:, :1] + 0.5)
    mesh = Mesh(np.array(jax.devices()[:1]), ("tasks",))
    tasks, index = Pairs(), np.array([3, 1])
    on_host = engine.held("host", {"train": (tasks, pool)}, mesh)["train"]
    drawn = engine.for_episodes(tasks, on_host, engine.of_evaluation, K_EVAL, index)

    @jax.jit
    def both(drawn, pool, place, number):
        found = tasks.sample(engine.at(drawn, place, 0), jax.random.key(9))
        return found, tasks.sample(pool, engine.task_key(K_EVAL, number)[0])

    for place, number in enumerate(index):
        equal(*both(drawn, pool, place, number))


@pytest.fixture
def mapped(tmp_path):
    """64 MB on the disk, in rows of a page."""
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.dtype(np.uint8), (2**14, 4096))
    array[:] = np.random.default_rng(0).integers(256, size=(2**14, 1), dtype=np.uint8)
    array.flush()
    del array
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_what_is_read_of_the_disk_is_not_kept_in_memory(mapped):
    rows = np.random.default_rng(1).permutation(2**14)[: 2**12].reshape(4, -1)
    expected = np.asarray(mapped)[rows, 0]
    let_go(mapped)
    into = np.ones((4, 2**10, 4096), np.uint8)
    before = resident()
    look_up(mapped, rows, into)
    assert resident() - before < 3 * 2**23
    np.testing.assert_array_equal(into[..., 0], expected)
    assert (into == into[..., :1]).all()
    assert int(mapped.sum()) >= 0
    assert resident() - before > 2**25  # it can be seen by this measure
    let_go(mapped[5:])
    assert resident() - before < 3 * 2**23
    let_go(into)  # of no disk: stays as it is
    np.testing.assert_array_equal(into[..., 0], expected)


def test_splits_are_told_apart_without_keeping_them_in_memory(mapped):
    parts = {"train": mapped[: 2**13], "val": mapped[2**13 : 2**13 + 2**12], "test": mapped[2**13 + 2**12 :]}
    found = {
        split: {f"{split} {i}": np.asarray(part[i : i + 2**10]) for i in range(0, len(part), 2**10)}
        for split, part in parts.items()
    }
    in_memory = {split: {name: np.array(x) for name, x in of.items()} for split, of in found.items()}
    expected = separation.compare(in_memory), separation.digest_of_all(in_memory)
    let_go(mapped)
    before = resident()
    assert separation.compare(found) == expected[0]
    assert separation.digest_of_all(found) == expected[1]
    assert resident() - before < 2**25
