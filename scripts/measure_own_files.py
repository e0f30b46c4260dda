"""Episodes of Omniglot by `metarun eval`, and by `metarun adapt` from the published files: a table of docs/use.md.

    python scripts/measure_own_files.py RUN... [--ways 5,20] [--episodes 200]

RUN was trained on `task=omniglot task.split=lake`, the background alphabets. An episode of its test, one drawing and
one query a class, all of evaluation alphabets, is looked up in the archive, and its drawings are written as they are
there, PNG files of 105 x 105, a directory a class; adapt is given these. Each query is predicted alone.
"""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from metarun import engine
from metarun.command import adapt, own
from metarun.config.resume import tested_otherwise
from metarun.config.run import build_run
from metarun.engine.evaluate import mean_and_interval
from metarun.run import evaluation
from metarun.run.restored import stored
from metarun.tasks import omniglot

EPISODE = {"shots": 1, "queries": 1}
SHOWN = {"inner_steps": [], "shots": [], "inductive": "main"}


class Both(NamedTuple):
    """Accuracy, queries alone."""

    evaluated: dict[str, float]  # {"mean", "ci95"} of metarun eval
    adapted: dict[str, float]  # of metarun adapt, of the same episodes


def both(run: Path, ways: int, episodes: int) -> Both:
    asked = {"eval": {**SHOWN, "task": {**EPISODE, "ways": ways}, "episodes": episodes}}
    named = ["eval.task", "eval.inner_steps", "eval.shots", "eval.inductive", "eval.episodes"]
    found = evaluation.evaluate(run, asked, named)
    accuracies = [accuracy(run, episode) for episode in drawn(run, asked, named)]
    return Both(found.found["test"]["accuracy_inductive"], mean_and_interval(np.array(accuracies)))


def drawn(run: Path, asked: dict[str, Any], named: list[str]) -> Any:
    """The episodes of that test, one by one."""
    tested = build_run(tested_otherwise(stored(run), asked, named))
    data, k_eval = tested.eval_tasks.load(tested.eval.split), engine.stream(tested.eval.seed, engine.EVAL)
    sample = jax.jit(lambda data, index: tested.eval_tasks.sample(data, engine.task_key(k_eval, index)[0]))
    for index in range(tested.eval.episodes):
        yield jax.device_get(sample(data, np.int32(index))), tested.config["task"]["data_dir"]


def accuracy(run: Path, episode: Any) -> float:
    """Of `metarun adapt` on an episode's drawings in folders."""
    drawn, data_dir = episode
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, batch in (("support", drawn.support), ("query", drawn.query)):
            for i, (x, y) in enumerate(zip(batch.x, batch.y, strict=True)):
                place = folder / part / f"{y:02}"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{i}.png").write_bytes(published(x, data_dir))
        options = {"--support": f"{folder}/support", "--query": f"{folder}/query", "--json": f"{folder}/said.json"}
        adapt.adapt(run, options)
        return json.loads((folder / "said.json").read_text())["accuracy"]


FILES: dict[bytes, bytes] = {}  # a drawing as the model sees it -> the published file


def published(x: np.ndarray, data_dir: str | None) -> bytes:
    """The file of a drawing (28, 28, 1) of an evaluation alphabet."""
    if not FILES:
        names, images = omniglot.load_drawings(data_dir)
        place = omniglot.find("omniglot", data_dir, [omniglot.EVALUATION.name])
        assert place is not None
        with zipfile.ZipFile(place / omniglot.EVALUATION.name) as archive:
            members: dict[str, list[str]] = {}
            for member in sorted(name for name in archive.namelist() if name.endswith(".png")):
                members.setdefault("/".join(member.split("/")[1:3]), []).append(member)
            for name, drawings in zip(names, images, strict=True):
                for drawing, member in zip(drawings, members.get(name, ()), strict=name in members):
                    FILES[drawing.tobytes()] = archive.read(member)
    return FILES[np.round(255 * x[..., 0]).astype(np.uint8).tobytes()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--ways", default="5,20")
    parser.add_argument("--episodes", type=int, default=200)
    given = parser.parse_args()
    own.console = lambda options: Console(quiet=True)  # its tables, hundreds of times
    print("| | episodes | `metarun eval`, inductive | `metarun adapt`, from PNG files |\n|---|---|---|---|")
    for run in given.runs:
        for ways in map(int, given.ways.split(",")):
            one = both(run, ways, given.episodes)
            told = " | ".join(f"{100 * f['mean']:.2f} ± {100 * f['ci95']:.2f} %" for f in one)
            print(f"| {run.name}, {ways}-way 1-shot | {given.episodes} | {told} |", flush=True)


if __name__ == "__main__":
    main()
