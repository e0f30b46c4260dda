"""Every learner on Omniglot 5-way 1-shot for the same few minutes: `python scripts/compare_learners.py --minutes 2`.

Short runs of each tell how many meta-steps fit into the time; a full one follows. What is finished is skipped, what
was stopped goes on. The tables, of the runs' results.json, go to docs/results.md between its markers. Learners that
read an episode as a sequence start from the encoder of the `maml` run. Keep the machine otherwise idle.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pages.marks import write_between

from metarun.config import choices, conf_dir
from metarun.run.figures import commit_in_words, show

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
METARUN = str(Path(sys.executable).with_name("metarun"))
COMMON = ("task=omniglot", "logger=none", "eval.val_episodes=100", "eval.inner_steps=[]")
PROBE_SECONDS = 20
# Tasks at once on each of two devices: one, but for sequences, which go side by side. To measure it would take time.
AT_ONCE, AT_ONCE_OF = 1, {"attention": 8, "lstm": 4, "mann": 4}
UNTRAINED = ("nearest_neighbour", "scratch")
# What a small budget needs: a higher learning rate than the default, falling to nothing; fewer tasks a meta-step.
SETTINGS = ("optimizer=adam_cosine", "optimizer.learning_rate.init_value=0.003", "train.meta_batch=16")
FROM_MAML = ("lstm", "mann")
LONGER = 3  # times the minutes, for these: in fewer they learn nothing
SEQUENCES = ("optimizer=adam_cosine", "optimizer.learning_rate.init_value=0.001", "train.meta_batch=8")
OF_LEARNER: dict[str, tuple[str, ...]] = {
    "reptile": (),
    "protonet": SETTINGS[:2],
    "lstm": (*SEQUENCES, "optimizer.learning_rate.init_value=0.002"),
    "mann": SEQUENCES,
    "mamlpp": (*SETTINGS, "learner.multi_step_loss=200"),
}


def run(learner: str, directory: Path, *overrides: str) -> dict[str, Any]:
    """One run by the command line; the content of its results.json."""
    command = [METARUN, f"learner={learner}", *COMMON, f"run.dir={directory}", *overrides]
    print("metarun", *command[1:], flush=True)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(directory.parent / "compiled")}
    subprocess.run(
        command, check=True, env={**os.environ, **cache}, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    return json.loads((directory / "results.json").read_text())


def compare(learner: str, minutes: float, directory: Path) -> None:
    if (directory / learner / "results.json").exists():
        return
    if learner in UNTRAINED:
        run(learner, directory / learner)
        return
    settings = OF_LEARNER.get(learner, SETTINGS)
    if learner in FROM_MAML:
        compare("maml", minutes, directory)
        settings = (*settings, f"train.init_from={directory / 'maml'}")
        minutes *= LONGER
    settings = (*settings, f"hardware.task_chunk={AT_ONCE_OF.get(learner, AT_ONCE)}")
    if not (directory / learner / "config.yaml").exists():
        steps = max(50, int(speed(learner, directory, settings) * 60 * minutes) // 50 * 50)
        run(learner, directory / learner, *settings, f"train.steps={steps}")
    else:  # stopped before its end: its directory alone goes on with it
        subprocess.run([METARUN, f"run.dir={directory / learner}"], check=True, stdout=subprocess.DEVNULL)


def speed(learner: str, directory: Path, settings: tuple[str, ...]) -> float:
    """Meta-steps a second, of a second short run: beside the first one's meta-steps its evaluation is compiled."""
    probe, steps = directory / f"{learner}-probe", 48
    for _ in range(2):
        shutil.rmtree(probe, ignore_errors=True)
        found = run(learner, probe, *settings, f"train.steps={steps}", "eval.episodes=4", f"train.eval_every={steps}")
        per_second = found["speed"]["meta_steps_per_s"]
        steps = max(steps, int(PROBE_SECONDS * per_second))
    return per_second


def row(learner: str, found: dict[str, Any]) -> str:
    test, training = found["test"], found["training"]
    inductive = test.get("accuracy_inductive", test["accuracy"])
    meta_learns = learner not in (*UNTRAINED, "finetune")
    cells = (
        f"`{learner}`" if meta_learns else f"`{learner}` (baseline)",
        show("accuracy", test["accuracy"]),
        show("accuracy", inductive),
        "0" if learner in UNTRAINED else f"{training['steps']:,}",
        str(training["meta_batch"]),
        f"{found['speed']['minutes']:.1f}",
        f"{training['parameters']:,}",
        f"{found['memory']['host_peak_mb']:.0f} MB",
        commit_in_words(found["commit"]),
    )
    return f"| {' | '.join(cells)} |"


def finished(directory: Path) -> dict[str, dict[str, Any]]:
    """The results of the learners that are done, by their names; short runs that told their speed aside."""
    files = {learner: directory / learner / "results.json" for learner in choices("learner")}
    return {learner: json.loads(file.read_text()) for learner, file in files.items() if file.exists()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The finished runs as a markdown table, best first."""
    columns = ["learner", "transductive", "inductive", "meta-steps", "tasks each", "minutes", "parameters"]
    columns += ["peak memory", "commit"]
    order = sorted(found, key=lambda learner: -found[learner]["test"]["accuracy"]["mean"])
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *(row(name, found[name]) for name in order)]
    any_run = max(found.values(), key=lambda results: results["machine"]["devices"])
    machine, date = any_run["machine"], max(results["date"] for results in found.values())[:10]
    lines += [
        "",
        f"{any_run['protocol']['episodes']} test tasks, 95% intervals over tasks. {machine['devices']} "
        f"{machine['device']} devices, jax {any_run['versions']['jax']}, {date}.",
        "Minutes count everything: start, compilation, training, validation, test.",
    ]
    return "\n".join(lines)


def sequences(found: dict[str, dict[str, Any]]) -> str:
    """Accuracy by instance of the learners that read an episode as a sequence."""
    lines = ["Accuracy (%) at the 1st, 2nd, ... 10th time that a class is seen in an episode:", ""]
    lines += ["| | " + " | ".join(f"{k}" for k in range(1, 11)) + " |", "|" + " --- |" * 11]
    for learner, results in found.items():
        shown = [results["test"].get(f"accuracy_instance_{k:02}") for k in range(1, 11)]
        if shown[9]:
            lines.append(f"| `{learner}` | " + " | ".join(f"{100 * s['mean']:.1f}" for s in shown if s) + " |")
    for learner in ("mann", "lstm"):
        preset = yaml.safe_load((conf_dir() / "experiment" / f"{learner}_omniglot_5w.yaml").read_text())
        theirs = [preset["paper"]["figures"].get(f"accuracy_instance_{k:02}") for k in range(1, 11)]
        cells = ["" if figure is None else f"{100 * figure[0]:.1f}" for figure in theirs]
        lines.append(f"| {learner.upper()}, paper | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, for each learner")
    parser.add_argument("--dir", type=Path, default=Path("runs/compare"))
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("learners", nargs="*", help="these only; all by default")
    arguments = parser.parse_args()
    if not arguments.table_only:
        for learner in arguments.learners or choices("learner"):
            try:
                compare(learner, arguments.minutes, arguments.dir)
            except subprocess.CalledProcessError as error:
                print(f"{learner}: {error}", file=sys.stderr)
    found = finished(arguments.dir)
    write_between(PAGE, "learners", f"{table(found)}\n\n{sequences(found)}")


if __name__ == "__main__":
    main()
