"""Draws docs/report.png: the report over short runs on sine waves, in headless Chromium. `make figures` runs it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
METARUN = [sys.executable, "-P", "-m", "metarun"]
RUNS = (
    "task=sinusoid", "learner=maml,fomaml", "train.seed=0,1,2", "train.steps=2000", "eval.shots=[5,10]", "logger=none",
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
