"""Commands stopped in the middle, or while they are loaded: files are whole or not there, and one line says so."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import untrained

from metarun.core import ConfigError
from metarun.learned import keep, kept, load, load_adapted

METARUN = [sys.executable, "-P", "-m", "metarun"]
STOPPED = "metarun: stopped\n"

SLOW_TO_WRITE = """
import sys, time
from pathlib import Path
from metarun.files import write_bytes_atomically
from metarun.run.stop import leave_on_signals

def write(file):
    file.write(b"first ")
    print("writing", flush=True)
    time.sleep(0.5)
    file.write(b"second")

with leave_on_signals():
    write_bytes_atomically(Path(sys.argv[1]), write)
    print("left", flush=True)
    time.sleep(60)
assert "jax" not in sys.modules
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_file_that_is_being_written_is_whole_or_as_it_was(tmp_path, number):
    file = tmp_path / "file"
    file.write_bytes(b"before")
    command = [sys.executable, "-P", "-c", SLOW_TO_WRITE, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    killed = number == signal.SIGKILL
    assert (process.returncode, error) == ((-number, "") if killed else (75, STOPPED))
    assert file.read_bytes() == (b"before" if killed else b"first second")
    assert len(list(tmp_path.iterdir())) == (2 if killed else 1)


def test_a_kept_learner_is_whole_or_not_there_and_its_place_stays_free(tmp_path, monkeypatch):
    learned = load(untrained("protonet", tmp_path / "run", "task=strokes"))
    x = np.random.default_rng(0).random((4, *learned.purpose.shape), np.float32)
    one, other = (learned.adapt(x, labels) for labels in (list("abab"), list("aabb")))
    write = kept.write_atomically

    def broken_off(path: Path, content: bytes) -> None:
        if path.name == kept.TOLD:
            raise KeyboardInterrupt
        write(path, content)

    for directory in (tmp_path / "new", tmp_path / "empty"):
        if directory.name == "empty":
            directory.mkdir()
        monkeypatch.setattr(kept, "write_atomically", broken_off)
        with pytest.raises(KeyboardInterrupt):
            keep(one, directory)
        monkeypatch.undo()
        assert directory.exists() == (directory.name == "empty")
        assert not list(tmp_path.glob(".*"))
        keep(other, directory)
        np.testing.assert_array_equal(load_adapted(directory).predict_proba(x), other.predict_proba(x))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "params.safetensors").write_text("")
    (tmp_path / "mine" / "notes").write_text("")
    with pytest.raises(ConfigError, match="holds something else"):
        keep(one, tmp_path / "mine")


SIGNALLED = """
import signal, sys
from metarun.__main__ import main

class Signalled:
    def find_spec(self, name, *_):
        if name == {module!r}:
            signal.raise_signal({number})

sys.argv = ["metarun", "report", "--help"]
sys.meta_path.insert(0, Signalled())
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["metarun.command.main", "metarun.command.report"])
def test_while_a_command_is_being_loaded_a_signal_ends_it_in_one_line(tmp_path, module, number):
    program = SIGNALLED.format(module=module, number=int(number))
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", STOPPED)


def is_listening(process: subprocess.Popen) -> bool:
    """Whether it hears SIGTERM yet (Linux)."""
    caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


VERBS = {
    "adapt": "adapt RUN --support SUPPORT --query QUERY --json a.json --csv a.csv --save kept",
    "predict": "predict KEPT --query QUERY --json a.json",
    "export": "export KEPT --out a.zip --weights a.safetensors --platforms cpu",
    "serve": "serve RUN --no-open --port 0",
}
GOOD = {"adapt": 0, "predict": 0, "export": 0, "serve": None}  # its end, if nothing stops it


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux whether a process hears signals yet")
@pytest.mark.parametrize("verb", VERBS)
def test_stopped_at_random_beside_spinning_processes(drawings, tmp_path, verb):
    moments, ends = random.Random(verb), Counter()
    environment = {**os.environ, "METARUN_CACHE_DIR": str(tmp_path / "cache")}
    learned = load(drawings.run)
    adapted = learned.adapt(drawings.support_x, drawings.support_y)
    keep(adapted, tmp_path / "adapted")
    places = {"RUN": drawings.run, "SUPPORT": drawings.support, "QUERY": drawings.query, "KEPT": tmp_path / "adapted"}
    command = [*METARUN, *(str(places.get(word, word)) for word in VERBS[verb].split())]
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def must_be_whole() -> None:
        found = {file.name: file for file in cwd.iterdir() if not file.name.startswith(".")}
        if "a.json" in found:
            told = json.loads(found["a.json"].read_text())["predictions"]
            p = [list(one["probabilities"].values()) for one in told]
            np.testing.assert_allclose(p, adapted.predict_proba(drawings.query_x), atol=1e-5)
        if "a.csv" in found:
            assert found["a.csv"].read_text().count("\n") == 26
        if "kept" in found:
            assert load_adapted(found["kept"]).classes.tolist() == adapted.classes.tolist()
        for name in {"a.zip", "a.safetensors"} & found.keys():
            assert found[name].read_bytes() == whole[name]

    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        began = time.monotonic()
        with start() as process:
            if verb == "serve":
                time.sleep(10)
                process.terminate()
            _, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, "")
        seconds = time.monotonic() - began
        whole = {file.name: file.read_bytes() for file in cwd.glob("a.*")}
        for time_ in range(15):
            for file in cwd.glob("a.*"):
                if moments.random() < 0.5:
                    file.unlink()
            number = moments.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
            with start() as process:
                while process.poll() is None and not is_listening(process):
                    time.sleep(0.01)
                hidden = set(cwd.glob(".*"))
                time.sleep(moments.uniform(0, 0.8 * seconds) if time_ else 0)
                process.send_signal(number)
                _, error = process.communicate(timeout=60)
            good = 0 if verb == "serve" else 75
            expected = {signal.SIGKILL: (-number, "")}.get(number, (good, "" if verb == "serve" else STOPPED))
            early = (-number, "") if number == signal.SIGKILL else (75, STOPPED)  # before the verb itself hears it
            assert (process.returncode, error) in (expected, early, (GOOD[verb], "")), f"signal {number}"
            assert number == signal.SIGKILL or set(cwd.glob(".*")) == hidden
            ends[process.returncode] += 1
            must_be_whole()
    finally:
        for process in spinning:
            process.kill()
    with start() as process:
        if verb == "serve":
            time.sleep(5)
            process.terminate()
        assert process.wait() == 0
    must_be_whole()
    print(f"{verb}: {dict(ends)}")


SIGNALLED_IN_A_CALLBACK = """
import gc, signal, sys, time
from metarun.command.main import main

def signalled(*_):
    gc.callbacks.remove(signalled)
    signal.raise_signal(signal.SIGINT)

class Signalled:
    def find_spec(self, name, *_):
        if name == "jax":
            gc.callbacks.append(signalled)
            gc.collect()
            time.sleep(20)
            print("went on")

sys.meta_path.insert(0, Signalled())
main()
"""


@pytest.mark.parametrize(
    "words",
    ["task=sinusoid", "-m task=sinusoid", "data sinusoid", "eval a", "report a", "sweep a", "bench task=sinusoid"],
)
def test_a_signal_that_comes_in_a_callback_of_the_garbage_collector_is_not_lost(tmp_path, words):
    """jax has such a callback; what is raised there is told of and goes no further."""
    command = [sys.executable, "-P", "-c", SIGNALLED_IN_A_CALLBACK, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, STOPPED)
    assert "went on" not in done.stdout
