"""Draws docs/report.png: the report over a few short runs on strokes, in headless Chromium. `make figures` runs it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
METARUN = [sys.executable, "-P", "-m", "metarun"]
RUNS = (
    "task=strokes", "learner=maml,anil", "train.seed=0,1", "model.filters=16", "train.steps=200", "train.meta_batch=8",
    "hardware.task_chunk=2", "eval.shots=[1,5]", "eval.episodes=100", "eval.val_episodes=50", "logger=none",
)  # fmt: skip


def main() -> None:
    """Says so, and draws nothing, where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("docs/report.png is left as it is: no chromium here")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*METARUN, "-m", *RUNS, "run.dir=runs"], cwd=folder, check=True)
        subprocess.run([*METARUN, "report", "runs"], cwd=folder, check=True)
        subprocess.run(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--window-size=1200,1450", f"--screenshot={PICTURE}", f"file://{folder}/report.html"],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
