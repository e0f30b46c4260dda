"""Runs presets, in whole or part, and writes docs/results.md: `python scripts/reproduce.py [PRESET...] --budget 0.1`.

Without names, every preset that has a paper's figure. What is finished is skipped, what was stopped goes on: give the
same command again. `--table-only` writes the page from what there is in `--dir`; a row whose run is no longer there, or
is shorter there, stays as it is. `--time` runs none, and measures with `metarun bench` how long those that have not run
would take.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metarun.conf import choices, conf_dir
from metarun.figures import commit_in_words, figure_of, papers, show

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- presets: begin -->", "<!-- presets: end -->"
METARUN = [sys.executable, "-P", "-m", "metarun"]


def presets() -> dict[str, dict[str, Any]]:
    """The experiments that reproduce a paper's figure, by name, with what their yaml files say."""
    found = {
        name: yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text()) for name in choices("experiment")
    }
    return {name: values for name, values in found.items() if values.get("paper")}


def run(name: str, steps: int, seed: int, directory: Path, more: list[str]) -> None:
    """One run by the command line, unless it is finished; its lines go to a file beside its directory."""
    folder = directory / name / f"{steps}-{seed}"
    if (folder / "results.json").exists():
        return
    settings = [f"experiment={name}", f"train.steps={steps}", f"train.seed={seed}", "logger=none", *more]
    command = [*METARUN, *([] if (folder / "config.yaml").exists() else settings), f"run.dir={folder}"]
    print("metarun", *command[4:], flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        print(f"{name}: exit code {code}; {folder.with_suffix('.log')} has its lines", flush=True)


def timed(name: str, directory: Path) -> None:
    """Keeps what `metarun bench` says of a preset on this machine, unless it has been asked already."""
    file = directory / name / "bench.json"
    if file.exists():
        return
    print("metarun bench", f"experiment={name}", flush=True)
    words = ["bench", f"experiment={name}", "train.steps=1"]  # a run that short does not search for the best task_chunk
    done = subprocess.run([*METARUN, *words], stdout=subprocess.PIPE, text=True, check=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(done.stdout)


def in_full(name: str, values: dict[str, Any], directory: Path) -> str | None:
    """How long all meta-steps of a preset would take, from its bench.json; None where that is not measured."""
    file = directory / name / "bench.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    hours = values["train"]["steps"] / found["meta_steps_per_s"] / 3600
    long = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return f"{long} at {found['meta_steps_per_s']:.2g} meta-steps/s, {found['devices']} {found['device'].split()[0]}"


def longest(name: str, directory: Path) -> list[dict[str, Any]]:
    """The results of a preset's finished runs with the most meta-steps, one for each seed."""
    found = [json.loads(path.read_text()) for path in sorted((directory / name).glob("*/results.json"))]
    most = max((results["training"]["steps"] for results in found), default=0)
    return [results for results in found if results["training"]["steps"] == most]


def protocol(found: dict[str, Any]) -> str:
    """How the figure was taken, in a few words."""
    how = found["protocol"]
    task, learner = how["task"], how["learner"]
    words = [f"{how['episodes']:,} tasks"]
    words += [f"{task[key]} {key}" for key in ("ways", "shots", "queries") if key in task]
    words += [f"{learner['inner_steps']} inner steps"] if "inner_steps" in learner else []
    words += [f"split {task['split']}"] if "split" in task else []
    words += ["transductive"] if how["transductive"] else []
    return ", ".join([*words, f"{found['state']['state']} state"])


def rows(name: str, values: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """A preset's rows: one for each of the paper's figures, over the seeds of its longest runs."""
    asked, first = values["train"]["steps"], found[0]
    done, machine, commit = first["training"]["steps"], first["machine"], first["commit"]
    command = f"metarun experiment={name}{'' if done == asked else f' train.steps={done}'}"
    lines = []
    for metric in values["paper"]["figures"]:
        ours = [figure for results in found if (figure := figure_of(results, metric)) is not None]
        whole = {key: float(np.mean([figure[key] for figure in ours])) for key in ("mean", "ci95")}
        scale = 100 if metric.startswith("accuracy") else 1
        std = f"{scale * np.std([o['mean'] for o in ours], ddof=1):.2g} over {len(ours)}" if len(ours) > 1 else "1 seed"
        cells = (
            f"`{command}`",
            papers(values, metric) + in_words(metric),
            f"**{show(metric, whole)}**",
            std,
            protocol(first) + (" (each query alone)" if metric.endswith("inductive") else ""),
            f"{done:,} of {asked:,}" + ("" if done == asked else f" ({100 * done / asked:.2g} %)"),
            f"{np.mean([results['speed']['minutes'] for results in found]):.1f}",
            f"{machine['devices']} {machine['device']}, {commit_in_words(commit)}, {first['date'][:10]}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def in_words(metric: str) -> str:
    said = metric.removeprefix("accuracy").strip("_").replace("_", " ").replace("mse", "MSE")
    return f" ({said})" if said else ""


def sources(every: dict[str, dict[str, Any]]) -> list[str]:
    """Where each paper's figure stands, and who quotes it."""
    lines: dict[str, list[str]] = {}
    for name, values in every.items():
        paper = values["paper"]
        quoted = f", as quoted by {paper['quoted_by']}" if paper["quoted_by"] else ""
        lines.setdefault(f"{paper['source']}{quoted}", []).append(f"`{name}`")
    return [f"- {source}: {', '.join(names)}" for source, names in lines.items()]


def on_page(text: str) -> dict[str, list[str]]:
    """A page's rows of each preset: of its runs, or the one that says that it has not run."""
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.match(r"\| `metarun experiment=(\w+)", line):
            lines.setdefault(found[1], []).append(line)
    return lines


def steps_done(lines: list[str]) -> int:
    cells = lines[0].split(" | ") if lines else []
    return int(cells[5].split()[0].replace(",", "")) if len(cells) == 8 else 0  # a row of four has not run


def page(directory: Path, before: str) -> str:
    """The tables: of the runs in `directory`, and of those that the page has from `before`."""
    every, kept = presets(), on_page(before)
    runs, waiting = [], []
    for name, values in every.items():
        found, old = longest(name, directory), kept.get(name, [])
        new = rows(name, values, found) if found else []
        longer = new if steps_done(new) >= steps_done(old) else old
        if longer:
            runs += longer
        else:
            figures = "; ".join(papers(values, metric) + in_words(metric) for metric in values["paper"]["figures"])
            was = old[0].rstrip(" |").split(" | ")[3] if old else "not measured"
            steps, long = f"{values['train']['steps']:,}", in_full(name, values, directory) or was
            waiting.append(f"| `metarun experiment={name}` | {figures} | {steps} | {long} |")
    lines = table(
        "command", "paper", "ours, 95 % interval over tasks", "std over seeds", "protocol", "meta-steps", "minutes",
        "device, commit, date",
    )  # fmt: skip
    lines += [*runs, "", "Not run yet:", ""]
    lines += [*table("command", "paper", "meta-steps", "in full, validation and test left out"), *waiting]
    return "\n".join([*lines, "", "Where the papers' figures stand:", "", *sources(every)])


def table(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def write(directory: Path) -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    tables, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{page(directory, tables)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="all by default")
    parser.add_argument("--budget", type=float, default=1.0, help="the share of the paper's meta-steps to run")
    parser.add_argument("--seeds", default="0", help="e.g. 0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--dir", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="for each run, e.g. hardware.devices=1"
    )
    arguments = parser.parse_args()
    every = presets()
    for name in arguments.presets:
        if name not in every:
            parser.error(f"{name}: no such preset; allowed: {', '.join(every)}")
    if not 0 < arguments.budget <= 1:
        parser.error(f"--budget {arguments.budget}: more than 0 and at most 1")
    if arguments.time:
        for name in arguments.presets or every:
            if not longest(name, arguments.dir):
                timed(name, arguments.dir)
    elif not arguments.table_only:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [
                (name, max(1, round(arguments.budget * every[name]["train"]["steps"])), int(seed))
                for name in arguments.presets or every
                for seed in arguments.seeds.split(",")
            ]
            for job in [pool.submit(run, *job, arguments.dir, arguments.set) for job in jobs]:
                job.result()
    write(arguments.dir)


if __name__ == "__main__":
    main()
