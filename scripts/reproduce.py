"""Runs presets, in whole or part, and writes docs/results.md: `python scripts/reproduce.py [PRESET...] --budget 0.1`.

Without names, every preset that has a paper's figure. What is finished in `--dir` is skipped, what was stopped there
goes on: give the same command again. Figures are kept in docs/results.json, beside the page, and outlive the runs'
directories. `--table-only` runs none. `--time` runs none either, and measures with `metarun bench` how long those that
have not run would take.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import yaml

from metarun.conf import choices, conf_dir
from metarun.exits import FAILED
from metarun.figures import commit_in_words, figure_of, papers, show, unit
from metarun.log import read_rows, write_atomically
from metarun.report.tables import markdown_text

Record = dict[str, Any]  # of one run: what its rows are made from

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
MEMORY = "results.json"  # beside the page
BEGIN, END = "<!-- presets: begin -->", "<!-- presets: end -->"
METARUN = [sys.executable, "-P", "-m", "metarun"]


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The experiments that reproduce a paper's figure, by name, with what their yaml files say."""
    found = {
        name: yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text()) for name in choices("experiment")
    }
    return {name: values for name, values in found.items() if values.get("paper")}


def run(name: str, steps: int, seed: int, directory: Path, settings: list[str]) -> int:
    """One run by the command line, unless it is finished; its lines go to a file beside its directory. Its exit code.

    The directory is named by what is not the preset's own: steps, seed, settings.
    """
    own = [quote("\n".join(settings), safe="")] if settings else []
    folder = directory / name / "-".join([str(steps), str(seed), *own])
    if (folder / "results.json").exists():
        return 0
    given = [f"experiment={name}", f"train.steps={steps}", f"train.seed={seed}", "logger=none", *settings]
    command = [*METARUN, *([] if (folder / "config.yaml").exists() else given), f"run.dir={folder}"]
    print("metarun", *command[4:], flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lines, failed = beside(folder, ".log"), beside(folder, ".failed")
    with lines.open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False).returncode
    failed.unlink(missing_ok=True)
    if code:
        print(f"{name}: exit code {code}; {lines} has its lines", flush=True)
    if code == FAILED:  # what was stopped goes on another time, and a mistake is no result
        said = lines.read_text(errors="replace").split("\n")
        write_atomically(failed, next((line for line in reversed(said) if line.strip()), f"exit code {code}"))
    return code


def beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}{suffix}")


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


def records(name: str, directory: Path) -> list[Record]:
    """A preset's finished runs in `directory`, and those that ended in an error."""
    found = []
    for folder in sorted(
        path for path in (directory / name).glob("*-*") if re.match(r"\d+-\d+(-.*)?$", path.name) and path.is_dir()
    ):
        steps, seed, *said = folder.name.split("-", 2)
        key = {"preset": name, "steps": int(steps), "seed": int(seed), "settings": unquote("".join(said)).splitlines()}
        if (folder / "results.json").exists():
            try:
                found.append(key | the_rows_part(json.loads((folder / "results.json").read_text())))
            except (ValueError, KeyError, TypeError) as error:
                print(f"{folder}/results.json: left out, it cannot be read ({error!r})", file=sys.stderr)
        elif beside(folder, ".failed").exists():
            rows = read_rows(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
            done = rows[-1]["step"] if rows else 0
            found.append(key | {"failed": beside(folder, ".failed").read_text(), "done": done})
    return found


def the_rows_part(found: dict[str, Any]) -> Record:
    """Of a results.json, what the page's rows say."""
    split, how = found["protocol"]["split"], found["protocol"]
    task = {key: value for key, value in how["task"].items() if key != "data_dir"}  # a path of one machine
    return {
        split: found[split],
        f"{split}_by_inner_steps": found[f"{split}_by_inner_steps"],
        "protocol": {key: how[key] for key in ("split", "episodes", "learner", "transductive")} | {"task": task},
        "state": found["state"]["state"],
        "minutes": found["speed"]["minutes"],
        "machine": {key: found["machine"][key] for key in ("devices", "device")},
        "commit": found["commit"],
        "date": found["date"][:10],
    }


def known(directory: Path) -> dict[str, Any]:
    """What is known of runs and times: that of before, and over it what is in `directory`."""
    memory = PAGE.with_name(MEMORY)
    before = json.loads(memory.read_text()) if memory.exists() else {"runs": [], "times": {}}
    runs: dict[tuple[str, ...], Record] = {}
    for record in [*before["runs"], *(record for name in presets() for record in records(name, directory))]:
        key = tuple(str(record[part]) for part in ("preset", "steps", "seed", "settings"))
        if key not in runs or "failed" in runs[key] or "failed" not in record:  # what is finished stays
            runs[key] = record
    times = before["times"] | {name: found for name in presets() if (found := time_of(name, directory))}
    return {"runs": [runs[key] for key in sorted(runs)], "times": times}


def time_of(name: str, directory: Path) -> dict[str, Any] | None:
    """What a preset's bench.json says; None if there is none that can be read."""
    try:
        found = json.loads((directory / name / "bench.json").read_text())
        return {key: found[key] for key in ("meta_steps_per_s", "devices", "device")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        print(f"{directory / name}/bench.json: left out, it cannot be read ({error!r})", file=sys.stderr)
        return None


def keep(what: dict[str, Any]) -> None:
    """Writes what is known; a run to a line, so that a commit shows which are new."""
    lines = ",\n".join(json.dumps(record, sort_keys=True) for record in what["runs"])
    text = f'{{"times": {json.dumps(what["times"], sort_keys=True)},\n"runs": [\n{lines}\n]}}\n'
    write_atomically(PAGE.with_name(MEMORY), text)


def finished(runs: list[Record]) -> list[Record]:
    return [record for record in runs if "failed" not in record]


def longest(runs: list[Record]) -> list[Record]:
    """Of finished runs of a preset those with the most meta-steps and the fewest settings of their own: its seeds."""
    if not runs:
        return []
    best = max(runs, key=lambda record: (record["steps"], -len(record["settings"])))
    return [record for record in runs if all(record[key] == best[key] for key in ("steps", "settings"))]


def protocol(found: Record, metric: str) -> str:
    """How the figure was taken, in a few words."""
    how = found["protocol"]
    task, learner = how["task"], how["learner"]
    steps = metric.partition("_after_")[2] or learner.get("inner_steps")
    words = [f"{how['episodes']:,} tasks"]
    words += [f"{task[key]} {key}" for key in ("ways", "shots", "queries") if key in task]
    words += [f"{steps} inner steps"] if steps else []
    words += [f"split {task['split']}"] if "split" in task else []
    words += ["transductive"] if how["transductive"] else []
    return ", ".join([*words, f"{found['state']} state"]) + (" (each query alone)" if "inductive" in metric else "")


def command(record: Record, asked: int) -> str:
    """What was typed, the seed left out."""
    steps = [] if record["steps"] == asked else [f"train.steps={record['steps']}"]
    words = ["metarun", f"experiment={record['preset']}", *steps, *record["settings"]]
    return f"`{' '.join(words)}`".replace("|", "\\|")


def share(done: int, asked: int) -> str:
    return f"{done:,} of {asked:,}" + ("" if done == asked else f" ({100 * done / asked:.3g} %)")


def rows(values: dict[str, Any], runs: list[Record]) -> list[str]:
    """A preset's rows: one for each of the paper's figures, over the seeds of `runs`."""
    asked, first = values["train"]["steps"], runs[0]
    made = [
        f"{run['machine']['devices']} {run['machine']['device']}, {commit_in_words(run['commit'])}, {run['date']}"
        for run in runs
    ]
    lines = []
    for metric in values["paper"]["figures"]:
        figures = [figure for run in runs if (figure := figure_of(run, metric)) is not None]
        cells = (
            command(first, asked),
            papers(values, metric) + in_words(metric),
            f"**{show(metric, over_seeds(figures))}**" if figures else "not measured",
            spread(metric, figures),
            protocol(first, metric),
            share(first["steps"], asked),
            f"{np.mean([run['minutes'] for run in runs]):.1f}",
            "; ".join(dict.fromkeys(made)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def over_seeds(figures: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean over seeds of the mean and of the interval over tasks; None where a seed's is not a number."""
    every = {key: [figure.get(key) for figure in figures] for key in ("mean", "ci95")}
    return {key: None if None in values else float(np.mean(np.array(values, float))) for key, values in every.items()}


def spread(metric: str, figures: list[dict[str, Any]]) -> str:
    """The standard deviation of the figure over seeds."""
    means = [figure["mean"] for figure in figures if figure["mean"] is not None]
    if len(means) < 2:
        return f"{len(means)} seed"
    return f"{unit(metric)[0] * np.std(means, ddof=1):.2g} over {len(means)}"


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


def page(what: dict[str, Any]) -> str:
    """The tables of what is known."""
    every = presets()
    of_preset = {name: [record for record in what["runs"] if record["preset"] == name] for name in every}
    lines = table(
        "command", "paper", "ours, 95 % interval over tasks", "std over seeds", "protocol", "meta-steps", "minutes",
        "device, commit, date",
    )  # fmt: skip
    for name, values in every.items():
        found = longest(finished(of_preset[name]))
        lines += rows(values, found) if found else []
    failed = [record for runs in of_preset.values() for record in runs if "failed" in record]
    if failed:
        lines += ["", "Ended in an error:", "", *table("command", "seed", "meta-steps", "what it said")]
    for record in failed:
        asked, said = every[record["preset"]]["train"]["steps"], markdown_text(record["failed"])
        lines.append(f"| {command(record, asked)} | {record['seed']} | {share(record['done'], asked)} | {said} |")
    lines += ["", "Not run yet:", "", *table("command", "paper", "meta-steps", "in full, validation and test left out")]
    for name, values in every.items():
        if not finished(of_preset[name]):
            figures = "; ".join(papers(values, metric) + in_words(metric) for metric in values["paper"]["figures"])
            asked = values["train"]["steps"]
            lines.append(
                f"| `metarun experiment={name}` | {figures} | {asked:,} | {in_full(asked, what['times'].get(name))} |"
            )
    return "\n".join([*lines, "", "Where the papers' figures stand:", "", *sources(every)])


def in_full(steps: int, found: dict[str, Any] | None) -> str:
    """How long all meta-steps of a preset would take."""
    if found is None:
        return "not measured"
    hours = steps / found["meta_steps_per_s"] / 3600
    long = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return f"{long} at {found['meta_steps_per_s']:.2g} meta-steps/s, {found['devices']} {found['device'].split()[0]}"


def table(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def write(directory: Path) -> None:
    what = known(directory)
    keep(what)
    before, rest = PAGE.read_text().split(BEGIN)
    write_atomically(PAGE, f"{before}{BEGIN}\n{page(what)}\n{END}{rest.split(END)[1]}")


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
    parser.add_argument("presets", nargs="*", help="all by default")
    parser.add_argument("--budget", type=budget, default=1.0, help="the share of the preset's meta-steps to run")
    parser.add_argument("--seeds", type=seeds, default=[0], help="e.g. 0,1,2")
    parser.add_argument("--jobs", type=jobs, default=1, help="runs side by side")
    parser.add_argument("--dir", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for each run; may be repeated")
    arguments = parser.parse_args()
    every = presets()
    for name in arguments.presets:
        if name not in every:
            parser.error(f"{name}: no such preset; allowed: {', '.join(every)}")
    chosen, codes = arguments.presets or list(every), [0]
    try:
        if arguments.time:
            ran = {record["preset"] for record in finished(known(arguments.dir)["runs"])}
            codes += [timed(name, arguments.dir) for name in chosen if name not in ran]
        elif not arguments.table_only:
            codes += run_all(every, chosen, arguments)
    except KeyboardInterrupt:
        codes.append(130)
    finally:
        write(arguments.dir)
    return max(codes)


def run_all(every: dict[str, dict[str, Any]], chosen: list[str], arguments: argparse.Namespace) -> list[int]:
    """The runs' exit codes. Ctrl-C stops those that run, and starts no others."""
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            steps = {name: max(1, round(arguments.budget * every[name]["train"]["steps"])) for name in chosen}
            runs = [
                pool.submit(run, name, steps[name], seed, arguments.dir, arguments.set)
                for name in chosen
                for seed in arguments.seeds
            ]
            return [abs(one.result()) for one in runs]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
