"""Breaks sweeps off and measures what they cost, into docs/sweeps.md: `make sweeps`, about half an hour on two cores.

`python scripts/measure_sweeps.py PART...` does some parts only: killed, launchers, overhead, record, seeds; the
page's others stay as they are.
"""

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pages.marks import write_between
from pages.parts import ask_for_parts
from pages.tables import table
from soak import METARUN, arrays

from metarun import sweep
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sweeps.md"
TINY = ["task=sinusoid", "model.hidden=[8]", "train.meta_batch=4", "eval.episodes=8", "eval.val_episodes=8",
        "eval.inner_steps=[]", "hardware.task_chunk=4", "logger=none"]  # fmt: skip


def made(words: list[str], environment: dict[str, str] | None = None) -> float:
    """Seconds that a sweep took from its command to its end, which was a good one."""
    began = time.monotonic()
    done = subprocess.run(
        [*METARUN, "-m", *words], capture_output=True, text=True, check=False, env=os.environ | (environment or {})
    )
    if done.returncode:
        raise RuntimeError(f"{words}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began


def must_be_alike(one: Path, other: Path) -> None:
    """Asserts that the jobs of two sweeps have the same figures and last states, bit for bit."""
    first, second = sweep.read(one), sweep.read(other)
    assert [job.settings for job in first.jobs] == [job.settings for job in second.jobs]
    for a, b in zip(first.jobs, second.jobs, strict=True):
        assert a.stand == b.stand == "finished", (a, b)
        tests = [json.loads((job.directory / "results.json").read_text())["test"] for job in (a, b)]
        assert tests[0] == tests[1], f"figures of job {a.number} differ"
        states = [arrays(job.directory) for job in (a, b)]
        assert states[0].keys() == states[1].keys()
        assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0]), f"job {a.number} differs"


def begun(directory: Path) -> list[int]:
    """How often each job has begun from its first meta-step; one that goes on says so."""
    logs = [(job.directory / "metarun.log").read_text() for job in sweep.read(directory).jobs]
    return [log.count(" parameters, ") - log.count("going on from ") for log in logs]


def finished(directory: Path) -> int:
    """How many jobs of a sweep are; none of one that has not begun."""
    return sum(job.stand == "finished" for job in sweep.read(directory).jobs) if sweep.is_sweep(directory) else 0


def killed(times: int = 3) -> str:
    """A sweep of 24 jobs, killed at random and started again, beside one that is left alone."""
    settings = [*TINY, "train.steps=600", "train.save_every=20", "train.log_every=20", "train.eval_every=100",
                "train.seed=range(8)", "learner.inner_lr=0.01,0.003,0.001"]  # fmt: skip
    moments, lines = random.Random(0), []
    for how, words in (("one after another", []), ("two at once", ["sweep.jobs=2", "hydra.launcher.memory_gb=0.5"])):
        with tempfile.TemporaryDirectory() as folder:
            alone, broken = Path(folder, "alone"), Path(folder, "broken")
            # The same share of the cores: sums over other numbers of devices differ in their last bits.
            seconds = made([*settings, *words, f"run.dir={alone}"])
            at = []
            for third in range(times):
                process = subprocess.Popen(
                    [*METARUN, "-m", *settings, *words, f"run.dir={broken}"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
                enough = moments.randint(24 * third // times + 1, 24 * (third + 1) // times - 1)
                while finished(broken) < enough:
                    assert process.poll() is None, process.communicate()[1]
                    time.sleep(0.05)
                time.sleep(moments.uniform(0, 1.5 * seconds / 24))
                process.send_signal(signal.SIGKILL)
                process.communicate()
                at.append(finished(broken))
            again = made(["run.dir=" + str(broken)])
            must_be_alike(alone, broken)
            assert set(begun(broken)) <= {0, 1}, "a job was made twice"
        lines.append(
            f"- **{how}**: 24 jobs of 600 meta-steps, `kill -9` of the sweep's process {times} times at random, with "
            f"{', '.join(map(str, at))} jobs finished, then `metarun -m run.dir=DIR`: no job twice, none missing, "
            f"figures and last states bit-equal to an undisturbed sweep's ({seconds:.0f} s; the last start took "
            f"{again:.0f} s)"
        )
    return "\n".join(lines)


def launchers() -> str:
    """The same 6 jobs, and the same search, by every launcher there is."""
    settings = [*TINY, "train.steps=200", "hardware.devices=1"]
    jobs = ["train.seed=0,1,2", "learner.inner_lr=0.01,0.001"]
    trials = ["learner.inner_lr=tag(log,interval(0.001,0.1))", "sweep.trials=6", "sweep.sampler=random",
              "sweep.pruner=none"]  # fmt: skip
    ways = {
        "in this process, one after another": [],
        "`sweep.jobs=2`": ["sweep.jobs=2", "hydra.launcher.memory_gb=0.5"],
        **{
            f"`{word}`": [word, *more]
            for word, there, more in (
                ("hydra/launcher=submitit_local", there_is("submitit"), []),
                (
                    "hydra/launcher=slurm",
                    is_answering("sinfo"),
                    ["hydra.launcher.parameters={cpus_per_task:1,mem_gb:2}"],
                ),
                ("hydra/launcher=ray", there_is("ray"), []),
            )
            if there
        },
    }
    rows = []
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:  # where Slurm's jobs would see it, too
        firsts: list[Path] = []
        for number, (name, words) in enumerate(ways.items()):
            directories = [Path(folder, f"{number}{kind}") for kind in "ab"]
            seconds = [
                made([*settings, *many, *words, f"run.dir={directory}"])
                for many, directory in zip((jobs, trials), directories, strict=True)
            ]
            firsts = firsts or directories
            for first, directory in zip(firsts, directories, strict=True):
                must_be_alike(first, directory)
            rows.append((name, *(f"{each:.0f}" for each in seconds), "the same" if number else ""))
    heads = ("6 runs of 200 meta-steps", "6 jobs of a grid, s", "6 trials of a search, s", "figures and last states")
    return "\n".join(table(heads, *rows))


def is_answering(command: str) -> bool:
    return (
        shutil.which(command) is not None
        and subprocess.run([command], capture_output=True, check=False).returncode == 0
    )


def there_is(package: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0


def overhead(jobs: int = 200) -> str:
    """What a sweep adds to each of many tiny jobs: beside the plain loop, `metarun.train` once and once again."""
    settings = [*TINY, "train.steps=2", "train.log_every=1", "train.eval_every=2", "train.save_every=2"]
    loop = """
import sys, time, metarun
settings, folder, jobs = sys.argv[3:], sys.argv[1], int(sys.argv[2])
ends = []
for seed in range(jobs):
    metarun.train([*settings, f"train.seed={seed}", f"run.dir={folder}/{seed}"])
    ends.append(time.monotonic())
print(ends[-1] - ends[0], file=sys.stderr)
"""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", loop, f"{folder}/loop", str(jobs), *settings]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        plain = float(done.stderr.splitlines()[-1]) / (jobs - 1)
        directory = Path(folder, "sweep")
        whole = made([*settings, f"train.seed=range({jobs})", f"run.dir={directory}"])
        each = statistics.median(job.end["seconds"] for job in sweep.read(directory).jobs)
        began = time.monotonic()
        made([f"run.dir={directory}"])
        nothing_left = time.monotonic() - began
    return "\n".join(
        [
            f"- {jobs} jobs of 2 meta-steps: {1000 * plain:.0f} ms each in a plain loop over `metarun.train`, "
            f"{1000 * whole / jobs:.0f} ms each as a sweep, start and check of all combinations included "
            f"({1000 * each:.0f} ms the job itself, the median)",
            f"- the same command once more, with nothing left to make: {nothing_left:.1f} s",
        ]
    )


def record(jobs: int = 1000) -> str:
    """How long the record of many jobs takes to read."""
    from metarun.sweep.record import Job, Sweep, begin, ended

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        every = tuple(Job(n, ("learner=maml", f"train.seed={n}"), directory / str(n)) for n in range(jobs))
        begin(Sweep(directory, (), ("learner=maml", f"train.seed=range({jobs})"), "grid", every))
        figures = {"mean": 0.5, "ci95": 0.01}
        found = {"protocol": {"split": "test", "metric": "accuracy"}, "test": {"accuracy": figures},
                 "by_class": {str(n): [1, 2] for n in range(500)}}  # fmt: skip
        for job in every:
            job.directory.mkdir()
            (job.directory / "results.json").write_text(json.dumps(found))
            ended(directory, job, seconds=1.0)
        times = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run([*METARUN, "sweep", folder], check=True, capture_output=True)
            times.append(time.monotonic() - began)
    return f"- `metarun sweep DIR` of {jobs:,} finished jobs: {statistics.median(times):.1f} s, start included"


def seeds(most: int = 16, rounds: int = 5) -> str:
    """How long a meta-step of many runs takes in one program, beside that of one alone."""
    from metarun.command.from_python import run_of
    from metarun.run.bench_together import way

    settings = {
        "sine waves, two layers of 40": ["task=sinusoid", "learner=maml"],
        "the same, 4 tasks a meta-step": ["task=sinusoid", "learner=maml", "train.meta_batch=4"],
        "`strokes`, Conv4": ["task=strokes", "learner=maml"],
    }
    rows = []
    for name, words in settings.items():
        run = run_of([*words, "logger=none"])
        ways = {n: way(run, n or None) for n in (0, *(2**i for i in range(1, most.bit_length())))}
        taken: dict[int, list[tuple[float, float]]] = {n: [] for n in ways}
        one = min(ways[0].timed(1).clock for _ in range(3))
        for _ in range(rounds):
            for n, these in ways.items():
                taken[n].append(these.timed(max(1, int(0.3 / (one * max(1, n))))))
        for n in ways:
            wall = statistics.median(seconds for seconds, _ in taken[n])
            clock, cpu = (
                statistics.median(this[i] / alone[i] for this, alone in zip(taken[n], taken[0], strict=True))
                for i in (0, 1)
            )
            many = max(1, n)
            rows.append((name if not n else "", str(many), f"{1000 * wall:.3g}", f"{clock:.2f}", f"{many / clock:.2f}",
                         f"{many / cpu:.2f}"))  # fmt: skip
    heads = ("MAML on", "seeds", "ms a meta-step of all", "times one alone", "gain", "gain in processor time")
    return "\n".join(table(heads, *rows))


PARTS = {"killed": killed, "launchers": launchers, "overhead": overhead, "record": record, "seeds": seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask_for_parts(parser, PARTS)
    given = parser.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    for name in given.parts or PARTS:
        text = PARTS[name]()
        print(text, flush=True)
        where = f"{os.cpu_count()} cores, {platform.platform()}, {commit_in_words(commit())}"
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_between(PAGE, name, f"{text}\n\n`python scripts/measure_sweeps.py {name}`, {where}, {date}.")


if __name__ == "__main__":
    main()
