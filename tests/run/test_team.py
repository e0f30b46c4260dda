"""Several processes at work on one run, on this machine: they learn what one learns, and none waits for ever."""

import json
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from support import composed, placed, rows, rows_so_far, saved, start, wait_for

from metarun.run import train
from metarun.run.series import newest_in

RUN = ("task=sinusoid", "learner=fomaml", "learner.inner_steps=1", "model.hidden=[8]", "train.meta_batch=8",
       "eval.episodes=8", "eval.val_episodes=8", "eval.inner_steps=[]", "hardware.task_chunk=1",
       "logger=none")  # fmt: skip


METARUN = ("-m", "metarun")
# A process counts as gone after 6 seconds of silence, in place of 20: longer than a busy machine is silent.
HASTY = ("-c", "from metarun.command import main; from metarun.engine import hosts; hosts.SILENT = 6.0; main.main()")


def several(
    many: int, directory: str, *overrides: str, cwd: Path, program: tuple[str, ...] = METARUN
) -> list[subprocess.Popen]:
    """So many processes, of one device each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    common = ("hardware=multihost", f"hardware.coordinator={address}", f"hardware.processes={many}",
              "hardware.devices=1", "hardware.platform=cpu", f"run.dir={directory}", *RUN, *overrides)  # fmt: skip
    return [start(*common, f"hardware.process={i}", cwd=cwd, program=program) for i in range(many)]


def end_of(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def same_parameters(one: Path, other: Path) -> None:
    found, expected = saved(one), saved(other)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process with one device."""
    directory = tmp_path_factory.mktemp("alone")
    train.train(placed(composed("hardware.devices=1", *RUN, "train.steps=40"), directory / "run"))
    return directory / "run"


@pytest.mark.parametrize("many", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_learn_what_one_learns_and_one_goes_on(ended, alone, tmp_path, many):
    for process in several(many, "run", "train.steps=20", cwd=tmp_path):
        code, out, err = end_of(process)
        assert code == 0, f"{out}\n{err}"
    here = tmp_path / "run"
    assert [row["step"] for row in rows(here)][-1] == 20  # one process wrote them, and each once
    assert len({(row["step"], row["split"]) for row in rows(here)}) == len(rows(here))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    machine = json.loads((here / "results.json").read_text())["machine"]
    assert (machine["processes"], machine["devices"]) == (many, many)

    assert ended("run.dir=run", "hardware.coordinator=null", "train.steps=40").code == 0
    same_parameters(here, alone)
    found, expected = (json.loads((run / "results.json").read_text()) for run in (here, alone))
    assert found["test"]["mse"] == pytest.approx(expected["test"]["mse"], rel=1e-3)
    assert [stretch["devices"] for stretch in found["training"]["stretches"]] == [many, 1]


LONG = ("train.steps=100000", "train.log_every=10", "train.save_every=20", "train.eval_every=50000")


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_that_dies_ends_the_other_with_all_saved(tmp_path, killed):
    unsaved = "train.save_every=50000"  # until then
    processes = several(2, "run", *LONG, unsaved, cwd=tmp_path, program=HASTY)
    wait_for(lambda: rows_so_far(tmp_path / "run") > 5, processes[0])
    processes[killed].send_signal(signal.SIGKILL)
    processes[killed].wait()
    code, _, err = end_of(processes[1 - killed])
    assert code == 75
    assert f"metarun: process {killed} of 2 has gone" in err
    assert "Check failure" not in err
    newest = newest_in(tmp_path / "run" / "checkpoints" / "last")
    if killed == 1:  # process 0 has what was made since the last save, too
        assert f"saved is meta-step {newest} of 100000; the same commands go on" in err
        assert newest >= rows(tmp_path / "run")[-1]["step"]


@pytest.mark.slow
def test_asked_to_stop_in_one_they_all_stop_saved_and_go_on_together(tmp_path):
    processes = several(2, "run", *LONG, cwd=tmp_path)
    wait_for(lambda: rows_so_far(tmp_path / "run") > 5, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    code, _, err = end_of(processes[0])
    newest = newest_in(tmp_path / "run" / "checkpoints" / "last")
    assert code == 75
    assert f"stopped and saved at meta-step {newest} of 100000; the same commands go on" in err
    assert end_of(processes[1])[0] == 75
    processes = several(2, "run", *LONG, cwd=tmp_path)
    wait_for(lambda: rows(tmp_path / "run")[-1]["step"] > newest, processes[0])
    log = (tmp_path / "run" / "metarun.log").read_text()
    assert f"going on from meta-step {newest} of run" in log


def test_what_process_0_fails_by_ends_the_others_with_its_words(tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):  # as of another run at work there
        first, other = (end_of(process) for process in several(2, "run", "train.steps=40", cwd=tmp_path))
    assert first[0] == 2
    assert "another process is at work there" in first[2]
    assert other[0] == 1
    assert "metarun: process 0 of 2: run.dir=run: another process is at work there" in other[2]


def test_what_is_wrong_is_one_line(ended, tmp_path):
    (one, other) = several(2, "run", "train.steps=40", "hardware.join_seconds=1", cwd=tmp_path)[:2]
    other.kill()
    code, _, err = end_of(one)
    assert code == 2
    assert err.startswith("metarun: hardware.processes=2: of these 1 did not come to 127.0.0.1:")
    for words in (["train.seeds=2"], ["-m", "train.seed=0,1"]):
        refused = ended(*RUN, "hardware=multihost", *words)
        assert refused.code == 2
        assert refused.err.startswith("metarun: hardware.coordinator=auto: is of one run")
