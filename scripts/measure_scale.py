"""How a run grows over devices, processes and seeds, and a sweep over jobs, into docs/scale.md: `make scale`.

`python scripts/measure_scale.py PART...` measures some parts only: devices, processes, seeds, jobs, collective; the
others are as they were measured last. About 15 minutes on two cores that do nothing else.
"""

import argparse
import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from measure_sweeps import TINY, made
from pages import collective
from pages.collective import Link
from pages.marks import write_between
from pages.parts import ask_for_parts
from pages.tables import table
from soak import METARUN

from metarun import machine
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "runs" / "scale"
PAGE, PICTURE = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale.svg"
RUNS = {
    "sine waves, two layers of 40": ["task=sinusoid", "learner=maml"],
    "`strokes`, Conv4": ["task=strokes", "learner=maml"],
}
SIZES = (2**10, 2**14, 2**18, 2**20, 2**22, 2**24)  # bytes of an all-reduce
GPU_MS, PARAMETERS = 1.51, 112_000  # of MAML's meta-step of 32 tasks with Conv4 on an H100: docs/benchmarks-gpu.md
NETWORKS = {  # what such links are sold as; not measured here
    "100 Gbit/s network, 20 µs": Link(20e-6, 12.5e9),
    "links between GPUs, 5 µs, 200 GB/s": Link(5e-6, 200e9),
}


def on_devices() -> dict[str, list[tuple[int, float]]]:
    """Milliseconds a meta-step of one process with 1 to 8 devices of this machine."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, words in RUNS.items():
        found[name] = []
        for devices in (1, 2, 4, 8):
            command = [*METARUN, "bench", *words, f"hardware.devices={devices}", "hardware.platform=cpu", "logger=none"]
            many = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=many)
            told = json.loads(done.stdout.strip().splitlines()[-1])
            found[name].append((devices, 1000 / told["meta_steps_per_s"]))
    return found


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def by_processes() -> dict[str, list[tuple[int, float]]]:
    """Milliseconds a meta-step of runs of 1 to 4 processes on this machine, with one device each."""
    steps = {"sine waves, two layers of 40": 1000, "`strokes`, Conv4": 20}
    found: dict[str, list[tuple[int, float]]] = {}
    for name, words in RUNS.items():
        found[name] = []
        for many in (1, 2, 4):
            with tempfile.TemporaryDirectory() as folder:
                common = [*METARUN, *words, f"train.steps={steps[name]}", f"train.eval_every={steps[name]}",
                          "eval.episodes=8", "eval.val_episodes=8", "eval.inner_steps=[]", "hardware.platform=cpu",
                          "hardware.devices=1", "hardware.task_chunk=1", "logger=none", f"run.dir={folder}/run",
                          f"hardware.coordinator={free_address()}", f"hardware.processes={many}"]  # fmt: skip
                at_work = [
                    subprocess.Popen([*common, f"hardware.process={i}"], stdout=subprocess.DEVNULL) for i in range(many)
                ]
                assert not any([process.wait() for process in at_work])
                told = json.loads(Path(folder, "run", "results.json").read_text())
            found[name].append((many, 1000 / told["speed"]["meta_steps_per_s"]))
    return found


def by_seeds() -> dict[str, list[tuple[int, float]]]:
    """Milliseconds a meta-step of 1 to 16 runs in one program."""
    from metarun.command.from_python import run_of
    from metarun.run.bench_together import way

    settings = {**RUNS, "sine waves, 4 tasks": ["task=sinusoid", "learner=maml", "train.meta_batch=4"]}
    del settings["`strokes`, Conv4"]
    found = {}
    for name, words in settings.items():
        run = run_of([*words, "logger=none"])
        ways = {n: way(run, n) for n in (1, 2, 4, 8, 16)}
        taken: dict[int, list[float]] = {n: [] for n in ways}
        for _ in range(7):
            for n, these in ways.items():
                taken[n].append(these.timed(200).clock)
        found[name] = [(n, 1000 * statistics.median(each)) for n, each in taken.items()]
    return found


def by_jobs() -> dict[str, list[tuple[int, float]]]:
    """Milliseconds a job of sweeps of 1 to 64 of them; and bytes of the sweep's own record of each."""
    found: dict[str, list[tuple[int, float]]] = {"one after another": [], "bytes of the record": []}
    for jobs in (1, 4, 16, 64):
        with tempfile.TemporaryDirectory() as folder:
            words = [*TINY, "train.steps=2", "train.log_every=1", "train.eval_every=2", "train.save_every=2"]
            taken = made([*words, f"train.seed=range({jobs})", f"run.dir={folder}/sweep"])
            record = sum(file.stat().st_size for file in Path(folder, "sweep").glob("*.json*"))
        found["one after another"].append((jobs, 1000 * taken / jobs))
        found["bytes of the record"].append((jobs, record / jobs))
    return found


def collectives() -> dict[str, Any]:
    """Seconds of an all-reduce between two processes of this machine, and between two devices of one."""
    found: dict[str, Any] = {}
    for name, processes in (("two devices of a process", 1), ("two processes", 2)):
        address = free_address()
        command = [sys.executable, __file__, "--all-reduce", address, str(processes)]
        others = [subprocess.Popen([*command, str(i)], stdout=subprocess.DEVNULL) for i in range(1, processes)]
        done = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
        assert not any([other.wait() for other in others])
        times = np.array(json.loads(done.stdout.strip().splitlines()[-1]))
        link = collective.fitted(np.array(SIZES, float), times, 2)
        found[name] = {"seconds": times.tolist(), "latency": link.latency, "bandwidth": link.bandwidth}
    return found


def all_reduce(address: str, processes: int, process: int) -> None:
    """In a process of its own: prints the median seconds of an all-reduce over two devices, for each size."""
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        jax.distributed.initialize(address, processes, process)
    mesh = Mesh(np.array(jax.devices()), ("tasks",))

    def twenty(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 20, lambda _, x: 0.5 * jax.lax.psum(x, "tasks"), x)

    reduced = jax.jit(jax.shard_map(twenty, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False))
    taken = []
    for size in SIZES:
        place, ones = NamedSharding(mesh, P()), np.ones(size // 4, np.float32)
        x = jax.make_array_from_callback(ones.shape, place, ones.__getitem__)
        times = []
        for _ in range(8):
            began = time.perf_counter()
            jax.block_until_ready(reduced(x))
            times.append((time.perf_counter() - began) / 20)
        taken.append(statistics.median(times[1:]))
    print(json.dumps(taken), flush=True)


PARTS = {"devices": on_devices, "processes": by_processes, "seeds": by_seeds, "jobs": by_jobs,
         "collective": collectives}  # fmt: skip


def series(found: dict[str, list[tuple[int, float]]], what: str, unit: str) -> list[str]:
    """A table: what is varied, and each series with how it stands to its first."""
    heads = [what, *(head for name in found for head in (f"{name}, {unit}", "times the first"))]
    firsts = {name: values[0][1] for name, values in found.items()}
    rows = []
    for place, (number, _) in enumerate(next(iter(found.values()))):
        cells = [(f"{found[name][place][1]:.3g}", f"{found[name][place][1] / firsts[name]:.2f}") for name in found]
        rows.append((str(number), *(cell for pair in cells for cell in pair)))
    return table(heads, *rows)


def on_paper(found: dict[str, Any]) -> list[str]:
    """What a run on 256 devices needs, from measured constants and those of networks as they are sold."""
    size, tasks = 4 * (PARAMETERS + 2), 32
    here = found["collective"]["value"]
    links = {name: Link(told["latency"], told["bandwidth"]) for name, told in here.items()}
    heads = ("link", "devices", "bytes each sends", "all-reduce, ms", "32 tasks on each: ms a meta-step",
             "share not computing", "256 tasks in all: ms a meta-step", "fastest on")  # fmt: skip
    rows = []
    for name, link in {**links, **NETWORKS}.items():
        for devices in (2, 16, 256):
            taken = collective.seconds(size, devices, link)
            whole, share = collective.simulated(GPU_MS / 1000, 0.05, size, devices, link)
            task = GPU_MS / 1000 / tasks
            strong = task * 256 / devices + taken
            best = collective.most_devices(256, task, size, link)
            rows.append((name if devices == 2 else "", str(devices), f"{collective.moved(size, devices) / 1e6:.2f} MB",
                         f"{1000 * taken:.3g}", f"{1000 * whole:.3g}", f"{100 * share:.0f} %", f"{1000 * strong:.3g}",
                         f"{best} devices"))  # fmt: skip
    return table(heads, *rows)


def a_thousand_jobs(found: dict[str, Any]) -> str:
    """What a sweep of 1,000 jobs needs beside the jobs' own work."""
    each, record = (dict(found["jobs"]["value"][name])[64] for name in ("one after another", "bytes of the record"))
    return (
        f"1,000 jobs that are as tiny as those measured here (two meta-steps) take {each:.0f} s one after another in "
        "one process: a job's share of a sweep does not grow with their number. The record of the sweep has "
        f"{record:,.0f} bytes a job, {record / 1000:,.2f} MB in all, and is read whole in about a second "
        "([sweeps.md](sweeps.md))."
    )


def draw(found: dict[str, Any]) -> None:
    """The picture of what was measured."""
    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "metarun"}
    )
    panels = (
        ("devices", "devices of a process", "ms a meta-step"),
        ("processes", "processes", "ms a meta-step"),
        ("seeds", "seeds in one program", "ms a meta-step of all"),
        ("jobs", "jobs of a sweep", "ms a job"),
    )
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.8), layout="constrained")
    for ax, (part, label, unit) in zip(axes, panels, strict=True):
        for name, values in found[part]["value"].items():
            if not name.startswith("bytes"):
                numbers, times = zip(*values, strict=True)
                ax.plot(numbers, np.array(times) / times[0], marker="o", markersize=3.5, label=name.replace("`", ""))
        ax.set(xlabel=label, ylabel=f"{unit}, times the first", ylim=(0, None), xscale="log")
        ax.set_xticks(numbers, [str(n) for n in numbers])
        ax.minorticks_off()
        if len(found[part]["value"]) > 1 and part != "jobs":
            ax.legend(frameon=False, fontsize=7)
    figure.savefig(PICTURE, metadata={"Date": None})


def page(found: dict[str, Any]) -> None:
    """Writes what was measured into docs/scale.md."""
    units = {"devices": ("devices", "ms"), "processes": ("processes", "ms"), "seeds": ("seeds", "ms of all"),
             "jobs": ("jobs", "ms a job")}  # fmt: skip
    for part, (what, unit) in units.items():
        value = {name: values for name, values in found[part]["value"].items() if not name.startswith("bytes")}
        write_between(PAGE, part, "\n".join(series(value, what, unit)) + f"\n\n{measured(part, found[part])}")
    links = table(
        ("between", *(f"{size // 1024:,} KiB" for size in SIZES), "latency", "bandwidth"),
        *(
            (name, *(f"{1000 * taken:.2g} ms" for taken in told["seconds"]), f"{1e6 * told['latency']:.0f} µs",
             f"{told['bandwidth'] / 1e9:.2g} GB/s")
            for name, told in found["collective"]["value"].items()
        ),
    )  # fmt: skip
    write_between(PAGE, "collective", "\n".join(links) + f"\n\n{measured('collective', found['collective'])}")
    write_between(PAGE, "paper", "\n".join(on_paper(found)))
    write_between(PAGE, "thousand", a_thousand_jobs(found))


def measured(part: str, said: dict[str, Any]) -> str:
    return f"`python scripts/measure_scale.py {part}`, {said['machine']}, {said['commit']}, {said['date']}."


def main() -> None:
    if sys.argv[1:2] == ["--all-reduce"]:
        all_reduce(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask_for_parts(parser, PARTS)
    given = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    for name in given.parts or PARTS:
        before, began = machine.cores(), f"{os.cpu_count()} cores, {platform.platform()}"
        value = PARTS[name]()
        others = machine.in_words(machine.taken_by_others(before, machine.cores()))
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        said = {"value": value, "commit": commit_in_words(commit()), "date": date, "machine": f"{began}; {others}"}
        (FOUND / f"{name}.json").write_text(json.dumps(said))
        print(name, json.dumps(value), flush=True)
    if missing := [name for name in PARTS if not (FOUND / f"{name}.json").exists()]:
        print(f"the page waits for {', '.join(missing)}", file=sys.stderr)
        return
    found = {name: json.loads((FOUND / f"{name}.json").read_text()) for name in PARTS}
    page(found)
    draw(found)


if __name__ == "__main__":
    main()
