"""Makes the data of docs/your-data.md, runs its commands, and writes what they print into it: about ten minutes.

The page's own code makes the data, so whoever pastes it has the same; and its own commands are run, in their order, in
a temporary directory. Under each stands what it printed: all of it, or its end.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from metarun.files import write_atomically
from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

PAGE = Path(__file__).parents[1] / "docs" / "your-data.md"
PASSING = re.compile(r"meta-steps? |meta-steps: |test episodes: |.*\(\d+ s\)$")  # what is told as it goes on
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python(code: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def printed(command: str, folder: Path) -> str:
    """What `metarun ...` prints, without the lines that go as it goes on."""
    words = shlex.split(command)
    metarun = [sys.executable, "-P", "-m", "metarun"]
    environment = {**os.environ, "COLUMNS": "110", "METARUN_CACHE_DIR": str(folder / "cache")}
    found = subprocess.run(
        metarun + words[1:], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line.rstrip() for line in (found.stdout + found.stderr).splitlines()]
    kept = [line for line in lines if line and not PASSING.match(line)]
    return "\n".join(kept).replace(f"{folder}/", "")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def run(block: re.Match[str]) -> str:
            kind, text = block.groups()
            if kind == "python":
                python(text, folder)
                return block.group()
            command = text.splitlines()[0].removeprefix("$ ")
            print(command, flush=True)
            return f"```console\n$ {command}\n{printed(command, folder)}\n```"

        page = BLOCK.sub(run, PAGE.read_text())
        made = f"{date.today()}, {commit_in_words(commit())}, {os.cpu_count()} CPU cores"
        write_atomically(PAGE, re.sub(r"(?<=`scripts/write_your_data.py`, ).*(?=\.\n)", made, page))


if __name__ == "__main__":
    main()
