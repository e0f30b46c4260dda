"""A newcomer's mistakes: each ends in one line that says what is wrong and what to do, and leaves nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import start

from metarun import engine
from metarun.command import main
from metarun.run import status
from metarun.tasks import bandits


def told(capfd, monkeypatch, *arguments: str, code: int = 2) -> str:
    """What a command that is a mistake prints, before any device: one line on standard error, and nothing else."""
    monkeypatch.setattr(engine.Hardware, "set_up", lambda *_: pytest.fail("a device was touched"))
    monkeypatch.setattr(status, "TICK", 3600)  # what takes longer than two seconds, on a busy machine, is told of
    monkeypatch.setattr(sys, "argv", ["metarun", *arguments])
    with pytest.raises(SystemExit) as end:
        main.command()
    out, err = capfd.readouterr()
    assert end.value.code == code, err
    assert out == ""
    assert err.startswith("metarun: ")
    assert err.count("\n") == 1
    return err.removeprefix("metarun: ")


MISTAKES = [
    # nothing to run
    (["-m"], "-m: wants a setting with several values: metarun -m"),
    (["-m", "run.dir=SWEEP"], "run.dir=SWEEP: no such directory; name a sweep's directory"),
    (["--package", "learner"], "--package: says nothing of what to run"),
    (["run.dir=TYPO", "logger=none", "hardware.devices=1"], "run.dir=TYPO: holds no run to go on with"),
    (["run.dir=TYPO", "eval.shots=[1,5]"], "run.dir=TYPO: holds no run to go on with"),
    (["run.dir=TYPO", "train.steps=6000", "train.save_every=100"], "run.dir=TYPO: holds no run to go on with"),
    # a job of a sweep has a directory, and may have no setting but these: it is not refused for that
    (["run.dir=JOB", "hydra.job.num=0", "train.steps=1", "eval.tasks={x:{task:omniglot,data_dir:/nowhere}}"],
     "data_dir=/nowhere: no such folder"),
    (["run.dir="], "run.dir=: names no directory; left out"),
    (["run.dir=null"], "run.dir=null: names no directory; left out"),
    (["++run.dir=''"], "++run.dir='': names no directory; left out"),
    (["learner=maml", "=1"], "=1: names nothing; a setting is group=choice or key=value"),
    (["learner=maml", "a" * 201 + "=1"], f"{'a' * 40}...: no such key; it has 201 letters"),
    # words
    (["maml"], "maml: no such command; a setting has an equals sign, and no spaces: metarun learner=maml"),
    (["learner"], "learner: no such command; a setting has an equals sign, and no spaces: metarun learner="),
    (["train"], "train: no such command, and none is needed to train: metarun learner="),
    (["learner=maml", "bench"], "bench: a command comes first: metarun bench learner=maml"),
    (["learner=maml", "."], ".: a setting has an equals sign; to go on with a run: metarun run.dir=."),
    # options
    (["--seed", "1"], "--seed: no such option; a setting has an equals sign and no dashes: train.seed=1 or"),
    (["--learner=maml"], "--learner: no such option; a setting has an equals sign and no dashes: learner=maml"),
    (["--colour", "red"], "--colour: no such option; a setting has an equals sign and no dashes: KEY=red"),
    (["--config-dri=x"], "--config-dri: no such option; did you mean --config-dir?"),
    (["--cfg", "jbo"], "--cfg/-c: invalid choice: 'jbo'"),
    # keys
    (["learner.inner.lr=1"], "learner.inner.lr: no such key; did you mean inner_lr?"),
    (["seed=1"], "seed: no such key; did you mean train.seed or eval.seed?"),
    (["train.ways=1"], "train.ways: no such key; did you mean task.ways?"),
    (["train=3", "task=sinusoid"], "train=3: is a group of settings; give its keys one by one: train.KEY=VALUE"),
    # values
    (["train.seed=0,banana"], "train.seed=0,banana: several values are several runs, which metarun -m makes; a list"),
    (["train.seed=range(3)"], "train.seed=range(3): several values are several runs, which metarun -m makes\n"),
    (["experiment=demo,maml"], "experiment=demo,maml: several values are several runs, which metarun -m makes\n"),
    (["run.name=a(b"], "run.name=a(b: cannot be read as group=choice or key=value (no viable alternative at input "
     "'a(b'); a value with such signs wants quotes: 'run.name=\"a(b\"'"),
    (['run.name=a"b'], 'run.name=a"b: cannot be read as group=choice or key=value; a value with such signs wants'),
    (["run.name=it's"], "run.name=it's: cannot be read as group=choice or key=value; a value with such signs wants "
     "quotes: 'run.name=\"it'\"'\"'s\"'\n"),
    (["run.name=[x"], "run.name=[x: cannot be read as group=choice or key=value (no viable alternative at input '[x'); "
     "a list or group with spaces in it wants quotes around the whole: 'key=[1, 2]'; text with such signs, quotes of "
     "its own: 'run.name=\"[x\"'\n"),
    (["run.dir=${nosuch}"], "run.dir=${nosuch}: there is no key nosuch"),
    (["learner=maml,"], "learner=maml,: cannot be read as group=choice or key=value (mismatched input '<EOF>'); "
     "learner is one of anil, attention, "),
    (["runs/1"], "runs/1: cannot be read as group=choice or key=value; to go on with a run: metarun run.dir=runs/1"),
    (["+train.seed=1"], "+train.seed: is there already; without the plus it is set"),
    (["experiment=zzz"], "experiment=zzz: no such choice; allowed: anil_miniimagenet_5w1s, anil_miniimagenet_5w5s, "),
    (["experiment=null", "train.seed=x"], "train.seed=x: must be an integer"),
    (["eval.task={ways:", "20}"], "eval.task={ways:: cannot be read as group=choice or key=value"),
    (["eval.task=omniglot"], "eval.task=omniglot: must be a group of settings\n"),
    (["eval.task={wais: 20}"], "eval.task.wais=20: no such key; did you mean ways?"),
    (["data_dir=/no/such/folder", "task=omniglot"], "data_dir=/no/such/folder: no such folder"),
    (["data_dir=/no/such/folder", "task=miniimagenet"], "data_dir=/no/such/folder: no such folder"),
    (["data", "omniglot", "data_dir=/no/such/folder"], "data_dir=/no/such/folder: no such folder"),
    (["data"], "data: names no task; name one: metarun data omniglot; there are arrays, "),
    (["data", "mnist"], "task=mnist: no such choice; did you mean"),
    (["data", "task=folder"], "task.path=(nothing): needs a value"),
    (["data", "folder", "task.path=nothere"], "task.path=nothere: no such folder, zip or tar"),
    (["data", "folder", "task.image.sde=3", "task.path=."], "task.image.sde: no such key; did you mean side?"),
    (["data", "omniglot", "--out", "no/e.png"], "data --out no/e.png: cannot be written (make the directory first)"),
    (["data", "omniglot", "--out=."], "data --out .: is there already; name another file, or move it away"),
    (["data", "omniglot", "--seed", "1"], "data --seed: no such option; allowed: --out FILE"),
    (["data", "omniglot", "task=strokes"], "data: names 2 tasks, omniglot, strokes"),
    (["learner=protonet", "eval.tasks.omniglt={}"], "eval.tasks.omniglt.task=omniglt: no such task; did you mean omni"),
    (["eval.tasks={a b: {}}", "learner=protonet"], "eval.tasks=a b: names a domain; a name has letters"),
    # Hydra's own groups
    (["-m", "train.seed=0,1", "hydra/sweeper=optun"], "hydra/sweeper=optun: no such choice; did you mean optuna?"),
    (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: is of a sweep, which metarun -m makes"),
    (["sweep.jobs=2"], "sweep.jobs=2: is of a sweep, which metarun -m makes"),
    # commands
    (["bench", "--steps", "0"], "bench --steps: no such option; allowed: --against COMMIT, --rounds N, --trace DIR"),
    (["bench", "-m", "learner=maml"], "bench -m: bench takes one run"),
    (["bench", "learner=maml,fomaml"], "learner=maml,fomaml: several values are several runs"),
    (["bench", "--trace"], "--trace: names no directory"),
    (["bench", "--against"], "--against: names no commit"),
    (["bench", "--against", "HEAD", "--rounds="], "--rounds: names no number"),
    (["bench", "--against", "HEAD", "--rounds", "0"], "bench --rounds 0: must be a number from 1 to 1000"),
    (["bench", "--rounds", "3"], "bench --rounds 3: counts rounds of --against"),
    (["bench", "--against", "HEAD", "--trace", "d"], "bench --trace --against: one or the other"),
    (["bench", "--against", "nosuchcommit", "task=sinusoid"], "bench --against nosuchcommit: "),
    (["report", ".", "--out", "no/r.html"], "report --out no/r.html: cannot be written (make the directory first)"),
    (["report", ".", "--csv=."], "report --csv .: is a directory; name a file in it"),
    (["replay", "--task", "3"], "replay: takes one directory"),
    (["replay", "nothere"], "replay nothere: no such directory"),
    (["replay", "."], "replay .: holds no meta-step that was not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line(tmp_path, monkeypatch, capfd, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert told(capfd, monkeypatch, *arguments).startswith(says)
    assert list(tmp_path.iterdir()) == []


YAMLS = {  # content, what is said
    "broken": ("a: [1\nb: 2\n", "broken.yaml, line 2: is no yaml (expected ',' or ']'"),
    "task": ("_target_: blobs.Blobs\nways: 3\n", "learner._target_=blobs.Blobs: is no learner: it lacks adapt, init,"),
    "function": ("_target_: mylab.function\n", "learner._target_=mylab.function: is no learner: a dataclass is wanted"),
    "thawed": ("_target_: mylab.Thawed\ninner_lr: 1.0\n", "mylab.Thawed: is not frozen: write @dataclass(frozen=True)"),
    "elsewhere": (
        "_target_: nowhere.Mine\n",
        "no such class (No module named 'nowhere'); install nowhere, or set PYTHONPATH to the folder that it lies in",
    ),
    "needy": ("_target_: needy.Mine\n", "needy.Mine: its module cannot be imported (No module named 'jaxx')"),
    "broke": ("_target_: broke.Mine\n", "its module cannot be imported (invalid syntax (broke.py, line 1))"),
    "narrow": (
        "_target_: mylab.Narrow\ninner_lr: 1.0\n",
        "is no learner: its adapt must take (self, net, params, support, key): too many positional arguments",
    ),
    "latin": ("# \xe9\n", "a yaml file is no text in UTF-8"),
}  # fmt: skip
MYLAB = """
from dataclasses import dataclass
from metarun.learners.maml import MAML
def function(): pass
@dataclass
class Thawed:
    inner_lr: float
    check = width = init = adapt = predict = meta_grad = None
@dataclass(frozen=True)
class Narrow(MAML):
    def adapt(self, net, params, support): pass
"""


@pytest.mark.parametrize("name", YAMLS)
def test_a_yaml_of_ones_own_is_told_by_what_is_wrong_in_it(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("METARUN_ALLOW", "blobs,mylab,nowhere,needy,broke")
    (tmp_path / "mylab.py").write_text(MYLAB)
    (tmp_path / "needy.py").write_text("import jaxx\n")
    (tmp_path / "broke.py").write_text("class Mine!\n")
    (tmp_path / "mine" / "learner").mkdir(parents=True)
    content, says = YAMLS[name]
    (tmp_path / "mine" / "learner" / f"{name}.yaml").write_text(content, encoding="latin1")
    try:
        line = told(capfd, monkeypatch, "--config-dir=mine", f"learner={name}", "logger=none")
        assert says in line
        assert "no such choice; did you mean" in told(capfd, monkeypatch, "--config-dir=mine", f"learner={name}x")
        assert "is no directory" in told(capfd, monkeypatch, "--config-dir=mylab.py", "learner=maml")
    finally:
        sys.modules.pop("mylab", None)


FAULTY = """
from dataclasses import dataclass
from metarun.learners.maml import MAML
@dataclass(frozen=True)
class Faulty(MAML):
    def predict(self, net, fast, x):
        return fast["nothing"]
"""


def test_a_fault_in_ones_own_code_ends_with_a_line_that_says_where(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("METARUN_ALLOW", "faulty")
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = ("learner=maml", "learner._target_=faulty.Faulty", "task=sinusoid", "logger=none", "run.dir=run")
    monkeypatch.setattr(sys, "argv", ["metarun", *words])
    try:
        with pytest.raises(SystemExit) as end:
            main.command()
    finally:
        sys.modules.pop("faulty", None)
    *_, last = capfd.readouterr().err.splitlines()
    place = f"{tmp_path}/faulty.py, line 7, in predict"
    assert (end.value.code, last) == (1, f"metarun: KeyError in your own code, {place}: 'nothing'")


@pytest.mark.parametrize(
    ("group", "target", "lacks"),
    [
        ("learner", "metarun.tasks.strokes.Strokes", "adapt, init"),
        ("task", "metarun.learners.maml.MAML", "digest, load"),
        ("model", "metarun.learners.maml.MAML", "apply"),
        ("logger", "metarun.learners.maml.MAML", "open"),
        ("hardware", "metarun.run.loggers.NoLogger", "check, chunk"),
    ],
)
def test_a_class_of_another_kind_is_refused_by_what_it_lacks(monkeypatch, capfd, group, target, lacks):
    line = told(capfd, monkeypatch, f"{group}._target_={target}", "run.dir=RUN")
    assert line.startswith(f"{group}._target_={target}: is no {group}: it lacks {lacks}")


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_command_has_a_help_of_its_own(monkeypatch, capfd, verb):
    monkeypatch.setattr(sys, "argv", ["metarun", verb, "--help"])
    main.command()
    out = capfd.readouterr().out
    usage, *_, example = out.strip().splitlines()
    assert usage.split()[:2] == ["metarun", verb]
    assert example.startswith(f"  metarun {verb} ") or verb == "ready"  # which takes nothing


def test_the_help_of_a_command_imports_nothing_heavy():
    script = (
        "import sys; from metarun.command import main\n"
        "for verb in main.VERBS: sys.argv = ['metarun', verb, '--help']; main.command()\n"
        "print(sorted(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for heavy in ("'jax'", "'hydra'", "'wandb'", "'pydantic'", "'numpy'", "'matplotlib'"):
        assert heavy not in modules


@pytest.mark.parametrize("arguments", [[], ["help"]], ids=str)
def test_metarun_alone_prints_the_help(monkeypatch, capfd, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metarun", *arguments])
    main.command()
    assert capfd.readouterr().out == main.help_text() + "\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_laid_over_may_be_given_as_a_group(monkeypatch, capfd):
    given = ["train.task={ways: 7}", "eval.task={ways: 3}", "eval.task.queries=9", "eval.learner={inner_steps: 4}"]
    monkeypatch.setattr(sys, "argv", ["metarun", *given, "--cfg", "job"])
    main.command()
    out = capfd.readouterr().out
    assert "  task:\n    ways: 7\n" in out
    assert "  task:\n    ways: 3\n    queries: 9\n  learner:\n    inner_steps: 4\n" in out


def test_options_may_stand_between_settings(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["metarun", "learner=fomaml", "--cfg", "job", "train.steps=7"])
    main.command()
    out = capfd.readouterr().out
    assert "first_order: true" in out
    assert "steps: 7" in out


@pytest.mark.parametrize(
    "words",
    [[], ["eval"], ["report"], ["replay"], ["report", "runs", "--out"], ["adapt", "--support", "a", "--query", "b"]],
    ids=" ".join,
)
def test_a_name_that_no_file_can_have_is_one_line(tmp_path, monkeypatch, capfd, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metarun", *words, "x" * 300])
    with pytest.raises(SystemExit) as end:
        main.command()
    assert (end.value.code, capfd.readouterr().err) == (2, f"metarun: {'x' * 300}: no file can have so long a name\n")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["replay"], "closed/nonfinite/report.json cannot be read or written"),
        (["export", "--out", "o.zip"], "closed/learner.json cannot be read or written"),
        (["report"], "closed: cannot be read"),
    ],
    ids=["replay", "export", "report"],
)
def test_a_directory_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, capfd, words, what):
    """Whoever runs the tests may read all: what the system would say to others stands for it."""
    (tmp_path / "closed").mkdir()
    stat = Path.stat

    def refused(path: Path, **how: bool) -> os.stat_result:
        if path.parent.name in ("closed", "nonfinite"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "stat", refused)
    monkeypatch.setattr(sys, "argv", ["metarun", *words, "closed"])
    with pytest.raises(SystemExit) as end:
        main.command()
    assert (end.value.code, capfd.readouterr().err) == (2, f"metarun: {what} (Permission denied)\n")


@pytest.mark.parametrize("words", [["eval", "runs"], ["report", "runs"], ["learner=maml"], ["-m", "learner=maml"]])
def test_a_working_directory_that_is_gone_is_one_line(tmp_path, monkeypatch, capfd, words):
    monkeypatch.chdir(tmp_path)  # and back, in the end
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["metarun", *words])
    with pytest.raises(SystemExit) as end:
        main.command()
    said = "metarun: the directory that this command was given in is there no more; go to another: cd\n"
    assert (end.value.code, capfd.readouterr().err) == (2, said)


def test_a_reader_that_has_enough_is_no_mistake(tmp_path):
    process = start("--hydra-help", cwd=tmp_path)
    process.stdout.close()  # before the first line, as `| head -0` would
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_report_of_runs_that_cannot_be_read_says_so_and_fails(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        (tmp_path / "runs" / str(i) / "config.yaml").write_text("{")
    monkeypatch.setattr(sys, "argv", ["metarun", "report", "runs", "--markdown", "-"])
    with pytest.raises(SystemExit) as end:
        main.command()
    out, err = capfd.readouterr()
    assert end.value.code == 1
    assert out.startswith("|")
    assert err.startswith("metarun: report: 2 of 2 runs have a config.yaml that cannot be read: ")
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["runs"]


def test_an_environment_that_lacks_a_part_of_acting_is_told_which(tmp_path, monkeypatch, capfd):
    """Without it, it would be taken for a task whose examples are given, and end in jax's words."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("METARUN_ALLOW", "arms")
    whole = Path(bandits.__file__).read_text()
    lacking = whole.replace(" inner_loss,", "").replace(" acting.inner_loss,", "")
    assert "inner_loss" not in lacking
    (tmp_path / "arms.py").write_text(lacking)
    try:
        line = told(capfd, monkeypatch, "task=bandits", "learner=rl2", "task._target_=arms.Bandits", "run.dir=RUN")
        said = "task._target_=arms.Bandits: is no task that collects (metarun.acting has how): it lacks inner_loss"
        assert line.rstrip() == said
    finally:
        sys.modules.pop("arms", None)
