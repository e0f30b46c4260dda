"""What happens to long runs, done to them: numbers that are none, damaged and missing files, signals, bad archives."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import composed, run_of
from test_cli import complete, metarun, rows, start, wait_for

from metarun import config, engine, inner, nonfinite, separation, train
from metarun.checkpoint import Checkpoints
from metarun.core import DataError, State
from metarun.log import MetricsFile
from metarun.program import net_of
from metarun.stop import Interrupted, Stop
from metarun.tasks import omniglot
from metarun.text import first_line, one_line

SMALL = ("task=sinusoid", "model.hidden=[8]", "train.meta_batch=4", "eval.episodes=8", "eval.val_episodes=8")
RUN = run_of(*SMALL)
NET = net_of(RUN.model, RUN.tasks, RUN.learner)


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """A learner whose meta-gradient is not a number at some meta-steps."""

    healthy: Any
    at: tuple[int, ...]

    def __getattr__(self, name):
        return getattr(self.healthy, name)

    def meta_grad(self, net, params, episodes, keys, step):
        grads, metrics = self.healthy.meta_grad(net, params, episodes, keys, step)
        factor = jnp.where(jnp.isin(step, jnp.array(self.at)), jnp.nan, 1.0)
        return jax.tree.map(lambda g: g * factor, grads), metrics


def meta_steps(poisoned_at: tuple[int, ...], skip_at_most: int, **clip: float):
    guard = engine.Guard(clip.get("clip_value"), clip.get("clip_norm"), skip_at_most)
    mesh = Mesh(np.array(jax.devices()[:2]), ("tasks",))
    learner = Poisoned(RUN.learner, poisoned_at)
    numbers: dict = {"learner": {}, "optimizer": {}}
    program = engine.make_meta_steps(
        learner, NET, RUN.tasks, lambda _: optax.sgd(0.01), mesh, 4, 2, RUN.inner, guard
    )  # fmt: skip
    begin = engine.make_start(RUN.learner, NET, RUN.tasks, lambda _: optax.sgd(0.01))
    state = begin((), numbers, engine.stream(0, engine.INIT))
    return state, lambda state, n: program(state, (), numbers, engine.stream(0, engine.TRAIN), n)


def equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_meta_step_that_is_not_finite_ends_the_call_with_the_state_before_it():
    state, run = meta_steps((2,), skip_at_most=0)
    two = jax.device_get(run(jax.tree.map(jnp.copy, state), 2)[0])
    stopped, report = run(state, 5)
    assert report.stopped
    assert int(stopped.step) == 2
    equal(jax.device_get(stopped), two)
    again, report = run(stopped, 5)  # the call that was already on its way changes nothing more
    assert report.stopped
    equal(jax.device_get(again), two)


def test_a_skipped_meta_step_changes_nothing_but_the_counts():
    state, run = meta_steps((2,), skip_at_most=1)
    two = run(jax.tree.map(jnp.copy, state), 2)[0]
    expected = jax.device_get(run(two._replace(step=two.step + 1), 2)[0])
    got, report = run(state, 5)
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


def test_clipping_is_the_closed_form_and_differentiable_at_zero():
    grads = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([12.0])}
    equal(inner.clipped(grads, None, None), grads)
    equal(inner.clipped(grads, 3.5, None), {"a": jnp.array([3.0, -3.5]), "b": jnp.array([3.5])})
    jax.tree.map(
        lambda got, g: np.testing.assert_allclose(got, g * 6.5 / 13, rtol=1e-6), inner.clipped(grads, None, 6.5), grads
    )
    equal(inner.clipped(grads, None, 20.0), grads)
    slope = jax.jacobian(lambda g: inner.clipped(g, None, 1.0))(jnp.zeros(2))
    np.testing.assert_allclose(slope, np.eye(2))


def test_an_inner_step_is_clipped_in_training_and_in_evaluation_alike():
    """On w^2 / 2 from 10 the gradient is 10: clipped to 1, three steps of 0.1 lead to 9.7."""
    with inner.differentiated(inner.Inner("mixed", 0, False, clip_value=1.0)):
        w = inner.descend(lambda w, _: w**2 / 2, jnp.array(10.0), optax.sgd(0.1), 3, first_order=False)
    np.testing.assert_allclose(w, 9.7, rtol=1e-6)


def run_in(directory: Path, *overrides: str) -> config.Run:
    values = composed("logger=none", *SMALL, *overrides)
    values["run"]["dir"] = str(directory)
    return config.build_run(values)


def test_what_is_not_finite_is_kept_and_runs_once_more_task_by_task(tmp_path):
    run = run_in(tmp_path / "run", "train.steps=4", "learner.inner_lr=1e30")
    with pytest.raises(nonfinite.NotFinite, match=r"meta-step 1 of MAML is not finite.*metarun replay"):
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


class Interrupting(Stop):
    """Asked to stop in the middle of the first validation."""

    def __init__(self) -> None:
        super().__init__(None)
        self.times = 0

    def check(self) -> None:
        self.times += 1
        if self.times == 1:
            raise Interrupted


def test_a_run_stopped_in_a_validation_goes_on_to_the_same_end(tmp_path, monkeypatch):
    settings = ("train.steps=12", "train.eval_every=4", "train.save_every=6", "eval.inner_steps=[]")
    whole = train.train(run_in(tmp_path / "whole", *settings))

    @contextmanager
    def interrupting(_):
        yield Interrupting()

    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_signals", interrupting)
        with pytest.raises(Interrupted, match="stopped and saved at meta-step 4 of 12"):
            train.train(run_in(tmp_path / "broken", *settings))
    broken = train.train(run_in(tmp_path / "broken", *settings))
    assert broken["test"] == whole["test"]
    assert broken["state"] == whole["state"]
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def small_state(step: int) -> State:
    params = {"layer": {"w": jnp.arange(6.0) + step, "b": jnp.full(2, float(step))}}
    zero = jnp.zeros((), jnp.int32)
    return State(jnp.int32(step), params, (), {"loss": jnp.float32(step)}, zero, zero, zero)


def host(best: dict | None = None) -> dict:
    return {"best": best, "seconds": 1.5, "command": "metarun", "unvalidated": False}


@pytest.fixture
def two_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        digest = checkpoints.save_best(step, small_state(step).params)
        checkpoints.save(small_state(step), host({"step": step, "digest": digest, "mean": 0.5}))
    checkpoints.close()
    return tmp_path / "checkpoints"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(two_checkpoints, tmp_path, damage):
    """Every file of the newest checkpoint, one after another: what comes back is its content, or the one before."""
    steps = []
    files = [f for name in ("last/2", "best/2") for f in (two_checkpoints / name).rglob("*") if f.is_file()]
    for i, file in enumerate(f for f in files if f.stat().st_size):
        copy = tmp_path / f"copy{i}"
        shutil.copytree(two_checkpoints, copy)
        damage(copy / file.relative_to(two_checkpoints))
        checkpoints = Checkpoints(copy)
        state, found = checkpoints.restore(small_state(0))
        step = int(state.step)
        equal(state, small_state(step))
        equal(checkpoints.restore_best(found["best"], state.params), small_state(step).params)
        assert (copy / "damaged-2").exists() == (step == 1)
        steps.append(step)
        checkpoints.close()
    assert 1 in steps


def test_with_no_whole_checkpoint_the_run_is_refused_and_nothing_is_deleted(two_checkpoints):
    for file in two_checkpoints.rglob("*"):
        if file.is_file():
            truncate(file)
    before = {file: file.read_bytes() for file in two_checkpoints.rglob("*") if file.is_file()}
    checkpoints = Checkpoints(two_checkpoints)
    with pytest.raises(DataError, match=r"no whole checkpoint.*nothing was deleted"):
        checkpoints.restore(small_state(0))
    checkpoints.close()
    assert before == {file: file.read_bytes() for file in before}


def test_a_checkpoint_that_cannot_be_written_is_told_once_and_tried_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(small_state(1), host())
    checkpoints.wait()
    folder = tmp_path / "checkpoints" / "last"
    shutil.move(folder, tmp_path / "aside")
    folder.write_text("a file where the directory was")
    for step in (2, 3):
        checkpoints.save(small_state(step), host())
        checkpoints.wait()
    assert checkpoints.unsaved is not None
    assert checkpoints.whole == 1
    folder.unlink()
    shutil.move(tmp_path / "aside", folder)
    checkpoints.save(small_state(4), host())
    checkpoints.close()
    assert (checkpoints.unsaved, checkpoints.whole) == (None, 4)
    again = Checkpoints(tmp_path / "checkpoints")
    equal(again.restore(small_state(0))[0], small_state(4))
    again.close()


def test_rows_that_the_disk_does_not_take_come_later_whole(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    file = MetricsFile(folder / "metrics.jsonl", 0)
    file.write(1, "train", {"loss": 0.5})
    shutil.move(folder, tmp_path / "away")
    file.write(2, "train", {"loss": float("nan")})
    assert file.close() == ["1 rows of metrics.jsonl could not be written"]
    shutil.move(tmp_path / "away", folder)
    file.write(3, "val", {"loss": 0.25})
    assert file.close() == []
    assert [(row["step"], row["loss"]) for row in rows(folder)] == [(1, 0.5), (2, None), (3, 0.25)]


def test_a_full_disk_leaves_no_half_row(tmp_path):
    """A limit on the size of files stands for the disk: the run goes on, says so, and ends with code 1."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "sys.argv = ['metarun', *sys.argv[1:]]; from metarun.cli import main; main()"
    )
    settings = (*SMALL, "train.steps=60", "train.log_every=1", "logger=none", "run.dir=RUN")
    done = subprocess.run(
        [sys.executable, "-c", script, *settings], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "metrics.jsonl" in done.stderr
    assert "test mse" in done.stdout  # the figures are told all the same
    for line in (tmp_path / "RUN" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_sigterm_while_all_is_being_prepared_ends_the_process_at_once(tmp_path):
    process = start("task=strokes", "logger=none", "run.dir=RUN", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "RUN" / "config.yaml").exists(), process)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert time.monotonic() - begin < 10  # compiling this takes longer
    assert err == "metarun: stopped; nothing was left to save; go on with: metarun run.dir=RUN\n"


def test_max_minutes_stops_in_time_with_all_of_it_saved(tmp_path):
    settings = (*SMALL, "train.steps=20000", "train.log_every=1", "logger=none", "run.dir=RUN")
    err = metarun(*settings, "run.max_minutes=0.15", cwd=tmp_path, code=75).stderr
    assert "stopped and saved at meta-step" in err
    last = max(int(path.name) for path in complete(tmp_path / "RUN"))
    assert last < 20000
    assert [row["step"] for row in rows(tmp_path / "RUN") if row["split"] == "train"] == list(range(1, last + 1))


class Classes:
    """Tasks of a few named classes."""

    def __init__(self, **classes: list[int]) -> None:
        self.named = {name: np.array(values) for name, values in classes.items()}

    def examples(self, split, data):
        return self.named


def test_a_class_in_two_splits_is_refused_by_its_examples_or_its_name():
    new = {"train": Classes(a=[1, 2], b=[3, 4]), "val": Classes(c=[5, 6]), "test": Classes(d=[7, 1])}
    data = dict.fromkeys(new)
    found = separation.check(new, data)
    assert found["classes"] == {"train": 2, "val": 1, "test": 1}
    assert found["duplicates"] == [["train: a[0]", "test: d[1]"]]
    with pytest.raises(DataError, match="1 classes stand in train and in test alike, 'b'"):
        separation.check({**new, "test": Classes(other=[4, 3])}, data)
    with pytest.raises(DataError, match="stand in val and in test alike, 'c'"):
        separation.check({**new, "test": Classes(c=[8, 9])}, data)


ARCHIVE = omniglot.Archive("images_background.zip", 1, "0" * 64)


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused_unread(tmp_path):
    path = tmp_path / "images_background.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(20):
            file.writestr(f"images_background/A/character01/{i:04}.png", bytes(2**22))
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match="its drawings unpack to 83,886,080 bytes"):
        omniglot.read(path, ARCHIVE)


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png"])
def test_an_archive_with_names_that_lead_elsewhere_is_refused_and_writes_nothing(tmp_path, name):
    path = tmp_path / "box" / "images_background.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for i in range(20):
            file.writestr(f"{name[:-4]}/{i:04}.png", b"no image")
    with pytest.raises(DataError, match="its drawings are not the published ones"):
        omniglot.read(path, ARCHIVE)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_download_of_something_else_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path))
    delivered = tmp_path / "images_background.zip"

    def download(url, name, data_dir):
        delivered.write_text("<html>please log in</html>")
        return delivered

    monkeypatch.setattr(omniglot, "download", download)
    with pytest.raises(DataError, match=r"is not Omniglot's images_background\.zip"):
        omniglot.load_drawings(None)
    assert not delivered.exists()


def test_control_characters_from_files_reach_no_terminal():
    assert one_line("run \x1b[31mred\x07\nnext") == "run \\x1b[31mred\\x07 next"
    assert first_line(ValueError("a\x1b[2J\nb")) == "a\\x1b[2J"
    assert first_line(ValueError()) == "ValueError"


def test_a_name_with_markup_and_escape_sequences_stays_text(tmp_path):
    name = "[bold]run[/bold] \x1b[31m<b>"
    done = metarun(*SMALL, "train.steps=2", "logger=none", f"run.name={name!r}", "run.dir=RUN", cwd=tmp_path)
    assert "\x1b" not in done.stdout
    assert "[bold]run[/bold] \\x1b[31m<b>: " in done.stdout


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a directory")
def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    err = metarun(*SMALL, "logger=none", "run.dir=/proc/run", cwd=tmp_path, code=2).stderr
    assert err.startswith("metarun: run.dir: /proc/run cannot be made")
    assert err.count("\n") == 1
