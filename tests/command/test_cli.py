"""The command line as a person meets it: real processes, real signals."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import yaml
from support import QUICK, metarun, rows, rows_so_far, saved, start, wait_for

from metarun.command import exits, main
from metarun.command.train import tell_of_jax
from metarun.config import GROUPS, choices
from metarun.config.run import Run
from metarun.run import log, results, terminal, train
from metarun.text import console


def test_help_names_every_choice_and_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; from metarun.command.main import main\n"
        "try: main()\n"
        "finally: print(sorted(sys.modules), file=sys.stderr)"
    )
    process = start("--help", cwd=tmp_path, program=("-c", script))
    out, modules = process.communicate(timeout=240)
    assert process.returncode == 0
    for group in GROUPS:
        assert f"{group}=" in out
        assert all(f"  {choice} " in out for choice in choices(group))
    assert "'metarun.command.main'" in modules
    for heavy in ("'jax'", "'hydra'", "'wandb'", "'pydantic'", "'numpy'"):
        assert heavy not in modules


@pytest.mark.parametrize("words", [["help", "report"], ["report", "--help"], ["--help", "report"], ["-h", "report"]])
def test_help_of_a_command_is_its_own_however_it_is_asked_for(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["metarun", *words])
    main.command()
    assert capsys.readouterr().out.startswith("metarun report RUN...")


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        ("--help >&-", 0, ""),
        ("--help >&- 2>&-", 0, ""),
        ("--help >/dev/full", 1, "metarun: standard output cannot be written (No space left on device)\n"),
        ("--help | true", 0, ""),
        ("no-such 2>/dev/full", 2, ""),
        ("no-such 2>&1 | true", 2, ""),
    ],
)
def test_where_nothing_can_be_told_that_is_one_line_at_most(tmp_path, redirected, code, says):
    command = f"set -o pipefail; {sys.executable} -P -m metarun {redirected}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, says)


def test_what_an_encoding_lacks_is_spelt_on_standard_output(tmp_path):
    script = "from metarun.command import main\nmain.command = lambda: print('58 ± 2 %')\nmain.main()"
    process = start(cwd=tmp_path, program=("-c", script), PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out, err) == (0, "58 \\xb1 2 %\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_on_a_full_disk_a_run_goes_on_without_what_it_tells_which_the_end_says(tmp_path, monkeypatch):
    for name in ("quiet", "lost"):
        monkeypatch.setattr(log.console, name, None)
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)  # so that nothing is left to be written
    monkeypatch.setattr(sys, "stdout", full)
    log.open_log(tmp_path)
    tell_of_jax()
    for line in ("one", "two"):
        log.log.info(line)
    log.close_log()
    assert [line.split()[-1] for line in (tmp_path / "metarun.log").read_text().splitlines()] == ["one", "two"]
    assert main.not_told().errno == errno.ENOSPC


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_on_a_full_disk_the_exit_code_is_what_it_would_be(monkeypatch):
    with open("/dev/full", "w") as full:  # to close it would raise over what was held back
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit) as end:
            exits.fail("stopped and saved", exits.STOPPED)
    assert end.value.code == 75


def test_who_reads_no_more_of_what_standard_error_has_still_gets_the_standard_output(monkeypatch):
    read, written = os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        lines = terminal.Terminal(stderr=True)
        lines.print("reading")
        assert (lines.quiet, lines.lost) == (True, None)
        assert os.fstat(closed.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_a_reader_of_a_table_who_has_enough_ends_it_as_one_of_lines():
    read, written = os.pipe()
    os.close(read)
    file = os.fdopen(written, "w")
    with pytest.raises(BrokenPipeError):
        console(file=file).print("a table")
    with pytest.raises(BrokenPipeError):
        file.close()


def test_cfg_prints_the_configuration(ended, tmp_path):
    values = yaml.safe_load(ended("learner=fomaml", "--cfg", "job").out)
    assert values["learner"]["first_order"] is True
    assert values["train"]["steps"] == 3000
    of_a_group = ended("learner=fomaml", "--cfg", "job", "--package", "learner").out
    assert yaml.safe_load(of_a_group) == values["learner"] | {"inner_lr": "${suggested.inner_lr}"}
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    (["learner=mmal"], "learner=mmal: no such choice; did you mean maml?"),
    (["learner=null"], "learner=null: choose one; allowed: anil, attent"),
    (["train.stes=3"], "train.stes: no such key; did you mean steps?"),
    (["learner.inner_stepz=3"], "learner.inner_stepz: no such key; did you mean inner_steps?"),
    (["train.steps"], "train.steps: cannot be read as group=choice or key=value"),
    (["task.ways={1}"], "task.ways={1}: cannot be read as group=choice or key=value"),
    (["train.steps=["], "train.steps=[: cannot be read as group=choice or key=value"),
    (["task.ways=0"], "task.ways=0: must be an integer >= 2"),
    (["model=conv4", "task=sinusoid"], "model=conv4: takes images"),
    (["eval.task.wais=3"], "eval.task.wais=3: no such key; did you mean ways?"),
    (["trian"], "trian: no such command"),
    (["optimizer=1e3"], "optimizer=1e3: no such choice; allowed: adam"),
    (["task={a:1}", "learner.nits=1"], "task={a:1}: no such choice; allowed: arrays, bandits"),
    (["run.dir='[x]'"], "run.dir=[x]: its whole path must do without"),
    (["run.dir='a\\b'"], "run.dir=a\\b: its whole path must do without"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=str)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing(tmp_path, monkeypatch, capfd, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metarun", *arguments, "logger=none"])
    with pytest.raises(SystemExit) as end:
        main.command()
    assert end.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["run.dir=TYPO"], "run.dir=TYPO: holds no run to go on with", marks=pytest.mark.slow),
        pytest.param(
            ["-m", "task.ways=0,5", "logger=none"], "task.ways=0: must be an integer >= 2", marks=pytest.mark.slow
        ),
        (["hardware=gpu", "task=sinusoid", "logger=none"], "hardware.platform=gpu: not usable here"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_2_of_a_real_process(tmp_path, arguments, says):
    err = metarun(*arguments, cwd=tmp_path, code=2, JAX_PLATFORMS="").stderr
    assert err.startswith(f"metarun: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_one_line_that_says_where_it_was_looked_for(ended, tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    said = ended("task=omniglot", f"data_dir={tmp_path}", "logger=none")
    err = said.err
    assert said.code == 1
    assert err.count("\n") == 1
    assert "images_background.zip" in err
    assert f"nor in {tmp_path}/omniglot" in err
    assert "task=strokes, which needs no data" in err
    assert not list((tmp_path / "cache").rglob("*.zip"))


OF_README = (*QUICK, "eval.inner_steps=[0,1,3]", "run.dir=RUN", "run.tags=[a,b]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The directory of a run that a process of its own has finished, and what that told."""
    folder = tmp_path_factory.mktemp("finished")
    return folder / "RUN", metarun(*OF_README, cwd=folder).stdout


def test_a_run_leaves_what_the_readme_says(finished, ended):
    run, out = finished
    assert {path.name for path in run.iterdir()} == {
        ".lock", "config.yaml", "metrics.jsonl", "results.json", "checkpoints", "wandb", "metarun.log", "examples.npz",
        "command.json", "purpose.json",
    }  # fmt: skip
    found = json.loads((run / "results.json").read_text())
    assert set(found["test"]["mse"]) == {"mean", "ci95"}
    assert list(found["test_by_inner_steps"]) == ["0", "1", "3"]
    assert found["test_by_inner_steps"]["1"]["mse"] == found["test"]["mse"]
    assert found["protocol"]["episodes"] == 8
    assert found["training"]["parameters"] == 8 * 1 + 8 + 8 + 1
    assert found["training"]["tags"] == ["a", "b"]
    assert f"{found['test']['mse']['mean']:.4f}" in out
    assert "RUN" in out
    assert "wandb sync" in out
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    train = [row for row in rows(run) if row["split"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 41))

    again = ended(f"run.dir={run}")
    assert "is finished" in again.out  # nothing is trained again
    assert len(rows(run)) == len(train) + 4


def test_a_directory_with_another_run_is_refused_and_left_as_it_was(finished, ended):
    run, _ = finished
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    said = ended(*OF_README, "train.seed=5", f"run.dir={run}")
    assert said.code == 2
    assert "train.seed (0 there)" in said.err
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_multirun_gives_each_combination_its_directory_and_its_wandb_run(ended, tmp_path, monkeypatch):
    """All combinations of several settings: test_sweep.py."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = ("-m", *QUICK, "train.steps=4", "learner.inner_lr=0.01,0.02", "train.seed=1", "run.dir=SWEEP")
    assert ended(*sweep).code == 0
    found = [json.loads((tmp_path / "SWEEP" / str(i) / "results.json").read_text()) for i in range(2)]
    settings = [(f["protocol"]["learner"]["inner_lr"], f["training"]["seed"]) for f in found]
    assert settings == [(0.01, 1), (0.02, 1)]
    assert found[0]["test"]["mse"]["mean"] != found[1]["test"]["mse"]["mean"]
    assert len({(tmp_path / "SWEEP" / str(i) / "wandb" / "run_id").read_text() for i in range(2)}) == 2
    names = [f"sinusoid-maml learner.inner_lr={rate} train.seed=1" for rate in (0.01, 0.02)]
    for i, name in enumerate(names):  # as W&B lists them, in the sweep's group
        [offline] = (tmp_path / "SWEEP" / str(i) / "wandb").glob("offline-run-*/*.wandb")
        assert name.encode() in offline.read_bytes()
        assert b"SWEEP" in offline.read_bytes()
        assert json.loads((tmp_path / "SWEEP" / str(i) / "wandb" / "display.json").read_text())[1] == "SWEEP"


# A process that sends itself a signal at meta-step 25, and waits until it has been heard; what it leaves is told. Then
# another goes on with the run, and makes the same one whole elsewhere. Both are forked before jax has any thread.
BROKEN = """
import json, os, signal, sys, time
from metarun.command import main
from metarun.run import loop, train

finish, how, elsewhere, *settings = loop.Loop.finish, *sys.argv[1:]

def signalled(self, call, last=False):
    finish(self, call, last)
    if call.step >= 25 and not self.stop.asked:
        os.kill(os.getpid(), signal.Signals[how])
        while not self.stop.asked:
            time.sleep(0.01)

sys.argv[1:] = settings
if not (child := os.fork()):
    loop.Loop.finish = signalled
    main.main()
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
saved = [int(name) for name in os.listdir("RUN/checkpoints/last") if name.isdigit()]
print(json.dumps([code, max(saved), os.path.exists("RUN/results.json")]), flush=True)
sys.argv[1:] = ["run.dir=RUN"]
main.command()
os.chdir(elsewhere)
sys.argv[1:] = settings
main.command()
"""


@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.slow) for how in ("SIGINT", "SIGTERM")), "SIGKILL"]
)
def test_a_broken_run_goes_on_to_the_same_end_bit_for_bit(tmp_path, how):
    settings = (*QUICK, "train.save_every=5", "logger=none", "run.dir=RUN")
    run, elsewhere = tmp_path / "RUN", tmp_path / "whole"
    elsewhere.mkdir()
    process = start(how, str(elsewhere), *settings, cwd=tmp_path, program=("-c", BROKEN))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (left,) = (json.loads(line) for line in out.splitlines() if line.startswith("["))
    code, step, was_finished = left
    assert step in range(20, 40)
    assert not was_finished
    if how == "SIGKILL":
        assert code == -signal.SIGKILL, err
    else:
        assert code == 75, err
        assert "go on with: metarun run.dir=RUN" in err
        assert err.count("\n") == 1
    assert "going on from meta-step" in out
    unbroken = elsewhere / "RUN"
    expected, got = saved(unbroken), saved(run)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    assert rows(run) == rows(unbroken)
    results = [json.loads((directory / "results.json").read_text()) for directory in (unbroken, run)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["training"] == results[1]["training"]  # the command that began the run, too


def test_a_run_whose_lines_nobody_reads_any_more_goes_on(tmp_path):
    process = start(*QUICK, "logger=none", "run.dir=RUN", cwd=tmp_path)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=240) == 0, process.stderr.read()
    assert process.stderr.read() == ""
    assert (tmp_path / "RUN" / "results.json").exists()


def test_a_second_process_on_a_run_is_refused_and_the_first_goes_on(ended, tmp_path):
    first = start(*QUICK, "logger=none", "train.steps=1000000", "train.log_every=500", "run.dir=RUN", cwd=tmp_path)
    wait_for(lambda: rows_so_far(tmp_path / "RUN"), first)
    second = ended("run.dir=RUN", "run.max_minutes=0.01")  # were it not refused, it would stop
    assert second.code == 2
    assert "another process is at work there" in second.err
    done = rows_so_far(tmp_path / "RUN")
    wait_for(lambda: rows_so_far(tmp_path / "RUN") > done, first)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=240)
    assert first.returncode == 75, err


def test_commands_of_the_same_second_have_a_directory_each_and_one_that_is_named_is_the_one(ended, monkeypatch):
    places = []

    def trained(run: Run, _: object) -> None:
        places.append(run.info.dir)
        Path(run.info.dir, "metarun.log").write_text("")

    monkeypatch.setattr(hydra.core.utils, "datetime", SimpleNamespace(now=lambda: datetime(2030, 1, 2, 3, 4, 5)))
    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(results, "tell", lambda *_: None)
    named = "runs/sinusoid-maml/2030-01-02_03-04-05"
    given = ["train.seed=0", "train.seed=-1", "train.seed=1", "run.dir=RUN/${now:%Y}", "hydra.run.dir=RUN"]
    for setting in (*given[:3], *given[3:4] * 2, *given[4:] * 2):
        ended("task=sinusoid", "logger=none", setting)
    assert places == [named, f"{named}-2", *["RUN/2030"] * 2, *["RUN"] * 2]
    assert {path.name for path in Path(named).parent.iterdir()} == {Path(place).name for place in places[:2]}


def test_checkpoints_that_cannot_be_made_are_one_line_and_leave_no_configuration(ended, tmp_path):
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "checkpoints").symlink_to("nowhere")
    said = ended(*QUICK, "logger=none", "run.dir=RUN")
    assert said.code == 2
    assert said.err.startswith("metarun: run.dir: ")
    assert said.err.endswith("/RUN/checkpoints cannot be made or written (File exists)\n")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "RUN" / "config.yaml").exists()


def test_a_sweep_goes_on_past_a_combination_that_diverges(ended, tmp_path):
    said = ended("-m", *QUICK, "logger=none", "learner.inner_lr=1e30,0.01", "run.dir=SWEEP")
    assert said.code == 1
    assert said.err.splitlines()[-1] == "metarun: 1 of 2 jobs of the sweep failed"
    (why,) = [line for line in said.out.splitlines() if line.startswith("failed: SWEEP/0 (learner.inner_lr=1e+30): ")]
    assert "not finite" in why
    assert not (tmp_path / "SWEEP" / "0" / "results.json").exists()
    assert (tmp_path / "SWEEP" / "1" / "results.json").exists()


def test_a_loss_that_is_no_number_stops_the_run_in_one_line(ended, tmp_path):
    said = ended(*QUICK, "logger=none", "learner.inner_lr=1e30", "run.dir=RUN")
    assert said.code == 1
    assert "not finite" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "RUN" / "results.json").exists()
