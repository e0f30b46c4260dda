"""Runs presets, in whole or part, and writes docs/results.md: `python scripts/reproduce.py [PRESET...] --budget 0.1`.

Without names, every preset that has a paper's figure. What is finished is skipped, what was stopped goes on: give the
same command again. `--table-only` writes the page from what there is in `--dir`.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metarun.conf import choices, conf_dir
from metarun.figures import figure_of, papers, show

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


def rows(name: str, values: dict[str, Any], directory: Path) -> list[str]:
    """A preset's rows: one for each of the paper's figures, over the seeds of its longest runs."""
    paper, asked = values["paper"], values["train"]["steps"]
    found = [json.loads(path.read_text()) for path in (directory / name).glob("*/results.json")]
    done = max((results["training"]["steps"] for results in found), default=0)
    found = [results for results in found if results["training"]["steps"] == done]
    lines = []
    for metric in paper["figures"]:
        percent, theirs = metric.startswith("accuracy"), papers(values, metric)
        said = metric.removeprefix("accuracy").strip("_").replace("_", " ").replace("mse", "MSE")
        cells = [f"`{name}`", f"{theirs}{f' ({said})' if said else ''}"]
        if not found:
            lines.append(" | ".join([*cells, "not run yet", "", f"0 of {asked:,}", "", ""]))
            continue
        ours = [figure for results in found if (figure := figure_of(results, metric)) is not None]
        whole = {"mean": float(np.mean([o["mean"] for o in ours])), "ci95": float(np.mean([o["ci95"] for o in ours]))}
        scale = 100 if percent else 1
        spread = (
            f"{scale * np.std([o['mean'] for o in ours], ddof=1):.2g} over {len(ours)}" if len(ours) > 1 else "one seed"
        )
        first = found[0]
        machine, commit = first["machine"], first["commit"]
        made_by = f"{commit['id'][:8]}{' and changes' if commit['changed'] else ''}" if commit else "no commit"
        cells += [
            f"**{show(metric, whole)}**",
            spread,
            f"{done:,} of {asked:,}" + ("" if done == asked else f" ({100 * done / asked:.2g} %)"),
            f"{np.mean([results['speed']['minutes'] for results in found]):.1f}",
            f"{machine['devices']} {machine['device']}, {made_by}, {first['date'][:10]}",
        ]
        lines.append(" | ".join(cells))
    return [f"| {line} |" for line in lines]


def sources(every: dict[str, dict[str, Any]]) -> list[str]:
    """Where each paper's figure stands, and who quotes it."""
    lines: dict[str, list[str]] = {}
    for name, values in every.items():
        paper = values["paper"]
        quoted = f", as {paper['quoted_by']} quotes it" if paper["quoted_by"] else ""
        lines.setdefault(f"{paper['source']}{quoted}", []).append(f"`{name}`")
    return [f"- {source}: {', '.join(names)}" for source, names in lines.items()]


def page(directory: Path) -> str:
    every = presets()
    columns = (
        "preset",
        "paper",
        "ours, 95 % interval over tasks",
        "std over seeds",
        "meta-steps",
        "minutes",
        "device, commit, date",
    )
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for name, values in every.items():
        lines += rows(name, values, directory)
    return "\n".join([*lines, "", "Where the papers' figures stand:", "", *sources(every)])


def write(directory: Path) -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{page(directory)}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="all by default")
    parser.add_argument("--budget", type=float, default=1.0, help="the share of the paper's meta-steps to run")
    parser.add_argument("--seeds", default="0", help="e.g. 0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--dir", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--table-only", action="store_true")
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
    if not arguments.table_only:
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
