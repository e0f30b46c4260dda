"""Does to runs what happens to long ones, many times over, and writes docs/reliability.md: `make soak`, over an hour.

`python scripts/soak.py PART...` does some parts only: kills, host, busy, endurance, configurations, tests. What each
found is kept in runs/soak/, from which the page is written.
"""

import argparse
import datetime
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orbax.checkpoint as ocp
from jax.tree_util import keystr, tree_leaves_with_path
from pages.marks import between, write_between
from pages.parts import ask_for_parts

from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "runs" / "soak"
PAGE = ROOT / "docs" / "reliability.md"
METARUN = [sys.executable, "-P", "-m", "metarun"]
SMALL = ["task=sinusoid", "model.hidden=[8]", "train.meta_batch=4", "eval.episodes=8", "eval.val_episodes=8"]

# Fault, how it is provoked, the tests that do so, and what is lost.
TESTED = (
    ("Ctrl-C, SIGTERM, SIGKILL once in a run", "real signals to a real process; its end compared bit by bit",
     "broken_run_goes_on or sigterm_while_all", "nothing"),
    ("stopped and gone on with, every learner and task", "broken off after 3 of 4 meta-steps, compared bit by bit",
     "every_learner_goes_on or every_task_goes_on", "nothing"),
    ("gone on with on another number of devices", "2 devices, then 1", "another_number_of_devices", "nothing; 1e-5"),
    ("out of time", "`run.max_minutes`; stopped in a validation", "max_minutes or stopped_in_a_validation",
     "nothing"),
    ("damaged checkpoint", "each file of the newest flipped, cut, deleted; then all files",
     "damaged_checkpoint or no_whole_checkpoint", "the meta-steps since the one before; with none whole, refused"),
    ("checkpoint that cannot be written", "its directory replaced by a file, then given back", "checkpoint_that_cannot",
     "nothing once it can be written again"),
    ("full disk", "a limit on the size of files", "full_disk", "what it did not take, told once; no half row"),
    ("directory taken away, read-only", "moved away during the run; a place where nobody can write",
     "rows_that_the_disk or cannot_be_written_is_one", "rows of that time come later, whole"),
    ("two processes on one run", "both started", "second_process", "nothing; the second is refused"),
    ("another configuration on a run's directory", "a differing seed", "another_run_is_refused", "nothing; refused"),
    ("loss or gradient that is no number", "step sizes of 1e30; meta-gradients replaced by NaN",
     "not_finite or skipped or diverges or no_number", "the update of that meta-step, kept for `metarun replay`"),
    ("W&B refuses, hangs, drops", "local sockets that do so, at the start and once it has begun", "wandb",
     "what W&B had not taken, kept for `wandb sync`; the run ends with its results"),
    ("download that breaks, or is something else", "a local server that delivers half, a login page, 404",
     "download", "nothing; the next try works"),
    ("bad archive", "truncated, swapped, corrupted, empty, no images, wrong counts, names with ../, zip bomb",
     "archive", "nothing; refused by name"),
    ("two processes prepare the same data", "both started", "two_processes_that_prepare", "nothing"),
    ("classes in two splits, duplicate images", "made so", "class_in_two_splits", "nothing; told at the start"),
    ("adapt, predict, export, serve stopped", "SIGINT, SIGTERM, SIGKILL beside 4 spinning processes; and within a file",
     "stopped_at_random or file_that_is_being_written or kept_learner_is_whole",
     "nothing; a hidden .NAME.PID may be left by SIGKILL"),
    ("names with markup and escape sequences", "run.name, run.dir, errors", "stays_text or control_characters",
     "nothing; shown as text"),
)  # fmt: skip


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All that is saved of a run's last state."""
    newest = max((p for p in (run / "checkpoints" / "last").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    tree = ocp.StandardCheckpointer().restore((newest / "state").absolute())
    return {keystr(path): np.asarray(leaf) for path, leaf in tree_leaves_with_path(tree)}


def kills(times: int = 50) -> dict[str, Any]:
    """One run killed again and again at random moments, beside one that is left alone."""
    settings = [*SMALL, "logger=none", "train.steps=30000", "train.save_every=50", "train.eval_every=1000",
                "train.log_every=50", "hardware.devices=2"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        done, in_save = broken_off(settings, Path(folder), times, (signal.SIGKILL,), 10)
    return {
        "fault": "kill -9",
        "how": "one run of 30,000 meta-steps, killed at random moments",
        "times": done,
        "lost": f"nothing: states, rows and figures bit-equal; {in_save} of them came in the middle of a save",
    }


def host(times: int = 20) -> dict[str, Any]:
    """A run on images that are decoded and then stay on the host, stopped and killed beside spinning processes."""
    from PIL import Image

    settings = ["learner=protonet", "task=folder", "model.filters=4", "task.image.side=16", "train.meta_batch=4",
                "eval.episodes=40", "eval.val_episodes=20", "logger=none", "train.steps=6000", "train.save_every=100",
                "train.eval_every=1000", "train.log_every=100", "hardware.devices=2", "hardware.data=host",
                "hardware.task_chunk=2"]  # fmt: skip
    random_pixels = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(12_000):
            path = folder / "images" / f"{i % 60:02}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_pixels.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        settings.append(f"task.path={folder / 'images'}")
        spinning = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 1) + 2)
        ]
        try:
            done, in_save = broken_off(settings, folder, times, (signal.SIGKILL, signal.SIGINT), 40)
        finally:
            for process in spinning:
                process.kill()
        left = [path.name for path in (folder / "cache-killed").iterdir() if path.name.startswith(".")]
        assert not left, f"the cache keeps {left}"
    return {
        "fault": "kill -9 and Ctrl-C, data on the host",
        "how": f"12,000 images decoded and 6,000 meta-steps from the host, at random moments, beside {len(spinning)} "
        "spinning processes",
        "times": done,
        "lost": f"nothing: states, rows and figures bit-equal; {in_save} of them came in the middle of a save",
    }


def broken_off(
    settings: list[str], folder: Path, times: int, signals: tuple[int, ...], seconds: float
) -> tuple[int, int]:
    """A run sent one of `signals` within so many `seconds` of each start, and gone on with, beside one left alone.

    Each has a cache of its own. Nothing may differ. Returns how often, and how often that was in the middle of a save.
    """
    moments = random.Random(0)
    alone, killed = folder / "alone", folder / "killed"
    caches = {run: {**os.environ, "METARUN_CACHE_DIR": str(folder / f"cache-{run.name}")} for run in (alone, killed)}
    command = [*METARUN, *settings, f"run.dir={alone}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=caches[alone])
    done = in_save = 0
    while not (killed / "results.json").exists():
        begun = (killed / "config.yaml").exists()
        command = [*METARUN, *([] if begun else settings), f"run.dir={killed}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=caches[killed])
        if done == times:
            _, error = process.communicate()
            assert process.returncode == 0, error
            break
        try:  # starting takes about 5 seconds, on an idle machine
            process.communicate(timeout=moments.uniform(1, seconds))
            assert process.returncode == 0
        except subprocess.TimeoutExpired:
            process.send_signal(moments.choice(signals))
            _, error = process.communicate()
            assert process.returncode in (-signal.SIGKILL, 75), error
            done += 1
            in_save += any(killed.rglob("*tmp*"))
    one, other = arrays(alone), arrays(killed)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one), "parameters or optimizer state differ"
    assert (alone / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes(), "rows differ"
    tests = [json.loads((run / "results.json").read_text())["test"] for run in (alone, killed)]
    assert tests[0] == tests[1], "figures differ"
    return done, in_save


def configurations(times: int = 1000, each: int = 50) -> dict[str, Any]:
    """The test of random configurations, many of them: two processes side by side, a new one after `each`.

    What one found is kept: after a failure that was mended, the same command goes on with it.
    """

    def drawn(seed: int) -> dict[str, int]:
        kept = FOUND / f"configurations-{seed}.json"
        if kept.exists():
            return json.loads(kept.read_text())
        environment = {"METARUN_RANDOM_CONFIGS": str(each), "METARUN_RANDOM_SEED": str(seed)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", "tests/config/test_random_configs.py"],
            cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told = re.search(r"random configurations: (\{.*\})", done.stdout)
        if done.returncode or told is None:
            raise RuntimeError(f"seed {seed}:\n{done.stdout[-5000:]}")
        print(f"seed {seed}: {told[1]}", flush=True)
        kept.write_text(told[1].replace("'", '"'))
        return json.loads(kept.read_text())

    ends: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(drawn, range(1, 1 + times // each)):
            ends.update(found)
    how = "random choices, values, misspellings, deletions and nonsense (hypothesis)"
    lost = "nothing, no traceback, no hang: " + "; ".join(f"{n} {end}" for end, n in ends.most_common())
    return {"fault": "any configuration", "how": how, "times": sum(ends.values()), "lost": lost}


def busy(times: int = 40, tree: Path = ROOT) -> dict[str, Any]:
    """Runs of real size that save every few meta-steps, on a machine with two spinning processes more than cores.

    `tree` is a checkout: another commit's, to see what that one does.
    """
    settings = ["learner=maml", "logger=none", "train.steps=60", "train.log_every=20", "train.eval_every=30",
                "train.save_every=5", "eval.episodes=20", "eval.val_episodes=20", "eval.inner_steps=[]",
                "eval.inductive=none"]  # fmt: skip
    kept = FOUND / f"busy-{of(tree)}-runs.json"
    ends: list[int] = json.loads(kept.read_text()) if kept.exists() else []
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 1) + 2)]
    try:
        while len(ends) < times:
            task = ("strokes", "omniglot")[len(ends) % 2]
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [*METARUN, f"task={task}", *settings, f"run.dir={folder}/run"], capture_output=True, text=True,
                    cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=False,
                )  # fmt: skip
            ends.append(done.returncode)
            kept.write_text(json.dumps(ends))
            print(f"{of(tree)}: run {len(ends)}, exit code {done.returncode}", flush=True)
    finally:
        for process in spinning:
            process.kill()
    aborts, others = ends.count(-signal.SIGABRT), sum(code not in (0, -signal.SIGABRT) for code in ends)
    return {
        "fault": "a machine that does other work" if tree == ROOT else f"the same at commit {of(tree)}",
        "how": f"MAML on strokes and Omniglot, 60 meta-steps, saved every 5, beside {len(spinning)} spinning processes",
        "times": len(ends),
        "lost": f"{aborts} ended in SIGABRT{f', {others} otherwise' if others else ''}"
        if aborts + others
        else "nothing",
    }


def of(tree: Path) -> str:
    """The commit that a checkout is of."""
    words = ["git", "-C", str(tree), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def endurance(steps: int = 200_000) -> dict[str, Any]:
    """A long run of a small configuration: its memory and its speed, at the beginning and at the end."""
    settings = [*SMALL, "logger=none", f"train.steps={steps}", "train.log_every=1000", "train.eval_every=20000",
                "train.save_every=10000"]  # fmt: skip
    seen: list[tuple[float, int, float]] = []  # seconds, meta-steps, MB
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = subprocess.Popen([*METARUN, *settings, f"run.dir={run}"], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            time.sleep(0.5)
            rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
            if rows and (step := json.loads(rows[-1])["step"]) != (seen[-1][1] if seen else 0):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                seen.append((time.monotonic(), step, pages * os.sysconf("SC_PAGESIZE") / 2**20))
        assert process.returncode == 0

    def part(low: float, high: float) -> tuple[float, float]:
        """meta-steps a second and MB between two shares of the run."""
        own = [s for s in seen if low * steps <= s[1] <= high * steps]
        return (own[-1][1] - own[0][1]) / (own[-1][0] - own[0][0]), float(np.median([s[2] for s in own]))

    (first, first_mb), (last, last_mb) = part(0.05, 0.2), part(0.8, 0.95)
    lost = (
        f"nothing: {first_mb:.0f} MB and {first:,.0f} meta-steps/s at 5 to 20 % of the way, "
        f"{last_mb:.0f} MB and {last:,.0f} at 80 to 95 %"
    )
    return {"fault": "a long run", "how": f"{steps:,} meta-steps of a small configuration", "times": 1, "lost": lost}


def tests() -> list[dict[str, Any]]:
    """The tests of faults, all learners and tasks among them, counted."""
    report = FOUND / "tests.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", f"--junitxml={report}", "--numprocesses=2",
         *(f"tests/{name}" for name in ("run", "data", "command", "tasks"))],
        cwd=ROOT, check=False,
    )  # fmt: skip
    cases = list(ElementTree.parse(report).iter("testcase"))
    found = []
    for fault, how, select, lost in TESTED:
        own = [case for case in cases if any(part in case.get("name", "") for part in select.split(" or "))]
        bad = [case.get("name") for case in own if case.find("failure") is not None or case.find("error") is not None]
        passed = sum(case.find("skipped") is None for case in own)
        assert passed, f"no test for {fault}"
        found.append(
            {
                "fault": fault,
                "how": how,
                "times": passed,
                "lost": f"FAILED: {', '.join(map(str, bad))}" if bad else lost,
            }
        )
    return found


PARTS: dict[str, Any] = {
    "kills": kills,
    "host": host,
    "busy": busy,
    "endurance": endurance,
    "configurations": configurations,
    "tests": tests,
}


def page() -> str:
    """The table: what was found last of each fault. Of a part that was not run here the page's rows stand."""
    rows = {line.split("|")[1].strip(): line for line in between(PAGE, "soak").splitlines() if line.startswith("| ")}
    for path in sorted(FOUND.glob("*.json")):
        kept = json.loads(path.read_text())
        if "made" in kept:  # the other files are parts that go on
            for row in kept["rows"]:
                cells = (row["fault"], row["how"], f"{row['times']:,}", row["lost"], kept["made"])
                rows[row["fault"]] = f"| {' | '.join(cells)} |"
    head = [rows.pop("fault", "| fault | how it was provoked | times | what was lost | date, commit |")]
    ruled = rows.pop("---", "| --- | --- | --- | --- | --- |")
    return "\n".join([*head, ruled, *rows.values(), "", f"On {os.cpu_count()} CPU cores, {platform.platform()}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    ask_for_parts(parser, PARTS)
    parser.add_argument("--tree", type=Path, help="busy: another commit's checkout, to see what that one does")
    given = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    for part in given.parts or PARTS:
        elsewhere = {"tree": given.tree.absolute()} if given.tree and part == "busy" else {}
        rows: Any = PARTS[part](**elsewhere)
        made = f"{datetime.date.today()}, {of(given.tree) if elsewhere else commit_in_words(commit())}"
        found = {"rows": rows if isinstance(rows, list) else [rows], "made": made}
        (FOUND / f"{part}{f'-{of(given.tree)}' if elsewhere else ''}.json").write_text(json.dumps(found, indent=2))
        print(json.dumps(found, indent=2), flush=True)
    write_between(PAGE, "soak", page())


if __name__ == "__main__":
    main()
