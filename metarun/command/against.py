"""`metarun bench --against COMMIT`: this tree and another commit of it, measured in turn."""

import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import metarun
from metarun import machine, stderr
from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.run.figures import commit_in_words
from metarun.run.rounds import AGREE, FEWEST, agree, enough, interval, middle_half, ratios
from metarun.text import one_line

HERE, THERE = "here", "there"

Found = dict[str, Any]  # the line of JSON that `metarun bench` prints


class Refused(Exception):
    """`metarun bench` of a tree ended without figures: its last line, and its exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.line, self.code = line, code


def main(commit: str, settings: list[str], most: int) -> None:
    """Measures both and tells what was found. Ends the program over a mistake."""
    with all_as_ctrl_c():
        tell(against(Path(metarun.__file__).resolve().parent.parent, commit, settings, most))


@contextmanager
def all_as_ctrl_c() -> Iterator[None]:
    """Signals that would end the program at once raise KeyboardInterrupt: what is checked out is removed then, too."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    told = signal.set_wakeup_fd(-1)  # the thread that would end the program: metarun.run.stop
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        signal.set_wakeup_fd(told)
        for number, handler in before.items():
            signal.signal(number, handler)


def against(
    root: Path, commit: str, settings: list[str], most: int, measure: Callable[[Path, list[str]], Found] | None = None
) -> Found:
    """What `settings` take in the tree `root` and in another commit of it: both in turn, until the rounds agree.

    Each is measured by `metarun bench` of its own, in a process of its own. Ends the program over a mistake.
    """
    option, measure = f"bench --against {commit}", measure or bench_of
    there = commit_of(root, commit, option)
    every: dict[str, list[Found]] = {HERE: [], THERE: []}
    before = machine.cores()
    with checked_out(root, there) as tree:
        if not (tree / "metarun" / "__main__.py").exists():
            fail(f"{option}: that commit has no metarun that could be run", MISTAKE)
        try:
            while not enough(seconds(every), HERE, most):
                every[HERE].append(measure(root, settings))
                try:
                    every[THERE].append(measure(tree, settings))
                except Refused as error:
                    raise Refused(f"{option}: in that commit {error.line}", error.code) from error
                must_be_of(every[THERE][-1], there, option)
                stderr.say(f"{progress(every, there)}\n")
        except Refused as error:
            fail(error.line, error.code if error.code in (FAILED, MISTAKE) else FAILED)
    return compared(every, there, settings, machine.taken_by_others(before, machine.cores()))


def seconds(every: dict[str, list[Found]]) -> dict[str, list[float]]:
    """Name -> seconds a meta-step, in the order of the rounds."""
    return {name: [1 / found["meta_steps_per_s"] for found in rounds] for name, rounds in every.items()}


def compared(every: dict[str, list[Found]], there: str, settings: list[str], others: float | None) -> Found:
    """The rounds' results, as `metarun bench --against` prints them."""
    took = seconds(every)
    times = ratios(took, HERE)[THERE]
    known = len(times) >= FEWEST
    low, high = interval(times)
    difference = "faster" if low > 1 else "slower" if high < 1 else "none seen"

    def of(name: str) -> Found:
        speeds = [found["meta_steps_per_s"] for found in every[name]]
        same = ("commit", "parameters", "gflop_per_meta_step", "task_chunk", "devices", "device", "precision")
        return {
            **{key: every[name][-1].get(key) for key in same},
            "meta_steps_per_s": statistics.median(speeds),
            "meta_steps_per_s_middle_half": middle_half(speeds),
            "meta_steps_per_s_by_round": speeds,
        }

    return {
        "run": every[HERE][-1].get("run"),
        "settings": settings,
        "against": there,
        HERE: of(HERE),
        THERE: of(THERE),
        "times_as_fast": statistics.median(took[THERE]) / statistics.median(took[HERE]),
        "times_as_fast_middle_half": middle_half(times),
        "times_as_fast_interval": [low, high] if known else None,
        "rounds": len(times),
        "rounds_agree": known and agree(took, HERE),
        "difference": difference if known else "too few rounds to tell",
        "cores_taken_by_others": others,
        "busy": machine.is_busy(others),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def bench_of(tree: Path, settings: list[str]) -> Found:
    """What `metarun bench` of a tree finds. Raises Refused."""
    path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        # With -P the directory where the command is given is not looked for a metarun.
        [sys.executable, "-P", "-m", "metarun", "bench", *settings],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = [f"it ended with exit code {done.returncode}", *done.stderr.strip().splitlines()][-1]
        raise Refused(one_line(last.removeprefix("metarun: ")), done.returncode)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
        float(found["meta_steps_per_s"])
        return found
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise Refused("metarun bench prints no line of JSON with meta_steps_per_s", FAILED) from error


def must_be_of(found: Found, commit: str, option: str) -> None:
    """Ends the program if it was another metarun that was measured, as where one stands in front of all others."""
    ran = found.get("commit") or {}
    if ran.get("id", commit) != commit:
        fail(f"{option}: Python imports another metarun ({ran['id'][:8]}) in its place; look at sys.path", FAILED)


def commit_of(root: Path, commit: str, option: str) -> str:
    """The commit's full name. Ends the program if there is no such commit, or no checkout."""
    try:
        top = Path(git(root, "rev-parse", "--show-toplevel"))
    except FileNotFoundError:
        fail(f"{option}: git is not installed, which knows of other commits", MISTAKE)
    except subprocess.CalledProcessError:
        top = None
    if top is None or top.resolve() != root:
        fail(f"{option}: metarun is not run from a git checkout, but from {root}; clone it and run it there", MISTAKE)
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        fail(f"{option}: no such commit in {root}; `git log --oneline` lists them", MISTAKE)


@contextmanager
def checked_out(root: Path, commit: str) -> Iterator[Path]:
    """The tree of a commit, in a git worktree that is gone afterwards, however this ends."""
    folder = Path(tempfile.mkdtemp(prefix="metarun-against-")).resolve()
    tree = folder / commit[:8]
    try:
        # Without the hooks that whoever uses this checkout may have set up for checking out.
        git(root, "-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--quiet", "--detach", str(tree), commit)
        yield tree
    finally:
        with deaf():
            with suppress(OSError, subprocess.CalledProcessError):
                git(root, "worktree", "remove", "--force", "--force", str(tree))
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def deaf() -> Iterator[None]:
    """Signals that would end the program wait for what must be done first."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def git(root: Path, *words: str) -> str:
    """What git prints. It is let finish what it has begun, even if this program is interrupted meanwhile."""
    process = subprocess.Popen(
        ["git", "--no-optional-locks", "-C", str(root), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the terminal's Ctrl-C is for this program
    )
    try:
        out, err = process.communicate()
    except KeyboardInterrupt:
        process.wait()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, out, err)
    return out.strip()


def progress(every: dict[str, list[Found]], there: str) -> str:
    """`round 3: 7.12 meta-steps/s here, 6.90 in 499a1e1f`"""
    here, other = (every[name][-1]["meta_steps_per_s"] for name in (HERE, THERE))
    return f"round {len(every[THERE])}: {here:.4g} meta-steps/s here, {other:.4g} in {there[:8]}"


def tell(found: Found) -> None:
    """One JSON line on standard output; where that or standard error is a terminal, a table there."""
    if sys.stdout.isatty() or sys.stderr.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None)
        for head in ("", f"here ({commit_in_words(found[HERE]['commit'])})", found["against"][:8]):
            table.add_column(head)
        rows = {
            "meta-steps/s": [
                "{:.4g} ({:.4g} to {:.4g})".format(of["meta_steps_per_s"], *of["meta_steps_per_s_middle_half"])
                for of in (found[HERE], found[THERE])
            ],
            "GFLOP a meta-step": [str(shown(found[name]["gflop_per_meta_step"])) for name in (HERE, THERE)],
            "tasks at once": [str(shown(found[name]["task_chunk"])) for name in (HERE, THERE)],
        }
        for name, cells in rows.items():
            table.add_row(name, *cells)
        console = Console(stderr=not sys.stdout.isatty(), highlight=False)
        console.print(table)
        console.print(in_words(found), soft_wrap=True, markup=False)
    if found["busy"]:
        share = machine.in_words(found["cores_taken_by_others"])
        stderr.say(f"metarun: the machine is busy: {share} meanwhile; compare again when it is idle\n")
    print(json.dumps(found), flush=True)


def shown(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else "not told" if value is None else value


def in_words(found: Found) -> str:
    """`1.03 times as fast as 499a1e1f (1.02 to 1.05 in the middle half of 8 rounds, which agree): faster`"""
    low, high = found["times_as_fast_middle_half"]
    do = "agree" if found["rounds_agree"] else "do not agree"
    return (
        f"{found['times_as_fast']:.3f} times as fast as {found['against'][:8]} ({low:.3f} to {high:.3f} in the middle "
        f"half of {found['rounds']} rounds, which {do} within {AGREE:.0%}): {found['difference']}"
    )
