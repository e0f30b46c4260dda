"""The tables of what is known of experiments' runs: papers' rows in docs/results.md, some experiments in README.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pages import overview
from pages.known import Record, experiments, longest, presets, whole
from pages.marks import write_between
from pages.tables import over_seeds, table

from metarun.report import markdown_text
from metarun.run.figures import commit_in_words, figure_of, main_metric, papers, show, source, unit

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
README = Path(__file__).parents[2] / "README.md"
# Which of its figures README has, where a paper has many.
FEW = {name: ("accuracy_instance_02", "accuracy_instance_10") for name in ("mann_omniglot_5w", "lstm_omniglot_5w")}


def write(what: dict[str, Any]) -> None:
    """Puts the tables between the markers of both pages, and draws the picture beside the first."""
    write_between(PAGE, "overview", overview.page(what))
    overview.draw(what, PAGE.with_suffix(".svg"))
    write_between(PAGE, "presets", page(what))
    write_between(README, "rows", in_readme(what))


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


class Row(NamedTuple):
    command: str
    paper: str
    ours: str
    inductive: str
    spread: str
    protocol: str
    steps: str
    minutes: str
    record: str
    made: str


HEADS = Row(
    "command", "paper", "ours, 95 % interval over tasks", "ours, inductive", "std over seeds", "protocol", "meta-steps",
    "minutes", "record", "device, commit, date",
)  # fmt: skip


def rows(values: dict[str, Any], runs: list[Record], metrics: Sequence[str] = ()) -> list[Row]:
    """An experiment's rows, over the seeds of `runs`: one for each of `metrics`.

    By default these are the paper's figures, or what sums the test up where there is no paper.
    """
    asked, first = values["train"]["steps"], runs[0]
    made = [f"{machines(run)}, {commits(run)}, {run['date']}" for run in runs]
    lines = []
    for metric in metrics or (values["paper"]["figures"] if values.get("paper") else [main_metric(first)]):
        figures = [figure for run in runs if (figure := figure_of(run, metric)) is not None]
        lines.append(
            Row(
                command=command(first, asked),
                paper=papers(values, metric) + in_words(metric) if values.get("paper") else "",
                ours=f"**{show(metric, over_seeds(figures))}**" if figures else "not measured",
                inductive=alone(metric, runs),
                spread=spread(metric, figures),
                protocol=protocol(first, metric),
                steps=share(first["steps"], asked),
                minutes=minutes(runs),
                record="whole" if all(whole(run) for run in runs) else "part",
                made="; ".join(dict.fromkeys(made)),
            )
        )
    return lines


def minutes(runs: list[Record]) -> str:
    """Of a run, in the mean; of those that were made in one program each has all of its time."""
    together = max(run.get("members", 1) for run in runs)
    return f"{np.mean([run['minutes'] for run in runs]):.1f}" + (f" for {together} together" if together > 1 else "")


def machines(run: Record) -> str:
    """`2 cpu`; of a run that went on elsewhere `1 NVIDIA H100 to meta-step 50,600, then 2 cpu`."""
    begun: list[tuple[str, int]] = []
    for each in run.get("stretches") or [run["machine"] | {"first": 0}]:
        here = f"{each['devices']} {each['device']}"
        if not begun or begun[-1][0] != here:
            begun.append((here, each["first"]))
    ends = [f" to meta-step {first:,}" for _, first in begun[1:]] + [""]
    return ", then ".join(f"{machine}{end}" for (machine, _), end in zip(begun, ends, strict=True))


def commits(run: Record) -> str:
    """`4dc3688f`; of a run that went on with other code `4dc3688f, then ce1c1456`."""
    every = run.get("stretches") or [run]
    return ", then ".join(dict.fromkeys(commit_in_words(each["commit"]) for each in every))


def alone(metric: str, runs: list[Record]) -> str:
    """The figure of predictions made for each query alone with the support set, where a model tells the two apart."""
    if not any(run["protocol"]["transductive"] for run in runs):
        return "the same"
    base, after, steps = metric.partition("_after_")
    name = metric if "inductive" in metric else f"{base}_inductive{after}{steps}"
    figures = [figure_of(run, name) for run in runs]
    found = [figure for figure in figures if figure is not None]
    return show(name, over_seeds(found)) if len(found) == len(runs) else "not kept"


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
        lines.setdefault(source(values["paper"]), []).append(f"`{name}`")
    return [f"- {where}: {', '.join(names)}" for where, names in lines.items()]


def page(what: dict[str, Any]) -> str:
    """The tables of what is known of the papers' figures."""
    every = presets()
    ran = {name: longest(what, name) for name in every}
    lines = table(HEADS, *(row for name, runs in ran.items() if runs for row in rows(every[name], runs)))
    finished = [record for record in what["runs"] if "failed" not in record]
    if departures := departed(what):
        lines += ["", "With a setting that is not the preset's, which shows what it is good for:", "", *departures]
    lines += ["", f"{sum(map(whole, finished))} of the {len(finished)} runs in results.json are whole records."]
    failed = [record for record in what["runs"] if "failed" in record and record["preset"] in every]
    if failed:
        broken = []
        for record in failed:
            asked, said = every[record["preset"]]["train"]["steps"], markdown_text(record["failed"])
            broken.append((command(record, asked), str(record["seed"]), share(record["done"], asked), said))
        lines += ["", "Ended in an error:", "", *table(("command", "seed", "meta-steps", "what it said"), *broken)]
    waiting = []
    for name, values in every.items():
        if not ran[name]:
            figures = "; ".join(papers(values, metric) + in_words(metric) for metric in values["paper"]["figures"])
            asked = values["train"]["steps"]
            took = in_full(asked, what["times"].get(name))
            waiting.append((f"`metarun experiment={name}`", figures, f"{asked:,}", took))
    heads = ("command", "paper", "meta-steps", "in full, validation and test left out")
    lines += ["", "Not run yet:", "", *table(heads, *waiting)]
    return "\n".join([*lines, "", "Where the papers' figures stand:", "", *sources(every)])


def departed(what: dict[str, Any]) -> list[str]:
    """The table of runs that had settings of their own beside their preset's and are in no other row."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in what["runs"]:
        name, settings = record["preset"], record["settings"]
        if name in presets() and settings and "failed" not in record and record not in longest(what, name):
            found.setdefault((name, str(record["steps"]), *settings), []).append(record)
    lines = [row for runs in found.values() for row in rows(presets()[runs[0]["preset"]], runs)]
    return table(HEADS, *lines) if lines else []


def in_readme(what: dict[str, Any]) -> str:
    """README's table: a row for each experiment that ran in full, whatever it reached; docs/results.md has all else."""
    lines = []
    for name in ("demo", *presets()):
        runs, values = longest(what, name), experiments()[name]
        if not runs or runs[0]["steps"] < values["train"]["steps"]:
            continue
        published = values["paper"]["figures"] if values.get("paper") else ()
        every = FEW.get(name) or published or (main_metric(runs[0]),)
        said = [in_words(metric).strip(" ()") or "accuracy" for metric in every]
        theirs = [papers(values, metric) for metric in every] if published else []
        ours = rows(values, runs, every)
        columns = (said, theirs, [row.ours for row in ours])
        words = " ".join([f"experiment={name}", *runs[0]["settings"]])
        lines.append((f"`{words}`", *map(" / ".join, columns), str(len(runs)), ours[0].minutes))
    heads = ("metarun", "figure", "paper", "ours, 95 % interval over tasks", "seeds", "minutes")
    return "\n".join(table(heads, *lines))


def in_full(steps: int, found: dict[str, Any] | None) -> str:
    """How long all meta-steps of a preset would take."""
    if found is None:
        return "not measured"
    hours = steps / found["meta_steps_per_s"] / 3600
    long = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return f"{long} at {found['meta_steps_per_s']:.2g} meta-steps/s, {found['devices']} {found['device'].split()[0]}"
