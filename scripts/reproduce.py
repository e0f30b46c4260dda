"""Runs presets, in whole or part, and writes docs/results.md: `python scripts/reproduce.py [PRESET...] --budget 0.1`.

Without names, every preset that has a paper's figure. What is finished in `--dir` is skipped, what was stopped there
goes on: give the same command again. Figures are kept in docs/results.json, beside the page, and outlive the runs'
directories. README.md's table is made of them, too; of its experiments `demo` has no paper.
`--plan` works through scripts/plan.yaml instead, one run at a time at the lowest priority, and writes the pages after
each: stopped by Ctrl-C or at a reboot, it goes on exactly where it was. `--table-only` runs none. `--time` runs none
either, and measures with `metarun bench` how long those that have not run would take.
"""

import argparse
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pages import results as results_page
from pages.known import beside, experiments, folder_of, keep, known, longest, presets
from pages.runs import METARUN, make, work_through

from metarun.exit_codes import FAILED, STOPPED
from metarun.files import write_atomically

PLAN = Path(__file__).with_name("plan.yaml")


def run(name: str, steps: int, seed: int, directory: Path, settings: list[str]) -> int:
    """Makes one run, unless it is finished; what an error said stays beside its directory. Gives the exit code."""
    folder = folder_of(directory, name, steps, seed, settings)
    finished = (folder / "results.json").exists()
    code = make(folder, [f"experiment={name}", f"train.steps={steps}", f"train.seed={seed}", "logger=none", *settings])
    if finished:
        return code
    lines, failed = beside(folder, ".log"), beside(folder, ".failed")
    failed.unlink(missing_ok=True)
    if code == FAILED:  # what was stopped goes on another time, and a mistake is no result
        said = lines.read_text(errors="replace").split("\n")
        write_atomically(failed, next((line for line in reversed(said) if line.strip()), f"exit code {code}"))
    return code


def timed(name: str, directory: Path) -> int:
    """Keeps what `metarun bench` says of a preset on this machine, unless it has been asked already. Its exit code."""
    file = directory / name / "bench.json"
    if file.exists():
        return 0
    print("metarun bench", f"experiment={name}", flush=True)
    words = ["bench", f"experiment={name}", "train.steps=1"]  # a run that short does not search for the best task_chunk
    done = subprocess.run([*METARUN, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, done.stdout)
    return done.returncode


def budget(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0 and at most 1, e.g. 0.05")


def seeds(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, e.g. 0,1,2")
    return [int(number) for number in text.split(",")]


def jobs(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0, e.g. 2")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="those with a paper's figure by default")
    parser.add_argument("--budget", type=budget, default=1.0, help="the share of the preset's meta-steps to run")
    parser.add_argument("--seeds", type=seeds, default=[0], help="e.g. 0,1,2")
    parser.add_argument("--jobs", type=jobs, default=1, help="runs side by side")
    parser.add_argument("--dir", type=Path, default=Path("runs/reproduce"))
    parser.add_argument(
        "--plan", type=Path, nargs="?", const=PLAN, help=f"a file like {PLAN.name}, which is the default"
    )
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for each run; may be repeated")
    arguments = parser.parse_args()
    allowed = presets() if arguments.time else experiments()
    for name in arguments.presets:
        if name not in allowed:
            parser.error(f"{name}: no such preset; allowed: {', '.join(allowed)}")
    chosen, codes = arguments.presets or list(presets()), [0]
    try:
        if arguments.time:
            before = known(arguments.dir)
            codes += [timed(name, arguments.dir) for name in chosen if not longest(before, name)]
        elif arguments.plan:
            planned_runs = [
                partial(run, preset, experiments()[preset]["train"]["steps"], seed, arguments.dir, [])
                for preset, seed in planned(arguments.plan)
            ]
            codes += work_through(planned_runs, lambda: write_pages(arguments.dir))
        elif not arguments.table_only:
            codes += run_all(chosen, arguments)
    except KeyboardInterrupt:
        codes.append(130)
    finally:
        write_pages(arguments.dir)
    return max(codes)


def write_pages(directory: Path) -> None:
    what = known(directory)
    keep(what)
    results_page.write(what)


def planned(plan: Path) -> list[tuple[str, int]]:
    """A plan's runs, preset and seed. Raises SystemExit over a preset that there is not."""
    runs = [(row["preset"], seed) for row in yaml.safe_load(plan.read_text()) for seed in row["seeds"]]
    if wrong := sorted({preset for preset, _ in runs} - presets().keys()):
        sys.exit(f"{plan}: {', '.join(wrong)}: no such preset; allowed: {', '.join(presets())}")
    return runs


def run_all(chosen: list[str], arguments: argparse.Namespace) -> list[int]:
    """The runs' exit codes. Ctrl-C stops those that run, and starts no others."""
    stopped = threading.Event()

    def unless_stopped(*given: Any) -> int:
        """Runs are told of Ctrl-C, too: one may have ended by it before this process has done a thing about it."""
        code = STOPPED if stopped.is_set() else run(*given)
        if code not in (0, FAILED):
            stopped.set()
        return code

    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            asked = {name: experiments()[name]["train"]["steps"] for name in chosen}
            runs = [
                pool.submit(
                    unless_stopped, name, max(1, round(arguments.budget * steps)), seed, arguments.dir, arguments.set
                )
                for name, steps in asked.items()
                for seed in arguments.seeds
            ]
            return [abs(one.result()) for one in runs]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
