"""metarun beside what one would run instead, in PyTorch, into docs/benchmarks.md: `make bench`.

One process measures all in turn, on the CPU, or on a GPU into docs/benchmarks-gpu.md: metarun, and implementations in
PyTorch (scripts/rivals) with the same network, weights and episodes, each checked to give the same loss and
meta-gradient. Then, on the CPU: how metarun's time and memory grow. Each run is added to the JSON file beside the page,
from which it is made. A machine on which others compute is refused. Needs the extra `bench`, Omniglot, and a machine
that is otherwise idle for about 25 minutes.

  python scripts/bench_torch.py                          the whole page
  python scripts/bench_torch.py --rows mann,protonet     some of its tables; the others stay as they were measured
  python scripts/bench_torch.py --hardware gpu           on a GPU
  python scripts/bench_torch.py --quick --rows mann      a look: 2 rounds, on a busy machine too; nothing is written
"""

import argparse
import datetime
import importlib.metadata
import platform
import statistics
import sys
from pathlib import Path

import growth
import jax
from pages import history
from pages.speed import compare, page
from rivals.same import must_be_the_same
from rivals.settings import SETTINGS, Setting, metarun, run_of, theirs

from metarun import machine
from metarun.engine.hardware import cores as usable_cores
from metarun.engine.speed import matrix_product
from metarun.files import write_atomically
from metarun.run.provenance import commit
from metarun.run.rounds import FEWEST, agree, enough

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"cpu": DOCS / "benchmarks.md", "gpu": DOCS / "benchmarks-gpu.md"}  # each beside what is kept, in JSON
PICTURE = DOCS / "benchmarks.svg"
MOST, QUICK = 30, 2  # rounds
GROWTH = "growth"
KEYS = [*(setting.key for setting in SETTINGS), GROWTH]


def table(setting: Setting, most: int, hardware: str) -> history.Entry:
    """A setting's rows, in rounds of one time each. Raises AssertionError for a rival that computes something else."""
    run, rival = run_of(*setting.overrides, hardware=hardware), setting.rival
    must_be_the_same(rival, run)
    own = metarun(run)
    timers = {history.OURS: own.seconds} | theirs(rival, run)
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    products = []
    before = machine.cores()
    while not enough(rounds, history.OURS, most):
        products.append(matrix_product(own.mesh, None))
        for name, timer in timers.items():
            rounds[name].append(timer())
    return {
        "title": setting.title,
        "rounds": len(products),
        "agree": agree(rounds, history.OURS),
        "others": machine.taken_by_others(before, machine.cores()),
        "task_chunk": own.task_chunk,
        "gflop": own.gflop,
        "target_gflop": setting.target_gflop,
        "product_gflop_per_s": statistics.median(products),
        "rows": compare(rounds),
    }


def begun(hardware: str) -> history.Entry:
    """Sets the machine up, and says what this run is known by: before it writes anything."""
    import torch

    torch.manual_seed(0)
    run_of(hardware=hardware).hardware.set_up(32)
    cores = usable_cores() if hardware == "gpu" else jax.device_count()
    torch.set_num_threads(cores)
    torch.backends.cudnn.allow_tf32 = False  # both compute in float32
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "commit": commit(),
        "date": str(datetime.date.today()),
        "machine": {
            "cpu": names[0].split(":")[1].strip() if names else platform.processor() or platform.machine(),
            "cores": cores,
            **({"gpu": jax.devices()[0].device_kind} if hardware == "gpu" else {}),
        },
        "versions": {
            **{name: importlib.metadata.version(name) for name in ("jax", "torch", "higher")},
            "Python": platform.python_version(),
        },
        "tables": {},
    }


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line; `rows` a list of KEYS, `rounds` the most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(KEYS), help=f"some of these, with commas between: {','.join(KEYS)}")
    parser.add_argument("--hardware", choices=sorted(PAGES), default="cpu")
    parser.add_argument("--rounds", type=int, help=f"at most so many, {MOST} if left out; {FEWEST} and more can agree")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rounds, and nothing is written")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine too; the page says so")
    found = parser.parse_args(given)
    found.rows = found.rows.split(",")
    if unknown := [row for row in found.rows if row not in KEYS]:
        parser.error(f"--rows {','.join(unknown)}: no such row; allowed: {', '.join(KEYS)}")
    if found.rounds is not None and found.rounds < 1:
        parser.error(f"--rounds {found.rounds}: must be at least 1")
    found.rounds = found.rounds or (QUICK if found.quick else MOST)
    return found


def must_be_idle() -> None:
    """Ends the program if others compute on this machine."""
    share = machine.look(3.0)
    if machine.is_busy(share):
        sys.exit(
            f"bench_torch: the machine is busy: {machine.in_words(share)}; wait until it is idle, "
            "or add --busy to measure all the same, which the page then says, or --quick for a look"
        )


def main(given: list[str]) -> None:
    asked = arguments(given)
    if not (asked.quick or asked.busy):
        must_be_idle()
    shown = PAGES[asked.hardware]
    kept = shown.with_suffix(".json")
    earlier, this = history.read(kept), begun(asked.hardware)

    def keep() -> None:
        """After each table, so that a run that ends early leaves what it has measured."""
        if not asked.quick:
            history.write(kept, [*earlier, this])
            write_atomically(shown, page([*earlier, this]))

    for setting in SETTINGS:
        if setting.key in asked.rows:
            print(setting.title, file=sys.stderr, flush=True)
            this["tables"][setting.key] = table(setting, asked.rounds, asked.hardware)
            keep()
    if GROWTH in asked.rows and asked.hardware == "cpu" and not asked.quick:
        print("how it grows", file=sys.stderr, flush=True)
        this["growth"], found = growth.measured()
        growth.draw(found, PICTURE)
        keep()
    if asked.quick:
        print(page([this]))


if __name__ == "__main__":
    main(sys.argv[1:])
