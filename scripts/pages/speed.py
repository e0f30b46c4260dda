"""docs/benchmarks.md, made from docs/benchmarks.json: how times taken in turn compare, and how they changed."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pages.history import CLEARLY, OURS, Entry, beside_torch, by_commit, in_words, newest, ours

from metarun import machine
from metarun.run.figures import commit_in_words
from metarun.run.rounds import AGREE, middle_half, ratios

Row = dict[str, Any]


def compare(rounds: Mapping[str, Sequence[float]]) -> dict[str, Row]:
    """Name -> seconds in each round, metarun's among them, into medians, ratios of medians and their middle halves.

    The ratio is that of the two medians as they are printed: what a reader of the table gets who divides.
    """
    ms = {name: significant(1000 * statistics.median(seconds)) for name, seconds in rounds.items()}
    by_round = ratios(rounds, OURS) | {OURS: [1.0] * len(rounds[OURS])}
    return {
        name: {
            "ms": ms[name],
            "ms_half": [significant(1000 * value) for value in middle_half(seconds)],
            "times": ms[name] / ms[OURS],
            "times_half": [significant(value) for value in middle_half(by_round[name])],
        }
        for name, seconds in rounds.items()
    }


def significant(value: float) -> float:
    """Rounded to three digits, as it is printed."""
    return float(f"{value:.3g}")


def page(runs: list[Entry]) -> str:
    """The whole page. Each setting's table is from the last run that has it, in the order in which they came."""
    last, keys = runs[-1], list(dict.fromkeys(key for run in runs for key in run["tables"]))
    on_gpu = "gpu" in last["machine"]
    command = "python scripts/bench_torch.py --hardware gpu" if on_gpu else "make bench"
    lines = [
        f"# Speed beside PyTorch{', on a GPU' if on_gpu else ''}",
        "",
        f"`{command}` was run last on {last['date']}, from commit {commit_in_words(last['commit'])}, on "
        f"{in_words(last['machine'])}, float32, "
        f"{', '.join(f'{name} {version}' for name, version in last['versions'].items())}.",
        "",
        *ABOUT,
        *(["", last["note"]] if "note" in last else []),
    ]
    for key in keys:
        run = newest(runs, key)
        lines += ["", *of_setting(run["tables"][key], made(run, last))]
    for run in [run for run in runs if "growth" in run][-1:]:
        lines += ["", "## How it grows", "", *of_growth(run["growth"], made(run, last))]
    lines += [
        "", "## By commit", "",
        "The newest first. In brackets is the change against the run before on the same machine, in bold where it is a",
        f"loss of more than {CLEARLY:.0%} and beyond the middle halves of both. A machine is not always as fast as it",
        "was: a loss that both tables show is metarun's own, or of the versions. On a CPU jax 0.10.2 compiles faster",
        "code, and is left out for silently wrong numbers; what was done about it: [speed.md](speed.md#ideas).",
        "", "metarun's milliseconds a meta-step, less is better:", "", *by_commit(runs, keys, ours, False),
        "", "How many times as long the fastest row of PyTorch takes, more is better:", "",
        *by_commit(runs, keys, beside_torch, True),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


ABOUT = [
    "The network is `conv4` with 64 filters and the statistics of the batch, images are Omniglot's, 28 x 28; where",
    "nothing else is said tasks are 5-way 1-shot with one query a class. Before it is timed, every row of PyTorch is",
    "checked to give metarun's loss and meta-gradient, on two tasks and in float64, to five digits. metarun's time",
    "includes drawing the episodes and the outer update. PyTorch has its episodes ready; its time includes the outer",
    "update, but for MAML and FOMAML, where it is the meta-gradient alone. PyTorch is eager, as it is commonly",
    "used, with as many threads as there are cores.",
    "",
    "Rows are taken in turn, in rounds of at least 0.3 seconds each, until the rounds agree: until the median of each",
    f"row's ratio to metarun's time is known within {AGREE:.0%} (its 95 % interval by order statistics). Figures are",
    "medians over the rounds, ratios those of two medians; the middle half is from the first to the third quartile,",
    "that of a ratio over the ratios of the rounds.",
]


def made(run: Entry, last: Entry) -> str:
    """Of what is not the last run's: when it was measured, and what there is to say of how."""
    if run is last:
        return ""
    return f"Measured on {run['date']}, from commit {commit_in_words(run['commit'])}. {run.get('note', '')}".strip()


def of_setting(table: Entry, when: str) -> list[str]:
    """A setting's heading, its rows and what else there is to say of them."""
    lines = [
        f"## {table['title']}", "",
        "| | ms | middle half | times metarun's | middle half |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in table["rows"].items():
        cells = [f"{row['ms']:g}", half(row["ms_half"]), f"{row['times']:.2f}", half(row["times_half"])]
        lines.append(f"| {name} | {' | '.join(cells if name != OURS else [*cells[:3], ''])} |")
    return [*lines, "", " ".join(filter(None, [when, work(table), how_made(table)]))]


def half(ends: list[float] | None) -> str:
    return "not kept" if ends is None else f"{ends[0]:g} to {ends[1]:g}"


def work(table: Entry) -> str:
    """metarun's matrix products, and the share of the speed of a large one that it reaches with them."""
    per_second, peak = 1000 / table["rows"][OURS]["ms"], table["product_gflop_per_s"]
    chunk = table["task_chunk"]
    at_once = "" if chunk is None else f"{chunk} task{'s' if chunk > 1 else ''} at once on a device; "
    done = f"{table['gflop']:.1f} GFLOP a meta-step are done, {table['gflop'] * per_second / peak:.0%}"
    of = f"of the {peak:.0f} GFLOP/s of a large matrix product"
    if (target := table["target_gflop"]) is not None:
        share = f"{target * per_second / peak:.0%}"
        of += f"; on the {target:.1f} GFLOP of the target, where XLA merges no two products, it is {share}"
    return f"metarun: {at_once}{done} {of}."


def how_made(table: Entry) -> str:
    """How many rounds, whether they agree, and what others took of the machine meanwhile."""
    agree = {None: "", True: ", which agree", False: f", which do not agree within {AGREE:.0%}"}[table["agree"]]
    others = machine.in_words(table["others"])
    busy = f"**the machine was busy, {others}**" if machine.is_busy(table["others"]) else others
    return f"{table['rounds']} rounds{agree}; {busy}."


def of_growth(found: Entry, when: str) -> list[str]:
    """How time and memory grow, in words beside the picture."""
    a_task, memory, soak = found["ms_a_task"], found["memory_mb"], found["soak"]
    return [
        "![time and memory by tasks, inner steps, image side and devices](benchmarks.svg)",
        "",
        f"{when} Milliseconds a task, with {', '.join(a_task)} tasks a meta-step: "
        f"{', '.join(f'{ms:.2f}' for ms in a_task.values())}.".strip(),
        "Inner steps are in a loop here (`inner.unroll=1`), 8 tasks; images 8 tasks; devices 32 tasks; one task at",
        "once on each device throughout.",
        "",
        f"Temporary buffers at 5 inner steps and 16 tasks: {memory['default']:.0f} MB as by default, "
        f"{memory['reverse']:.0f} MB reverse over reverse without chunks, "
        f"{memory['times']:.1f} times as much.",
        "",
        f"100,000 meta-steps on sine waves: {soak['slowest']:.0f} to {soak['fastest']:.0f} meta-steps/s over its "
        f"tenths, first {soak['first']:.0f}, last {soak['last']:.0f}; the process's peak memory grew by "
        f"{soak['grew_mb']:.1f} MB.",
        "",
        "By more devices, processes, seeds and jobs, and an estimate for 256 devices: [scale.md](scale.md).",
        "With tasks that are screened first: [selection.md](selection.md#what-it-costs).",
        "What many seeds in one program gain: [sweeps.md](sweeps.md#many-seeds-in-one-program).",
    ]
