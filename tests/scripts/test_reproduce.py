"""scripts/reproduce.py runs presets once, keeps what they reached, and writes the tables of it."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO
from unittest import mock

import pytest
import reproduce as script
from pages import known as results_memory
from pages import results as results_page
from pages import runs
from pages.known import presets
from support import no_meta_steps

from metarun.command import main
from metarun.run.figures import figure_of


@pytest.fixture(autouse=True)
def _priority_as_it_is(monkeypatch):
    """Else a test would take it from all that is in its session: the tests to come, and what has started them."""
    monkeypatch.setattr(runs, "lowest_priority", lambda: None)


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """The script's command line, its pages and its memory in a directory of their own."""
    page, readme = tmp_path / "results.md", tmp_path / "README.md"
    marks = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in ("overview", "presets"))
    page.write_text(f"before\n{marks}after\n")
    readme.write_text("before\n<!-- rows: begin -->\nold\n<!-- rows: end -->\nafter\n")
    monkeypatch.setattr(results_page, "PAGE", page)
    monkeypatch.setattr(results_page, "README", readme)
    monkeypatch.setattr(results_memory, "MEMORY", tmp_path / "results.json")

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "--dir", str(tmp_path / "runs"), *arguments])
        assert script.main() == code
        return page.read_text()

    return run


def row_of(text: str, words: str) -> str:
    (row,) = [line for line in text.splitlines() if words in line]
    return row


def in_this_process(command: list[str], stdout: TextIO, **_: object) -> subprocess.CompletedProcess:
    """Runs `python -P -m metarun ...` without the seconds that a process takes to begin."""
    python, *options, module = command[:4]
    assert (python, options, module) == (sys.executable, ["-P", "-m"], "metarun")
    with mock.patch.object(sys, "argv", command[3:]), contextlib.redirect_stdout(stdout):
        main.command()
    return subprocess.CompletedProcess(command, 0)


@no_meta_steps()
def test_a_part_of_a_preset_is_run_once_and_its_row_says_so(reproduce, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(run=in_this_process, DEVNULL=subprocess.DEVNULL))
    settings = ("eval.episodes=8", "train.meta_batch=2", "hardware.task_chunk=1", "model.hidden=[8]")
    quick = [f"--set={setting}" for setting in settings]
    arguments = ("maml_sinusoid_10s", "--budget", "0.0001", "--seeds", "0,1", *quick)
    text = reproduce(*arguments)
    assert capfd.readouterr().out.count("metarun experiment=maml_sinusoid_10s train.steps=7") == 2
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    row = row_of(text, "0.67 (MSE after 1)")
    assert "`metarun experiment=maml_sinusoid_10s train.steps=7 eval.episodes=8 train.meta_batch=2" in row
    assert "7 of 70,000 (0.01 %)" in row
    files = sorted((tmp_path / "runs" / "maml_sinusoid_10s").glob("*/results.json"))
    means = [figure_of(json.loads(file.read_text()), "mse_after_1")["mean"] for file in files]
    assert f"**{sum(means) / 2:.4f} ± " in row
    assert f"| {abs(means[0] - means[1]) / 2**0.5:.2g} over 2 |" in row
    assert all(f"`metarun experiment={name}`" in text for name in presets() if name != "maml_sinusoid_10s")

    assert reproduce(*arguments) == text
    assert capfd.readouterr().out == ""  # finished: nothing is run again
    for file in files:
        file.unlink()
    assert reproduce("--table-only") == text  # figures outlive the files of their runs


def finished(tmp_path, folder: str, transductive: bool = False, **figures) -> Path:
    """A finished run as its results.json tells of it."""
    path = tmp_path / "runs" / folder / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "test": figures,
        "test_by_inner_steps": {},
        "protocol": {
            "split": "test",
            "episodes": 600,
            "task": {"data_dir": "/mine"},
            "learner": {},
            "transductive": transductive,
        },
        "state": {"state": "last"},
        "speed": {"minutes": 1.0},
        "training": {},
        "machine": {"devices": 1, "device": "cpu"},
        "commit": None,
        "date": "2026-01-01T00:00:00",
    }
    path.write_text(json.dumps(found))
    return path


def test_the_page_shows_the_longest_run_and_what_is_wrong_with_a_figure(reproduce, tmp_path, capsys):
    finished(tmp_path, "maml_omniglot_5w1s/100-0", accuracy={"mean": 0.9, "ci95": 0.01})
    finished(tmp_path, "maml_omniglot_5w1s/200-0-inner.mode%3Dreverse", accuracy={"mean": 0.91, "ci95": 0.02})
    finished(tmp_path, "maml_omniglot_5w1s/200-0", accuracy={"mean": 0.92, "ci95": 0.02})
    finished(tmp_path, "maml_omniglot_5w1s/200-1", accuracy={"mean": 0.94, "ci95": 0.04})
    finished(tmp_path, "maml_omniglot_20w1s/100-0-learner.inner_lr%3D0.2", accuracy={"mean": None, "ci95": None})
    finished(tmp_path, "maml_omniglot_20w5s/100-0", loss={"mean": 1.0, "ci95": 0.1})
    finished(tmp_path, "maml_omniglot_5w5s/60000-0").write_text('{"test": ')
    text = reproduce("--table-only")
    assert "/mine" not in (tmp_path / "results.json").read_text()  # a path of one machine
    row = row_of(text, "maml_omniglot_5w1s train.steps=200`")
    assert "| **93.00 ± 3.00 %** | the same | 1.4 over 2 |" in row
    row = row_of(text, "maml_omniglot_20w1s train.steps=100 learner.inner_lr=0.2`")
    assert "| **not a number** | the same | 0 seed |" in row
    assert "| not measured | the same | 0 seed |" in row_of(text, "maml_omniglot_20w5s train.steps=100`")
    assert row_of(text, "`metarun experiment=maml_omniglot_5w5s`").endswith("| 60,000 | not measured |")
    assert "maml_omniglot_5w5s/60000-0/results.json: left out, it cannot be read" in capsys.readouterr().err


def test_a_row_has_the_inductive_figure_beside_the_transductive_one(reproduce, tmp_path):
    both = {"accuracy": {"mean": 0.98, "ci95": 0.01}, "accuracy_inductive": {"mean": 0.95, "ci95": 0.02}}
    finished(tmp_path, "maml_omniglot_5w1s/100-0", transductive=True, **both)
    finished(tmp_path, "maml_omniglot_5w5s/100-0", transductive=True, accuracy={"mean": 0.97, "ci95": 0.01})
    finished(tmp_path, "anil_omniglot_20w1s/100-0", transductive=True, **both)
    finished(tmp_path, "anil_omniglot_20w1s/100-1", transductive=True, accuracy={"mean": 0.96, "ci95": 0.01})
    finished(tmp_path, "protonet_omniglot_5w1s/100-0", accuracy={"mean": 0.96, "ci95": 0.01})
    finished(tmp_path, "reptile_omniglot_5w1s/100-0", transductive=True, **both)
    text = reproduce("--table-only")
    assert "| **98.00 ± 1.00 %** | 95.00 ± 2.00 % | 1 seed |" in row_of(text, "maml_omniglot_5w1s train.steps=100`")
    assert "| **97.00 ± 1.00 %** | not kept | 1 seed |" in row_of(text, "maml_omniglot_5w5s train.steps=100`")
    assert "| not kept | 1.4 over 2 |" in row_of(text, "anil_omniglot_20w1s train.steps=100`")  # one seed lacks it
    assert "| **96.00 ± 1.00 %** | the same | 1 seed |" in row_of(text, "protonet_omniglot_5w1s train.steps=100`")
    assert "| **98.00 ± 1.00 %** | 95.00 ± 2.00 % |" in row_of(text, "| 97.68 ± 0.04 % |")
    assert "| **95.00 ± 2.00 %** | 95.00 ± 2.00 % |" in row_of(text, "| 95.39 ± 0.09 % (inductive) |")


WHOLE = {
    "preset": "maml_omniglot_5w1s", "steps": 100, "seed": 0, "settings": [],
    "test": {"accuracy": {"mean": 0.98, "ci95": 0.01}, "loss": {"mean": 0.123456789, "ci95": None}},
    "test_by_inner_steps": {},
    "protocol": {
        "split": "test", "episodes": 600, "transductive": False, "metric": "accuracy",
        "task": {"_target_": "metarun.tasks.omniglot.Omniglot"}, "learner": {"_target_": "metarun.learners.maml.MAML"},
    },
    "state": "last", "minutes": 1.0, "machine": {"devices": 1, "device": "cpu"},
    "commit": {"id": 40 * "a", "changed": False}, "date": "2026-01-01",
}  # fmt: skip
LESS = {
    "rounded figures": {"test": {"accuracy": {"mean": 0.9873, "ci95": 0.004}, "loss": {"mean": None, "ci95": None}}},
    "some settings of the task": {"protocol": WHOLE["protocol"] | {"task": {"ways": 5}}},
    "some settings of the learner": {"protocol": WHOLE["protocol"] | {"learner": {"inner_steps": 3}}},
    "half a commit": {"commit": {"id": "86c15dd9", "changed": False}},
    "a commit and changes": {"commit": {"id": 40 * "a", "changed": True}},
    "no commit": {"commit": None},
    "no device": {"machine": {"devices": 1, "device": ""}},
    "no date": {"date": ""},
    "an error": {"failed": "meta-step 3: not finite"},
}


def test_a_whole_record_is_told_from_one_with_less_in_it():
    assert results_memory.whole(WHOLE)
    assert [name for name, less in LESS.items() if results_memory.whole(WHOLE | less)] == []


def test_a_row_says_whether_its_records_are_whole(reproduce, tmp_path):
    runs = [WHOLE, WHOLE | {"preset": "maml_omniglot_5w5s"}]
    runs += [WHOLE | {"preset": "maml_omniglot_5w5s", "seed": 1} | LESS["rounded figures"]]
    (tmp_path / "results.json").write_text(json.dumps({"runs": runs, "times": {}}))
    text = reproduce("--table-only")
    assert "| 1.0 | whole | 1 cpu, aaaaaaaa, 2026-01-01 |" in row_of(text, "maml_omniglot_5w1s train.steps=100`")
    assert "| 1.0 | part | 1 cpu, aaaaaaaa, 2026-01-01 |" in row_of(text, "maml_omniglot_5w5s train.steps=100`")
    assert "\n2 of the 3 runs in results.json are whole records.\n" in text


def test_readmes_table_has_the_rows_of_its_experiments(reproduce, tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "FEW", results_page.FEW | {"mann_omniglot_5w": ("loss",)})
    finished(tmp_path, "mann_omniglot_5w/100000-0", loss={"mean": 0.5, "ci95": 0.1})
    finished(tmp_path, "maml_omniglot_5w1s/60000-0", accuracy={"mean": 0.92, "ci95": 0.02})
    finished(tmp_path, "maml_omniglot_5w5s/200-0", accuracy={"mean": 0.93, "ci95": 0.02})  # a part: not in README
    finished(tmp_path, "demo/2200-0", accuracy={"mean": 0.9, "ci95": 0.01}, loss={"mean": 0.2, "ci95": 0.01})
    for seed, off in enumerate((-0.1, 0.1)):  # seeds are gathered
        both = {f"accuracy_instance_{k}": {"mean": mean + off, "ci95": None} for k, mean in (("02", 0.5), ("10", 0.8))}
        finished(tmp_path, f"lstm_omniglot_5w/100000-{seed}", **both)
    assert "=demo" not in reproduce("--table-only")  # its page is that of papers
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n<!-- rows: begin -->\n| metarun | figure | paper |")
    assert text.endswith("<!-- rows: end -->\nafter\n")
    assert text.splitlines()[4:-2] == [
        "| `experiment=demo` | accuracy |  | **90.00 ± 1.00 %** | 1 | 1.0 |",
        "| `experiment=lstm_omniglot_5w` | instance 02 / instance 10 | 49.5 % / 62.5 % | **50.00 %** / **80.00 %** "
        "| 2 | 1.0 |",
        "| `experiment=maml_omniglot_5w1s` | accuracy | 98.7 ± 0.4 % | **92.00 ± 2.00 %** | 1 | 1.0 |",
        "| `experiment=mann_omniglot_5w` | loss |  | **0.5000 ± 0.1000** | 1 | 1.0 |",
    ]
    reproduce("--table-only")
    assert (tmp_path / "README.md").read_text() == text


def test_a_run_that_ends_in_an_error_stays_on_the_page_until_one_is_finished(reproduce, tmp_path, monkeypatch):
    def diverging(command, stdout, **_):
        folder = Path(command[-1].removeprefix("run.dir="))
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 5, "split": "train"}\n')
        stdout.write("meta-step 5/7\nmetarun: meta-step 6: [0] <x> is not finite\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(script.subprocess, "run", diverging)
    preset = ("maml_sinusoid_10s", "--budget", "0.0001", "--set", "learner.inner_lr=9")
    row = row_of(reproduce(*preset, code=1), "learner.inner_lr=9")
    assert row.startswith("| `metarun experiment=maml_sinusoid_10s train.steps=7 learner.inner_lr=9` | 0 | 5 of 70,000")
    assert row.endswith("| metarun: meta-step 6: \\[0\\] &lt;x&gt; is not finite |")
    assert row_of(reproduce("--table-only"), "`metarun experiment=maml_sinusoid_10s` | 0.67").endswith("not measured |")
    finished(tmp_path, "maml_sinusoid_10s/7-0-learner.inner_lr%3D9", mse={"mean": 1.0, "ci95": None})
    assert "Ended in an error" not in reproduce("--table-only")
    shutil.rmtree(tmp_path / "runs" / "maml_sinusoid_10s" / "7-0-learner.inner_lr%3D9")
    assert reproduce(*preset, code=1) == reproduce("--table-only")
    assert "Ended in an error" not in reproduce("--table-only")  # what is finished stays


def test_an_interrupt_starts_no_other_run_and_writes_the_page(reproduce, monkeypatch):
    begun = []

    def interrupted(command, **_):
        begun.append(command)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)  # a run saves its state before it stops
        return subprocess.CompletedProcess(command, 75)

    monkeypatch.setattr(runs.subprocess, "run", interrupted)
    assert "Not run yet" in reproduce("maml_sinusoid_10s", "--seeds", "0,1,2", code=130)
    assert len(begun) == 1


def test_times_are_kept_and_a_preset_that_cannot_be_measured_does_not_end_the_others(
    reproduce, monkeypatch, tmp_path, capsys
):
    def bench(command, **_):
        name = command[5].partition("=")[2]
        found = {"meta_steps_per_s": 2.0, "devices": 1, "device": "cpu"}
        return subprocess.CompletedProcess(command, int(name == "maml_miniimagenet_5w1s"), stdout=json.dumps(found))

    monkeypatch.setattr(script.subprocess, "run", bench)
    text = reproduce("maml_miniimagenet_5w1s", "maml_omniglot_5w1s", "--time", code=1)
    assert row_of(text, "=maml_miniimagenet_5w1s`").endswith("| 60,000 | not measured |")
    assert row_of(text, "=maml_omniglot_5w1s`").endswith("| 60,000 | 8.3 hours at 2 meta-steps/s, 1 cpu |")
    for file in tmp_path.rglob("bench.json"):
        file.write_text("")
    assert reproduce("--table-only") == text
    assert "bench.json: left out, it cannot be read" in capsys.readouterr().err


def test_a_name_that_is_no_preset_is_refused(reproduce, capsys):
    with pytest.raises(SystemExit):
        reproduce("maml_omniglot")
    assert "maml_omniglot: no such preset; allowed: anil_miniimagenet_5w1s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("--seeds", "a"), ("--seeds", "0,"), ("--jobs", "0"), ("--budget", "0"), ("--budget", "x")]
)
def test_an_option_that_cannot_be_is_refused(reproduce, wrong, capsys):
    with pytest.raises(SystemExit):
        reproduce("maml_sinusoid_10s", *wrong)
    assert f"argument {wrong[0]}: '{wrong[1]}': give " in capsys.readouterr().err


def test_a_plan_is_worked_through_in_its_order_and_stops_where_it_was_stopped(reproduce, tmp_path, monkeypatch):
    plan, made, written, priority = tmp_path / "plan.yaml", [], [], []
    rows = ("maml_sinusoid_10s, seeds: [1, 0]", "mann_omniglot_5w, seeds: [0]", "lstm_omniglot_5w, seeds: [0]")
    plan.write_text("".join(f"- {{preset: {row}}}\n" for row in rows))
    codes = {("maml_sinusoid_10s", 0): 1, ("mann_omniglot_5w", 0): 75}

    def run(name, steps, seed, directory, settings):
        made.append((name, steps, seed))
        assert (directory, settings) == (tmp_path / "runs", [])
        return codes.get((name, seed), 0)

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "write_pages", lambda directory: written.append(len(made)))
    monkeypatch.setattr(runs, "lowest_priority", lambda: priority.append(len(made)))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--dir", str(tmp_path / "runs"), "--plan", str(plan)])
    assert script.main() == 75
    assert made == [("maml_sinusoid_10s", 70000, 1), ("maml_sinusoid_10s", 70000, 0), ("mann_omniglot_5w", 100000, 0)]
    assert written[:3] == [1, 2, 3]
    assert priority == [0]  # once, before the first


def test_the_plan_of_the_project_names_presets_and_no_run_twice(tmp_path):
    rows = script.planned(script.PLAN)
    assert len(set(rows)) == len(rows) > 20
    wrong = tmp_path / "plan.yaml"
    wrong.write_text("- {preset: maml_sinusoid, seeds: [0]}\n")
    with pytest.raises(SystemExit, match="maml_sinusoid: no such preset; allowed: anil_miniimagenet_5w1s, "):
        script.planned(wrong)


def test_ctrl_c_waits_until_a_plans_run_has_saved_its_state(reproduce, tmp_path, monkeypatch):
    """In the main thread `subprocess.run` would kill the run a quarter of a second after Ctrl-C."""
    plan, ended = tmp_path / "plan.yaml", []
    plan.write_text("- {preset: maml_sinusoid_10s, seeds: [0, 1]}\n")

    def interrupted(command, **_):
        time.sleep(0.2)  # until the main thread waits for this one
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)
        ended.append(command)
        return subprocess.CompletedProcess(command, 75)

    monkeypatch.setattr(runs.subprocess, "run", interrupted)
    reproduce("--plan", str(plan), code=130)
    assert len(ended) == 1


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="Linux shares cores among sessions there")
def test_work_in_a_session_of_its_own_is_behind_all_other_sessions():
    code = (
        "import os; from pages.runs import lowest_priority; lowest_priority(); "
        "os.write(1, open('/proc/self/autogroup', 'rb').read()); os._exit(0)"  # at once: it waits for all others
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(script.__file__).parent,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert told.stdout.split()[1:] == ["nice", "19"], told.stderr
