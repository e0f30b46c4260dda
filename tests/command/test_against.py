"""`metarun bench --against COMMIT`: two commits in turn, in a checkout whose metarun prints a line and nothing more."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarun.command import against as command
from metarun.command.against import HERE, THERE, against, bench_of

STUB = """
import json, os, pathlib, sys
root = pathlib.Path(__file__).parents[1]
with open(os.environ["CALLS"], "a") as file:
    print(root, *sys.argv[1:], file=file)
if "learner=new" in sys.argv and not {new}:
    sys.exit("loading\\nmetarun: learner=new: no such choice")
if "learner=typo" in sys.argv:
    print("metarun: learner=typo: no such choice", file=sys.stderr)
    sys.exit(2)
if "hang" in sys.argv:
    import time
    time.sleep(60)
print("not this line")
print(json.dumps(dict(meta_steps_per_s={speed}, gflop_per_meta_step=10.0, task_chunk=1, run="RUN")))
"""


def git(root: Path, *words: str) -> str:
    settings = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *settings, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A checkout of three commits: without metarun, with a slow one, with one that is twice as fast."""
    root = tmp_path_factory.mktemp("checkout").resolve()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / "notes").write_text("nothing yet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "nothing")
    (root / "metarun").mkdir()
    (root / "metarun" / "__init__.py").touch()
    for speed, new in ((10.0, False), (20.0, True)):
        (root / "metarun" / "__main__.py").write_text(STUB.format(speed=speed, new=new))
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", f"{speed}")
    return root


@pytest.fixture
def checkout(made, tmp_path, monkeypatch) -> Path:
    """That checkout, which must be as it was afterwards; temporary directories are made in `tmp_path / "tmp"`."""
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    yield made
    assert len(git(made, "worktree", "list").splitlines()) == 1
    assert git(made, "status", "--porcelain", "--ignored") in ("", "!! metarun/__pycache__/")
    assert list((tmp_path / "tmp").iterdir()) == []


def found(speed: float, **more) -> dict:
    return {"meta_steps_per_s": speed, **more}


def told(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("round ")]
    return line


def test_two_commits_are_measured_in_turn_each_in_a_process_of_its_own_tree(checkout, tmp_path, capsys):
    result = against(checkout, "HEAD~1", ["learner=maml", "task=omniglot"], 12)
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[1:] for call in calls] == [["bench", "learner=maml", "task=omniglot"]] * 12
    trees = [Path(call[0]) for call in calls]
    assert trees[::2] == [checkout] * 6  # rounds as alike as these agree after six
    assert set(trees[1::2]) == {trees[1]}
    assert trees[1].parents[1] == tmp_path / "tmp"
    assert (result[HERE]["meta_steps_per_s"], result[THERE]["meta_steps_per_s"]) == (20, 10)
    assert result["times_as_fast"] == 2
    assert result["difference"] == "faster"
    assert result["rounds_agree"]
    assert result["against"] == git(checkout, "rev-parse", "HEAD~1")
    assert "round 6: 20 meta-steps/s here, 10 in " in capsys.readouterr().err


def test_what_is_changed_here_and_not_committed_is_measured_and_left_alone(checkout):
    main = checkout / "metarun" / "__main__.py"
    committed = main.read_text()
    main.write_text(committed.replace("20.0", "5.0"))
    result = against(checkout, "HEAD", [], 1)
    assert (result[HERE]["meta_steps_per_s"], result[THERE]["meta_steps_per_s"]) == (5, 20)
    assert main.read_text() != committed
    main.write_text(committed)


SPEEDS = {  # here and there, in each round; rounds made, whether they agree, the difference
    "alike": ([10.0] * 9, [10.0] * 9, 6, True, "none seen"),
    "slower": ([9.0] * 9, [10.0] * 9, 6, True, "slower"),
    "drifting together": ([10.0, 9, 8, 7, 6, 5, 4, 3, 2], [5.0, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1], 6, True, "faster"),
    "noisy": ([10.0, 11, 9, 10, 11, 9, 10, 11, 9], [10.0] * 9, 9, False, "none seen"),
    "at last": ([9.0, 11, 10, 10, 10, 10, 10, 10, 10], [10.0] * 9, 9, True, "none seen"),
}


@pytest.mark.parametrize("name", SPEEDS)
def test_rounds_go_on_until_they_agree_or_as_many_are_made_as_may_be(checkout, name, capsys):
    here, there, made, agree, difference = SPEEDS[name]
    turns = {checkout: iter(here)}

    def measure(tree: Path, settings: list[str]) -> dict:
        return found(next(turns.setdefault(tree, iter(there))))

    result = against(checkout, "HEAD", [], 9, measure)
    assert (result["rounds"], result["rounds_agree"], result["difference"]) == (made, agree, difference)
    assert len(result[HERE]["meta_steps_per_s_by_round"]) == made
    low, high = result["times_as_fast_interval"]
    assert low <= result["times_as_fast"] <= high
    command.tell(result)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result))


def test_a_few_rounds_tell_no_difference(checkout, capsys):
    result = against(checkout, "HEAD~1", [], 2, lambda tree, _: found(20.0 if tree == checkout else 10.0))
    assert (result["rounds"], result["rounds_agree"], result["times_as_fast_interval"]) == (2, False, None)
    assert result["difference"] == "too few rounds to tell"
    command.tell(result)
    assert json.loads(capsys.readouterr().out)["times_as_fast"] == 2
    assert "2.000 times as fast" in command.in_words(result)


def test_what_others_took_meanwhile_is_told(checkout, monkeypatch, capsys):
    monkeypatch.setattr(command.machine, "taken_by_others", lambda *_: 0.43)
    command.tell(against(checkout, "HEAD", [], 1, lambda *_: found(1.0)))
    out, err = capsys.readouterr()
    assert json.loads(out)["cores_taken_by_others"] == 0.43
    assert json.loads(out)["busy"]
    assert err.splitlines()[-1].startswith("metarun: the machine is busy: others took 43% of the cores meanwhile")


@pytest.mark.parametrize(
    ("commit", "setting", "code", "says"),
    [
        ("nosuch", "", 2, "metarun: bench --against nosuch: no such commit in "),
        ("HEAD:notes", "", 2, "metarun: bench --against HEAD:notes: no such commit in "),
        ("HEAD~2", "", 2, "metarun: bench --against HEAD~2: that commit has no metarun that could be run"),
        ("HEAD~1", "learner=typo", 2, "metarun: learner=typo: no such choice"),  # as without --against
        ("HEAD~1", "learner=new", 1, "metarun: bench --against HEAD~1: in that commit learner=new: no such choice"),
    ],
)
def test_a_mistake_is_told_in_one_line(checkout, capsys, commit, setting, code, says):
    with pytest.raises(SystemExit) as error:
        against(checkout, commit, [setting], 6)
    assert error.value.code == code
    assert told(capsys).startswith(says)


def test_no_checkout_and_no_git_are_told_in_one_line(checkout, tmp_path, monkeypatch, capsys):
    for root in (tmp_path, checkout / "metarun"):  # what is installed, and what lies in another project's checkout
        with pytest.raises(SystemExit) as error:
            against(root, "HEAD", [], 6)
        assert error.value.code == 2
        assert told(capsys).startswith(
            "metarun: bench --against HEAD: metarun is not run from a git checkout, but from "
        )
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        with pytest.raises(SystemExit):
            against(checkout, "HEAD", [], 6)
    assert told(capsys).startswith("metarun: bench --against HEAD: git is not installed")


def test_another_metarun_in_its_place_is_noticed(checkout, capsys):
    with pytest.raises(SystemExit):
        against(checkout, "HEAD~1", [], 6, lambda *_: found(1.0, commit={"id": "f" * 40, "changed": False}))
    assert "Python imports another metarun (ffffffff) in its place" in told(capsys)


@pytest.mark.parametrize("printed", ["", "no json", "{}", '{"meta_steps_per_s": null}'])
def test_a_commit_that_prints_something_else_is_refused(tmp_path, printed):
    (tmp_path / "metarun").mkdir()
    (tmp_path / "metarun" / "__init__.py").touch()
    (tmp_path / "metarun" / "__main__.py").write_text(f"print({printed!r})")
    with pytest.raises(command.Refused, match="prints no line of JSON"):
        bench_of(tmp_path, [])


def test_nothing_is_left_of_one_that_is_interrupted(checkout, capsys):
    def interrupted(tree: Path, settings: list[str]) -> dict:
        if tree != checkout:
            raise KeyboardInterrupt
        return found(1.0)

    with pytest.raises(KeyboardInterrupt):
        against(checkout, "HEAD~1", [], 6, interrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nor_of_one_that_a_signal_ends_while_it_measures(checkout, tmp_path, number):
    code = f"""
import sys, tempfile
from pathlib import Path
tempfile.tempdir = {str(tmp_path / "tmp")!r}
from metarun.command import against, main
import metarun
metarun.__file__ = {str(checkout / "metarun" / "__init__.py")!r}
sys.argv = ["metarun", "bench", "--against", "HEAD~1", "hang"]
main.main()
"""
    root = str(Path(command.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "calls").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "metarun: stopped\n")
