"""Breaks metarun in the ways of scripts/mutants.toml, one at a time, and says what no test notices: `make mutants`.

Why a list of our own and no mutation tester: mutmut and cosmic-ray make thousands of random changes and run the whole
suite on each, which takes minutes here, for most of it is compilation; what has to be guarded are the few hundred
changes that leave a program running and its figures wrong, and each is noticed, or not, by a few tests that are named.

Every change is made in a copy of the tree. `python scripts/mutants.py WORD...` makes those only whose area or name has
one of the words, and leaves docs/mutants.md as it is.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pages.marks import write_between

from metarun.run.figures import commit_in_words
from metarun.run.provenance import commit

ROOT = Path(__file__).parents[1]
LIST = ROOT / "scripts" / "mutants.toml"
PAGE = ROOT / "docs" / "mutants.md"
COPIED = ("conf", "docs", "metarun", "scripts", "tests", "pyproject.toml")
SECONDS = 300  # for the tests of one mutant
SLOW = ("jax", "flax.linen", "optax", "orbax.checkpoint", "hydra", "pydantic", "scipy.optimize", "hypothesis", "pytest")
NO_PROGRAM = ("E   NameError:", "E   UnboundLocalError:")  # which any test would notice

Verdict = Literal["killed", "killed by the clock", "survived", "changes nothing", "broken"]


class Mutant(NamedTuple):
    """One change, and the tests that should notice it."""

    area: str
    name: str
    file: str
    before: str  # stands once in the file
    after: str
    tests: tuple[str, ...]  # pytest's names of them
    equivalent: str | None = None  # why no test can notice it, if none can


class Tried(NamedTuple):
    """What came of a mutant, and the end of what pytest said."""

    verdict: Verdict
    said: str


class Stale(Exception):
    """The list no longer fits the files."""


def read(path: Path = LIST) -> list[Mutant]:
    """The list of mutants."""
    rows = tomllib.loads(path.read_text())["mutant"]
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def mutated(mutant: Mutant, root: Path) -> str:
    """The file's text with the change made. Raises Stale if `before` does not stand in it exactly once."""
    text = (root / mutant.file).read_text()
    if (times := text.count(mutant.before)) != 1:
        raise Stale(f"{mutant.name}: {mutant.before!r} stands {times} times in {mutant.file}, not once: mend the list")
    changed = text.replace(mutant.before, mutant.after)
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")  # a mutant that does not even compile tests nothing
    return changed


def stale(mutants: Sequence[Mutant], root: Path) -> list[str]:
    """What of the list no longer fits the files at `root`, a line each: changes not to be made, tests not there."""
    lines = []
    for mutant in mutants:
        try:
            mutated(mutant, root)
        except Stale as error:
            lines.append(str(error))
        for test in mutant.tests:
            file, _, name = test.partition("::")
            if f"def {name.partition('[')[0]}(" not in (root / file).read_text():
                lines.append(f"{mutant.name}: there is no {test}: mend the list")
    return lines


class Pytest:
    """Runs tests of a tree in forks of one process: scripts/forks.py."""

    def __init__(self, folder: Path, imports: Sequence[str] = SLOW) -> None:
        """`folder` is for what the tests keep, which is not for others, and for what they say."""
        self.said = folder / "said"
        cache = folder / "cache"
        environment = {"METARUN_CACHE_DIR": str(cache), "JAX_COMPILATION_CACHE_DIR": str(cache / "xla")}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
        if "METARUN_DATA_DIR" not in os.environ and (data := ROOT.parent / "shared" / "data").is_dir():
            environment["METARUN_DATA_DIR"] = str(data)
        self.process = subprocess.Popen(
            [sys.executable, "-P", ROOT / "scripts" / "forks.py", *imports], env=os.environ | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Pytest":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # it ends with its input

    def __call__(self, root: Path, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
        """The exit code of these tests of the tree at `root`, None if they took longer; and the end of their words."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        arguments = ["-x", "-m", "", "-p", "no:cacheprovider", "--tb=short", *tests]
        asked = {"root": str(root), "arguments": arguments, "said": str(self.said), "seconds": seconds}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        code = json.loads(self.process.stdout.readline())
        return code, self.said.read_text(errors="replace")[-3000:]


def tried(mutant: Mutant, root: Path, pytest: Pytest, seconds: float = SECONDS) -> Tried:
    """Makes the change in the tree at `root`, runs its tests, and takes it back."""
    path = root / mutant.file
    text, changed = path.read_text(), mutated(mutant, root)
    path.write_text(changed)
    try:
        code, said = pytest(root, mutant.tests, seconds)
    finally:
        path.write_text(text)
    if code is None:
        return Tried("killed by the clock", said)
    if code == 0:
        return Tried("changes nothing" if mutant.equivalent else "survived", said)
    if code == 1 and mutant.equivalent is None and not any(error in said for error in NO_PROGRAM):
        return Tried("killed", said)
    return Tried("broken", said)  # nothing was collected, it was said to change nothing, or what it names is not there


def copied(folder: Path) -> Path:
    """A copy of the tree, to be broken."""
    root = folder / "metarun"
    root.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(source, root / name)
    return root


def must_pass(mutants: Sequence[Mutant], root: Path, pytest: Pytest) -> None:
    """Ends the program unless every test that is named passes on the tree as it is, and is of that tree."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", "import metarun; print(metarun.__file__)"],
        cwd=root, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if not Path(found.strip()).is_relative_to(root):
        sys.exit(f"mutants: the tests would be of {found.strip()}, not of the copy in {root}")
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    print(f"{len(tests)} tests on the tree as it is ...", flush=True)
    code, said = pytest(root, tests, SECONDS * 10)
    if code != 0:
        sys.exit(f"{said}\nmutants: these tests must pass before anything is broken")


def page(mutants: Sequence[Mutant], verdicts: Sequence[Verdict], of: str, seconds: float) -> str:
    """The table by area; `of` is the commit."""
    lines = ["| area | mutants | noticed | not noticed | change nothing |", "| --- | ---: | ---: | ---: | ---: |"]
    by_area: dict[str, Counter[str]] = {}
    for mutant, verdict in zip(mutants, verdicts, strict=True):
        by_area.setdefault(mutant.area, Counter())[verdict] += 1
    by_area["all"] = sum(by_area.values(), Counter())
    for area, counts in by_area.items():
        noticed = counts["killed"] + counts["killed by the clock"]
        missed = counts["survived"] + counts["broken"]
        lines.append(f"| {area} | {counts.total()} | {noticed} | {missed} | {counts['changes nothing']} |")
    made = f"{datetime.date.today()}, commit {of}, in {seconds / 60:.0f} minutes on {os.cpu_count()} CPU cores"
    return "\n".join([*lines, "", f"`make mutants`, {made}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of an area or a name; all mutants by default")
    words = parser.parse_args().words
    every = read()
    mutants = [m for m in every if not words or any(word in f"{m.area}: {m.name}" for word in words)]
    begin, of, verdicts = time.monotonic(), commit_in_words(commit()), []
    with tempfile.TemporaryDirectory() as folder, Pytest(Path(folder)) as pytest:
        root = copied(Path(folder))
        if lines := stale(mutants, root):
            sys.exit("\n".join(["mutants:", *lines]))
        must_pass(mutants, root, pytest)
        for i, mutant in enumerate(mutants, 1):
            before = time.monotonic()
            verdict, said = tried(mutant, root, pytest)
            verdicts.append(verdict)
            took = f"{time.monotonic() - before:.0f} s"
            print(f"{i:3}/{len(mutants)}  {verdict:<19}  {took:>5}  {mutant.area}: {mutant.name}", flush=True)
            if verdict == "broken":
                print(said, flush=True)
    table = page(mutants, verdicts, of, time.monotonic() - begin)
    print(f"\n{table}")
    if len(mutants) == len(every):
        write_between(PAGE, "mutants", table)
    missed = [m for m, verdict in zip(mutants, verdicts, strict=True) if verdict in ("survived", "broken")]
    for mutant in missed:
        print(f"not noticed: {mutant.area}: {mutant.name} ({mutant.file}: {mutant.after})")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
