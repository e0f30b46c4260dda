"""A run from Python: what the command line would make, in a process that goes on after it."""

import asyncio
import datetime
import json
import logging
import math
import os
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir, version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from support import complete, run_in

import metarun
from metarun import engine
from metarun.command.from_python import run_of
from metarun.config import written
from metarun.config.aside import OF_A_PROGRAM
from metarun.run import display, results
from metarun.run import train as run_train
from metarun.run.begin import tracked
from metarun.run.train import raising_on_interrupt
from metarun.sweep import record

QUICK = {
    "task": "sinusoid",
    "logger": "none",
    "model": {"hidden": [8]},
    "train": {"steps": 4, "meta_batch": 4},
    "eval": {"episodes": 8, "val_episodes": 8},
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_the_run_of_the_command_line_also_where_an_event_loop_runs(here, monkeypatch):
    made_with = results.made_with
    monkeypatch.setattr(results, "made_with", lambda *of: {**made_with(*of), "odd": [math.nan, 1.0]})

    async def notebook():
        return metarun.train(["learner=maml"], **QUICK)

    found = asyncio.run(notebook())
    directory = Path(found.pop("run_dir"))
    assert not directory.is_absolute()
    assert directory.parent == Path("runs/sinusoid-maml")
    assert found == json.loads((directory / "results.json").read_text())
    assert found["odd"] == [None, 1.0]
    assert found["training"]["command"] == (
        "metarun learner=maml task=sinusoid logger=none 'model.hidden=[8]' train.steps=4 train.meta_batch=4 "
        "eval.episodes=8 eval.val_episodes=8"
    )
    assert found["test"] == run_train.train(run_in(here / "other", "learner=maml", "train.steps=4"))["test"]
    kept = np.load(directory / "examples.npz")
    adapted = metarun.load(directory).adapt(kept["support_x"][0], kept["support_y"][0])
    np.testing.assert_allclose(adapted.predict(kept["query_x"][0]), kept["outputs"][0], rtol=1e-5, atol=1e-5)


def test_a_file_that_has_changed_since_the_last_call_is_read_again(here, monkeypatch):
    """Whatever is in it now: programs are kept for runs that are alike, and these are of one path."""
    read = []

    def note(run, _):
        net = engine.nets(run.shape)[0]
        read.append((run.tasks.load("train").x.max(), net.n_classes, net.classification, net.n_out))
        return {}

    monkeypatch.setattr(run_train, "train", note)
    monkeypatch.setattr(results, "tell", lambda *_: None)
    row = np.arange(480)
    of_classes, of_groups = {"y": row // 8}, {"y": np.ones((480, 2), np.float32), "group": row // 8}
    for number, own in enumerate([of_classes, {"y": row // 16}, of_groups, {**of_groups, "y": np.ones((480, 3))}]):
        np.savez("own.npz", x=np.full((480, 2), number, np.float32), **own)
        metarun.train(
            task={"path": "own.npz"}, overrides=["task=arrays", "learner=cnp", "logger=none", "task.queries=2"]
        )
    assert read == [(0, 36, True, 5), (1, 18, True, 5), (2, None, False, 2), (3, None, False, 3)]


def test_what_a_run_sets_of_the_process_is_the_callers_again(here, monkeypatch):
    def stopped(*_):
        jax.config.update("jax_default_matmul_precision", "high")
        os.environ.setdefault("WANDB_SILENT", "true")
        raise run_train.Interrupted("stopped")

    monkeypatch.setattr(run_train, "train", stopped)
    before = jax.config.values["jax_default_matmul_precision"]
    for silent in (None, "false"):
        monkeypatch.delenv("WANDB_SILENT", raising=False)
        if silent is not None:
            monkeypatch.setenv("WANDB_SILENT", silent)
        with pytest.raises(metarun.Interrupted):
            metarun.train(["learner=maml", "task=sinusoid", "logger=none"])
        assert os.environ.get("WANDB_SILENT") == silent
        assert jax.config.values["jax_default_matmul_precision"] == before


def test_called_again_it_makes_another_run_or_goes_on_also_in_a_thread(here):
    whole = metarun.train(["learner=maml", "train.steps=6"], **{**QUICK, "train": {"meta_batch": 4}})
    first = metarun.train(["learner=maml"], **QUICK)
    assert first["run_dir"] != whole["run_dir"]
    longer = []
    thread = threading.Thread(
        target=lambda: longer.append(metarun.train([f"run.dir={first['run_dir']}"], train={"steps": 6}))
    )
    thread.start()
    thread.join()
    assert longer[0]["run_dir"] == first["run_dir"]
    assert longer[0]["test"] == whole["test"]
    assert metarun.train([f"run.dir={first['run_dir']}"])["test"] == whole["test"]
    assert logging.getLogger("metarun").handlers == []


def test_in_a_program_that_uses_hydra_itself_all_is_left_as_it_was(here, monkeypatch):
    """Whether it composes a run, or says of a mistake what was meant: not from where the program composes."""

    def state():
        hydra, job, stored = GlobalHydra.instance().hydra, HydraConfig.instance(), ConfigStore.instance().repo
        return hydra, job, job.cfg, JobRuntime.instance().get("name"), version.getbase(), stored["config.yaml"]

    # Without those at hand: the copy would share them, and they would be set up for all tests after this one.
    others = {kind: one for kind, one in Singleton._instances.items() if kind not in OF_A_PROGRAM}
    monkeypatch.setattr(Singleton, "_instances", others)
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    ConfigStore.instance().store(name="config", node={"defaults": ["theirs"]})
    with initialize_config_dir(str(here), job_name="mine", version_base="1.2"):
        HydraConfig.instance().set_config(compose(return_hydra_config=True))
        before = state()
        run = run_of(["learner=maml", "task=sinusoid", "eval.tasks={sinusoid: {}}"])
        assert run.settings == ("learner=maml", "task=sinusoid", "eval.tasks={sinusoid: {}}")
        assert [type(tasks) for tasks in run.domains.values()] == [type(run.tasks)]
        with pytest.raises(metarun.ConfigError, match=r"did you mean train\.seed"):
            run_of(["learner=maml", "seed=3"])
        assert all(now is then for now, then in zip(state(), before, strict=True))


def test_hydra_is_not_set_up_where_it_was_not(here):
    before = HydraConfig.instance().cfg
    with pytest.raises(metarun.ConfigError):
        metarun.train(["learner=maml", "task.ways=0"])
    assert HydraConfig.instance().cfg is before
    assert not GlobalHydra.instance().is_initialized()


def test_its_trackers_are_told_the_settings_that_it_was_given(here, monkeypatch):
    """Whatever command Hydra runs in this process: its own settings are none of the run's."""
    monkeypatch.setattr(display, "of_this_job", lambda: (("mine=3",), None))
    of = tracked(run_of(["learner=maml", "task=sinusoid", "++train.steps=3", "run.name=mine"]), "metarun", 0)
    assert of.settings == ("learner=maml", "task=sinusoid", "train.steps=3", "run.name=mine")
    assert (of.sweep, of.name) == (None, "mine")


@pytest.mark.parametrize(
    ("overrides", "sections", "said"),
    [
        (["learner=mmal"], {}, "learner=mmal: no such choice; did you mean maml?"),
        ([], {"train": {"stes": 3}}, "train.stes=3: no such key; did you mean steps?"),
        ([], {"task": {"ways": 0}}, "task.ways=0: must be an integer >= 2"),
        ([], {"seed": 3}, "seed=3: no such key; did you mean train.seed"),
        (["model=conv4", "task=sinusoid"], {}, "model=conv4: takes images"),
        (["train.seed=0,1"], {}, "train.seed=0,1: several values are several runs"),
        (["run.dir=TYPO"], {}, "run.dir=TYPO: holds no run to go on with"),
        (["task=sinusoid", "logger=none"], {"train": {"init_from": "nowhere"}}, "train.init_from=nowhere: "),
        (["trian"], {}, "trian=: cannot be read as group=choice or key=value"),
        ([], {"run": {"dir": ""}}, 'run.dir="": names no directory; left out, a new one is made in runs/'),
        ([], {"run": {"dir": [1]}}, "run.dir=[1]: names no directory"),
        ([], {"run": None}, "run.dir=None: names no directory"),
        ([], {"learner": None}, "learner=null: choose one; allowed: anil"),
        (["task=sinusoid", 5], {}, "overrides=5: must be text, as on the command line"),
        (["a" * 201 + "=1"], {}, f"{'a' * 40}...="),
        (["hydra.searchpath=5"], {}, "overrides=(these): hydra.searchpath must be a list"),
        ("learner=maml", {}, r"overrides=learner=maml: must be a list: ['learner=maml']"),
    ],
    ids=str,
)
def test_a_mistake_is_raised_in_one_line_and_leaves_nothing(here, overrides, sections, said):
    with pytest.raises(metarun.ConfigError) as told:
        metarun.train(overrides, **sections)
    assert str(told.value).startswith(said)
    assert "\n" not in str(told.value)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "why"),
    [("file", "File exists"), ("file/sub", "Not a directory"), ("x" * 300, "File name too long")],
    ids=["file", "below", "long"],
)
def test_where_there_can_be_no_directory_that_is_one_line(here, place, why):
    (here / "file").write_text("mine")
    with pytest.raises(metarun.ConfigError) as told:
        metarun.train(["task=sinusoid", "logger=none"], run={"dir": place})
    assert str(told.value) == f"run.dir={place}: cannot be made ({why}); name another"
    assert [file.read_text() for file in here.iterdir()] == ["mine"]


@pytest.mark.parametrize(("together", "command"), [(False, "metarun -m run.dir=S"), (True, "metarun run.dir=S")])
def test_a_directory_of_many_runs_is_gone_on_with_by_its_own_command(here, together, command):
    (here / "S").mkdir()
    for name in [record.COMMAND, *([record.TOGETHER] if together else [])]:
        (here / "S" / name).touch()
    with pytest.raises(metarun.ConfigError, match=f"holds a sweep; go on with it by {command}, or"):
        metarun.train(["run.dir=S"])


def test_checkpoints_whose_configuration_is_gone_are_left_as_they_are(here):
    (here / "old" / "checkpoints" / "last" / "20").mkdir(parents=True)
    with pytest.raises(metarun.ConfigError, match=r"^run\.dir=.*old: has checkpoints, and the config\.yaml that tells"):
        metarun.train(["task=sinusoid", "logger=none", "run.dir=old"])
    assert not (here / "old" / "config.yaml").exists()


def test_damaged_data_are_told_of_and_nothing_is_written(here):
    (here / "mine.npz").write_bytes(b"no arrays")
    with pytest.raises(metarun.DataError, match=r"mine\.npz"):
        metarun.train(["task=arrays", "learner=protonet", "logger=none"], task={"path": "mine.npz"})
    assert [path.name for path in here.iterdir()] == ["mine.npz"]


def test_ctrl_c_saves_and_says_how_to_go_on(here):
    def interrupt():
        deadline = time.monotonic() + 60
        while not (here / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(metarun.Interrupted) as told:
        metarun.train(["learner=maml", "run.dir=run"], **QUICK | {"train": {"steps": 10**7, "meta_batch": 4}})
    thread.join()
    newest = max(int(path.name) for path in complete(here / "run"))
    assert str(told.value) == (
        f"stopped and saved at meta-step {newest} of 10000000; go on with: metarun run.dir=run, "
        'or metarun.train(["run.dir=run"])'
    )
    assert metarun.load("run", "last").used == {"state": "last", "step": newest}
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_stops_at_once_where_nothing_is_unsaved_and_when_it_comes_again():
    with (
        pytest.raises(metarun.Interrupted, match="nothing was left to save; go on with: the same command"),
        raising_on_interrupt(None),
    ):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), raising_on_interrupt(None) as stop:  # noqa: PT012
        stop.unsaved = True
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        signal.raise_signal(signal.SIGINT)


def test_runs_of_the_same_second_have_directories_of_their_own(here):
    now = datetime.datetime.now()
    for second in range(60):
        for own in ("", "-2"):
            name = f"{now + datetime.timedelta(seconds=second):%Y-%m-%d_%H-%M-%S}{own}"
            (here / "runs" / "sinusoid-maml" / name).mkdir(parents=True)
            (here / "runs" / "sinusoid-maml" / name / ".lock").touch()  # as in the directory of every run
    assert run_of(["learner=maml", "task=sinusoid"]).info.dir.endswith("-3")
    with pytest.raises(metarun.ConfigError):
        run_of(["learner=maml", "task=sinusoid", "train.steps=-1"])
    assert len(list((here / "runs" / "sinusoid-maml").glob("*-3"))) == 1
    assert not list((here / "runs" / "sinusoid-maml").glob("*-4"))
    for setting in ("run.dir=mine", "run.dir=mine", "hydra.run.dir=mine"):
        assert run_of(["learner=maml", "task=sinusoid", setting]).info.dir == "mine"
        (here / "mine").mkdir(exist_ok=True)
        (here / "mine" / ".lock").touch()


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 3, -2, 0.1, 1e-05, math.inf, "maml", "null", "True", "12", "", "a b", 'say "so"', "it's",
        "C:\\new\\", 'back\\"slash', "a,b", "[1]", "{a:1}", "x=1", "/tmp/some/place", "~/data", "ä ö", [1, 2.5, None],
        ["a", "b c"], [], {},
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_is_written_as_hydra_reads_it(value):
    [setting] = written({"section": {"key": value}})
    [override] = OverridesParser.create().parse_overrides([setting])
    assert override.key_or_group == "section.key"
    assert override.value() == value
    assert type(override.value()) is type(value)


def test_sections_are_written_key_by_key():
    sections = {
        "learner": "maml",
        "train": {"steps": np.int64(3), "task": {"ways": 20}},
        "eval": {"tasks": {"omniglot": {}}, "inner_steps": (0, 1)},
        "data_dir": Path("/data"),
        "optimizer": {"learning_rate": np.float32(0.5), "b": jax.numpy.arange(2)},
    }
    assert written(sections) == [
        "learner=maml", "train.steps=3", "train.task.ways=20", "eval.tasks.omniglot={}", "eval.inner_steps=[0,1]",
        "data_dir=/data", "optimizer.learning_rate=0.5", "optimizer.b=[0,1]",
    ]  # fmt: skip
    with pytest.raises(TypeError, match=r"task.ways=<object .*: must be a number, a string"):
        written({"task": {"ways": object()}})
