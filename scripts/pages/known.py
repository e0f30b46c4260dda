"""What is known of experiments' runs: docs/results.json, and over it what is in a directory of runs."""

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml

from metarun.config import choices, conf_dir
from metarun.files import write_atomically
from metarun.run.record import read_rows

MEMORY = Path(__file__).parents[2] / "docs" / "results.json"
Record = dict[str, Any]  # of one run: what its rows are made from
PROTOCOL = ("split", "episodes", "learner", "transductive", "metric")  # older runs do not name the metric


@cache
def experiments() -> dict[str, dict[str, Any]]:
    """Every experiment by name, with what its yaml file says."""
    folder = conf_dir() / "experiment"
    return {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in choices("experiment")}


def presets() -> dict[str, dict[str, Any]]:
    """The experiments that reproduce a paper's figure."""
    return {name: values for name, values in experiments().items() if values.get("paper")}


def folder_of(directory: Path, name: str, steps: int, seed: int, settings: list[str]) -> Path:
    """The directory of a run, named by what is not the preset's own: steps, seed, settings."""
    own = [quote("\n".join(settings), safe="")] if settings else []
    return directory / name / "-".join([str(steps), str(seed), *own])


def beside(folder: Path, suffix: str) -> Path:
    """A file about a run, beside its directory."""
    return folder.with_name(f"{folder.name}{suffix}")


def records(name: str, directory: Path) -> list[Record]:
    """An experiment's finished runs in `directory`, and those that ended in an error."""
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
    groups = found.get(f"{split}_groups")
    of_groups = {key: value for key, value in groups.items() if key != "each"} if groups else None
    tails = {f"{split}_tail": found.get(f"{split}_tail"), f"{split}_groups": of_groups} if groups else {}
    return {
        split: found[split],
        **tails,
        f"{split}_by_inner_steps": found[f"{split}_by_inner_steps"],
        "protocol": {key: how[key] for key in PROTOCOL if key in how} | {"task": task},
        "state": found["state"]["state"],
        "minutes": found["speed"]["minutes"],
        **({"members": found["speed"]["members"]} if found["speed"].get("members", 1) > 1 else {}),
        "machine": {key: found["machine"][key] for key in ("devices", "device")},
        "commit": found["commit"],
        "date": found["date"][:10],
        **({"stretches": stretches} if len(stretches := found["training"].get("stretches", [])) > 1 else {}),
    }


def whole(record: Record) -> bool:
    """Whether a record tells enough to make its run again and to hold the figures against it.

    It has its figures with all their digits, every setting of the task and of the learner, the whole id of an unchanged
    commit for every stretch of it, the device and the date. The first records do not: of their runs a page's rounded
    figures are left.
    """
    if "failed" in record:
        return False
    how, commits = record["protocol"], [record["commit"], *(part["commit"] for part in record.get("stretches", []))]
    settings = all("_target_" in how[part] for part in ("task", "learner"))
    means = [figure["mean"] for figure in record[how["split"]].values() if figure["mean"] is not None]
    digits = any(mean != round(mean, 4) for mean in means)
    unchanged = all(commit and len(commit["id"]) == 40 and not commit["changed"] for commit in commits)
    return settings and digits and unchanged and bool(record["machine"]["device"]) and bool(record["date"])


def known(directory: Path) -> dict[str, Any]:
    """What is known of runs and times: that of before, and over it what is in `directory`."""
    before = json.loads(MEMORY.read_text()) if MEMORY.exists() else {"runs": [], "times": {}}
    runs: dict[tuple[str, ...], Record] = {}
    for record in [*before["runs"], *(record for name in experiments() for record in records(name, directory))]:
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
    write_atomically(MEMORY, text)


def longest(what: dict[str, Any], name: str) -> list[Record]:
    """An experiment's finished runs with the most meta-steps and the fewest settings of their own: its seeds."""
    runs = [record for record in what["runs"] if record["preset"] == name and "failed" not in record]
    if not runs:
        return []
    best = max(runs, key=lambda record: (record["steps"], -len(record["settings"])))
    return [record for record in runs if all(record[key] == best[key] for key in ("steps", "settings"))]
