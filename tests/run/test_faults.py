"""What happens to long runs, done to them: damaged checkpoints, full disks, signals, names that are not text."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from support import SMALL, complete, equal, rows, run_in, start

from metarun.command.train import of_the_disk
from metarun.core import ConfigError, DataError, State
from metarun.files import WRITING
from metarun.learned import load
from metarun.run import checkpoint, log, loggers, loop, quiet, stop, train
from metarun.run.checkpoint import Checkpoints
from metarun.run.lock import only_process_in
from metarun.run.log import MetricsFile
from metarun.run.stop import Interrupted, Stop
from metarun.text import first_line, one_line


class Interrupting(Stop):
    """Asked to stop in the middle of the first validation."""

    def __init__(self) -> None:
        super().__init__(None)
        self.times = 0

    def check(self) -> None:
        self.times += 1
        if self.times == 1:
            raise Interrupted


@pytest.mark.parametrize(("steps", "save_every"), [(12, 6), (4, 4)], ids=["the first", "the last"])
def test_a_run_stopped_in_a_validation_goes_on_to_the_same_end(tmp_path, monkeypatch, steps, save_every):
    settings = (f"train.steps={steps}", "train.eval_every=4", f"train.save_every={save_every}", "eval.inner_steps=[]")
    whole = train.train(run_in(tmp_path / "whole", *settings))

    @contextmanager
    def interrupting(_):
        yield Interrupting()

    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_signals", interrupting)
        with pytest.raises(Interrupted, match=f"stopped and saved at meta-step 4 of {steps}"):
            train.train(run_in(tmp_path / "broken", *settings))
    broken = train.train(run_in(tmp_path / "broken", *settings))
    assert broken["test"] == whole["test"]
    assert broken["state"] == whole["state"] == load(tmp_path / "broken").used
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_a_signal_with_nothing_unsaved_waits_for_a_file_and_says_how_to_go_on(monkeypatch):
    said = []
    monkeypatch.setattr(stop, "leave", lambda message: said.append((message, WRITING._is_owned())))
    try:
        Stop(None, "; with the sweep: metarun -m run.dir=S").signal(signal.SIGTERM)
    finally:
        WRITING.release()
    (told,) = said
    how = "the same command; with the sweep: metarun -m run.dir=S"
    assert told == (f"stopped; nothing was left to save; go on with: {how}", True)


def test_standard_error_that_takes_no_line_keeps_no_process_from_its_end(monkeypatch):
    """The thread that hears signals would die of it, and the process hear none any more."""
    ended = []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stop, "os", SimpleNamespace(write=full, _exit=ended.append))
    stop.leave("stopped")
    assert ended == [75]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_log_that_a_full_disk_cut_short_is_closed_like_another(tmp_path):
    (tmp_path / "metarun.log").symlink_to("/dev/full")
    log.open_log(tmp_path)
    (file,) = [handler for handler in log.log.handlers if isinstance(handler, log.LogFile)]
    log.log.debug("a line")
    stream = file.stream
    log.close_log()
    assert stream.closed
    assert log.log.handlers == []


def small_state(step: int) -> State:
    params = {"layer": {"w": jnp.arange(6.0) + step, "b": jnp.full(2, float(step))}}
    zero = jnp.zeros((), jnp.int32)
    return State(jnp.int32(step), params, (), {"loss": jnp.float32(step)}, zero, zero, zero)


def host(best: dict | None = None) -> dict:
    return {"best": best, "seconds": 1.5, "command": "metarun", "unvalidated": False}


def test_of_a_save_that_fails_nothing_is_told_of_each_array():
    """Of the arrays that orbax saves at once, the first that fails ends the save: nobody waits for the others."""
    assert checkpoint.quiet is quiet
    program = """
import logging, sys
from types import SimpleNamespace
sys.unraisablehook = lambda one: print(one.exc_value)
import metarun.run.quiet
for text in ("Event loop is closed", "another error"):
    sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
logging.basicConfig(stream=sys.stdout, format="%(message)s")
for one in ("Task coro=<write(), defined at /orbax/types.py>", "Future exception='[tensorstore_spec=]'", "Task mine"):
    logging.getLogger("asyncio").error(f"exception was never retrieved: {one}")
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("another error\nexception was never retrieved: Task mine\n", "")


@pytest.fixture
def two_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        digest = checkpoints.save_best(step, small_state(step).params)
        checkpoints.save(small_state(step), host({"step": step, "digest": digest, "mean": 0.5}))
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_results_are_written_before_the_tracker_is_waited_for(tmp_path, monkeypatch):
    """That may take a minute, in which Ctrl-C ends the process."""
    there = []
    results = tmp_path / "run" / "results.json"
    monkeypatch.setattr(loggers.Nowhere, "close", lambda tracker, summary: there.append((results.exists(), summary)))
    found = train.train(run_in(tmp_path / "run", "train.steps=2", "eval.inner_steps=[]"))
    ((written, summary),) = there
    assert written
    assert {name: summary[f"test/{name}"] for name in found["test"]} == {
        name: figure["mean"] for name, figure in found["test"].items()
    }


def test_the_best_that_a_saved_state_tells_of_stays_while_later_states_cannot_be_saved(tmp_path, monkeypatch):
    """Parameters may still fit on a disk that is too full for a whole state."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save = checkpoint.ocp.CheckpointManager.save

    def too_large(manager, step, args, **more):
        if isinstance(args, checkpoint.ocp.args.Composite):
            raise OSError(28, "No space left on device")
        return save(manager, step, args=args, **more)

    for step in (1, 2, 3, 4):
        digest = checkpoints.save_best(step, small_state(step).params)
        with monkeypatch.context() as patch:
            if step > 1:
                patch.setattr(checkpoint.ocp.CheckpointManager, "save", too_large)
            checkpoints.save(small_state(step), host({"step": step, "digest": digest, "mean": 0.5}))
            checkpoints.wait()
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.restore(small_state(0))[1]["best"]["step"] == 1
    digest = again.save_best(5, small_state(5).params)
    again.save(small_state(5), host({"step": 5, "digest": digest, "mean": 0.5}))
    again.close()
    assert Checkpoints(tmp_path / "checkpoints").best.all_steps() == [4, 5]  # once one is, the others may go


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Of the arrays that orbax reads at once, the first that is damaged ends the reading: what comes of the others, which
# nobody waits for any more, finds the loop closed.
@pytest.mark.filterwarnings(r"ignore:[\s\S]*Event loop is closed:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage", [flip, *(pytest.param(how, marks=pytest.mark.slow) for how in (truncate, Path.unlink))],
    ids=lambda f: f.__name__,
)  # fmt: skip
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


def test_a_best_that_is_not_there_is_missing(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "best")
    checkpoints = Checkpoints(tmp_path / "copy")
    with pytest.raises(DataError, match=r"best/2 is missing$"):
        checkpoints.restore_best({"step": 2}, small_state(2).params)
    checkpoints.close()


def test_a_checkpoint_whose_content_was_changed_is_refused(tmp_path, monkeypatch):
    """By digests, whatever the format's own checks make of it: of the state, of what the host saved, of the best."""
    for what, wrong in (("digest", lambda tree: "another's"), ("sign", lambda host: host | {"signature": "another's"})):
        checkpoints = Checkpoints(tmp_path / what)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, what, wrong)
            checkpoints.save(small_state(1), host())
            checkpoints.wait()
        with pytest.raises(DataError, match="no whole checkpoint"):
            checkpoints.restore(small_state(0))
        checkpoints.save_best(1, small_state(1).params)
        with pytest.raises(DataError, match="its digest is not that of its content"):
            checkpoints.restore_best({"step": 1, "digest": "another's"}, small_state(1).params)
        checkpoints.close()


def test_the_newest_checkpoint_is_the_one_that_comes_back(two_checkpoints):
    checkpoints = Checkpoints(two_checkpoints)
    state, found = checkpoints.restore(small_state(0))
    equal(state, small_state(2))
    assert (found["best"]["step"], checkpoints.whole) == (2, 2)
    checkpoints.close()


def test_a_digest_tells_paths_types_shapes_and_numbers_apart():
    trees = (
        {"a": jnp.zeros(4)}, {"b": jnp.zeros(4)}, {"a": jnp.zeros((2, 2))}, {"a": jnp.zeros(4, jnp.int32)},
        {"a": jnp.zeros(4).at[3].set(1e-30)}, {"a": {"a": jnp.zeros(4)}},
    )  # fmt: skip
    assert len({checkpoint.digest(tree) for tree in trees}) == len(trees)
    assert checkpoint.digest({"a": jnp.zeros(4)}) == checkpoint.digest(trees[0])


def test_rows_past_the_restored_meta_step_are_dropped_and_those_of_a_validation_cut_short(tmp_path):
    written = [(2, "train"), (4, "train"), (4, "val"), (5, "train")]
    for again, kept in ((None, written[:3]), ("val", written[:2])):
        path = tmp_path / f"{again}.jsonl"
        path.write_text("".join(json.dumps({"step": step, "split": split}) + "\n" for step, split in written))
        MetricsFile(path, 4, again).close()
        assert [(row["step"], row["split"]) for row in map(json.loads, path.read_text().splitlines())] == kept


def test_what_is_no_row_is_left_out(tmp_path):
    path, whole = tmp_path / "metrics.jsonl", b'{"step": 1, "split": "train"}\n'
    broken = (
        b'{"step": null, "split": "val"}\n',
        b'{"step": 1, "split": "\xff"}\n',
        b'{"step": 2}\n',
        b"[1]\n",
        b'{"st',
    )
    path.write_bytes(whole + b"".join(broken))
    MetricsFile(path, 4).close()
    assert path.read_bytes() == whole


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
        "sys.argv = ['metarun', *sys.argv[1:]]; from metarun.command.main import main; main()"
    )
    settings = (*SMALL, "train.steps=60", "train.log_every=1", "eval.inner_steps=[]", "logger=none", "run.dir=RUN")
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


# What takes its main thread for minutes without Python being asked, as XLA does for a large program.
COMPILES_LONG = """
import hashlib
from metarun.command import main
from metarun.engine.compiled import Program

def compiles(self, signature, arguments):
    print("compiling", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

Program._load_or_compile = compiles
main.main()
"""


def test_sigterm_while_all_is_being_prepared_ends_the_process_at_once(tmp_path):
    process = start(*SMALL, "logger=none", "run.dir=RUN", cwd=tmp_path, program=("-c", COMPILES_LONG))
    assert "compiling\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err == "metarun: stopped; nothing was left to save; go on with: metarun run.dir=RUN\n"


def test_max_minutes_stops_in_time_with_all_of_it_saved(tmp_path, monkeypatch):
    """An hour, of which 50 minutes pass before the first row, and the others with the third."""
    passed, row = [0.0], loop.Loop.row

    def late(self, step, *rest):
        row(self, step, *rest)
        passed[0] = 3000.0 if step < 3 else 3600.0

    monkeypatch.setattr(loop.Loop, "row", late)
    monkeypatch.setattr(stop, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    settings = ("train.steps=1000", "train.log_every=1", "eval.inner_steps=[]", "run.max_minutes=60")
    with pytest.raises(Interrupted, match="stopped and saved at meta-step"):
        train.train(run_in(tmp_path / "RUN", *settings))
    last = max(int(path.name) for path in complete(tmp_path / "RUN"))
    assert 3 <= last < 1000
    assert [row["step"] for row in rows(tmp_path / "RUN") if row["split"] == "train"] == list(range(1, last + 1))


def test_max_minutes_that_are_over_before_the_run_came_any_further_are_a_mistake_and_a_signal_is_none(
    tmp_path, monkeypatch
):
    """A scheduler would start it for ever."""
    settings = ("train.steps=4", "train.eval_every=4", "train.save_every=4", "eval.inner_steps=[]")

    def over(*overrides: str, stopped_by: Callable[[float], Stop] = Stop) -> str:
        run = run_in(tmp_path / "RUN", *settings, *overrides)
        with pytest.raises((ConfigError, Interrupted)) as error:
            train.train(run, lambda minutes: nullcontext(stopped_by(minutes)))
        return str(error.value)

    def interrupted(_: loop.Loop) -> None:
        raise Interrupted

    class Signalled(Stop):
        def __init__(self, minutes: float) -> None:
            super().__init__(minutes)
            self.received = True

    soon = "run.max_minutes=1e-9"
    assert over(soon) == "run.max_minutes=1e-09: was over before the first meta-step; give it more"
    assert over(stopped_by=lambda _: Interrupting()).startswith("stopped and saved at meta-step 4 of 4")
    assert over(soon) == "run.max_minutes=1e-09: the validation alone takes longer; give it more"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "test", interrupted)
        assert over("run.max_minutes=60").startswith("stopped and saved at meta-step 4 of 4")
    assert over(soon) == "run.max_minutes=1e-09: the test alone takes longer; give it more"
    assert over(soon, stopped_by=Signalled).startswith("stopped and saved at meta-step 4 of 4")


def test_control_characters_from_files_reach_no_terminal():
    assert one_line("run \x1b[31mred\x07\nnext") == "run \\x1b[31mred\\x07 next"
    assert first_line(ValueError("a\x1b[2J\nb")) == "a\\x1b[2J"
    assert first_line(ValueError()) == "ValueError"


def test_a_name_with_markup_and_escape_sequences_stays_text(ended):
    name = "[bold]run[/bold] \x1b[31m<b>"
    said = ended(*SMALL, "train.steps=2", "eval.inner_steps=[]", "logger=none", f"run.name={name!r}", "run.dir=RUN")
    assert said.code == 0
    assert "\x1b" not in said.out
    assert "[bold]run[/bold] \\x1b[31m<b>: " in said.out


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a directory")
def test_a_directory_that_cannot_be_written_is_one_line(ended):
    said = ended(*SMALL, "logger=none", "run.dir=/proc/run")
    assert said.code == 2
    assert said.err.startswith("metarun: run.dir: /proc/run cannot be made")
    assert said.err.count("\n") == 1


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="of names in UTF-8")
def test_a_directory_with_a_name_that_no_checkpoint_can_have_is_refused(tmp_path):
    place = tmp_path / os.fsdecode(b"caf\xe9") / "run"  # in Latin-1
    with pytest.raises(ConfigError, match="bytes in its path that are no UTF-8"), only_process_in(place):
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_what_a_process_is_given_no_more_of_is_not_laid_to_the_runs_directory(number):
    for told in (OSError(number, os.strerror(number)), OSError(number, os.strerror(number), "a/file")):
        said = f"the machine, or a limit of it (ulimit -a), gives this process no more: {os.strerror(number)}"
        assert of_the_disk(told) == (said, 1)
