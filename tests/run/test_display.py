"""What a run is called among many: what differs, and the seed. Real W&B files are looked at in test_cli."""

from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from support import composed

from metarun.core import InSweep, Tracked
from metarun.run import display
from metarun.run.display import Display, in_a_list


def test_a_name_tells_what_differs_and_the_seed():
    assert in_a_list("omniglot-maml", [], 3) == "omniglot-maml train.seed=3"
    words = ["task=omniglot", "learner=maml", "learner.inner_lr=0.1", "train.seed=3", "run.dir=x", "logger=none"]
    assert in_a_list("omniglot-maml", words, 3) == "omniglot-maml learner.inner_lr=0.1 train.seed=3"
    long = in_a_list("omniglot-maml", [f"model.hidden={[64] * 40}"], 3)
    assert len(long) == display.MOST
    assert long.endswith("... train.seed=3")


CONFIG = composed("train.seed=1")
SWEEP = InSweep("runs/lr", ("learner=maml,anil", "train.steps=9", "train.seed=0,1"))


def of(directory, name, settings=(), sweep=None):
    return Tracked(directory, CONFIG, name, (), "accuracy", "metarun", 0, tuple(settings), sweep)


@pytest.mark.parametrize(
    ("overrides", "sweep", "expected"),
    [
        ([], None, Display("strokes-maml train.seed=1", None)),
        (["train.steps=9"], None, Display("strokes-maml train.steps=9 train.seed=1", None)),
        (["learner=maml", "train.steps=9", "train.seed=1"], SWEEP, Display("strokes-maml train.seed=1", "runs/lr")),
        (["train.steps=9", "model.norm=none"], SWEEP, Display("strokes-maml model.norm=none train.seed=1", "runs/lr")),
        (["run.name=strokes-maml", "train.seed=1"], SWEEP, Display("strokes-maml", "runs/lr")),
    ],
)
def test_a_job_of_a_sweep_names_what_the_sweep_varies_and_a_typed_name_wins(tmp_path, overrides, sweep, expected):
    file = tmp_path / "display.json"
    assert display.kept(file, of(tmp_path, "strokes-maml", overrides, sweep), begun=False) == expected
    assert display.kept(file, of(tmp_path, "strokes-maml"), begun=True) == expected  # gone on with by run.dir alone
    renamed = of(tmp_path, "other", ["run.name=other"])
    assert display.kept(file, renamed, begun=True) == Display("other", expected.group)


def test_a_run_that_an_earlier_version_began_keeps_its_name(tmp_path):
    begun = of(tmp_path, "strokes-maml", ["train.steps=9"])
    assert display.kept(tmp_path / "display.json", begun, begun=True) == Display("strokes-maml", None)


@pytest.mark.parametrize("mode", [RunMode.MULTIRUN, RunMode.RUN])
def test_a_job_knows_its_sweep_in_a_process_of_its_own_too(tmp_path, monkeypatch, mode):
    (tmp_path / "S").mkdir()
    (tmp_path / "S" / "multirun.yaml").write_text("hydra: {overrides: {task: ['learner=maml', 'train.seed=0,1']}}")
    hydra = SimpleNamespace(
        overrides=SimpleNamespace(task=["learner=maml", "+train.seed=1"]),
        mode=mode,
        sweep=SimpleNamespace(dir=f"{tmp_path}/S" if mode is RunMode.MULTIRUN else "runs/multirun/now"),
        run=SimpleNamespace(dir=f"{tmp_path}/S/1" if mode is RunMode.RUN else "runs/now"),
    )
    monkeypatch.setattr(display.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(display.HydraConfig, "get", lambda: hydra)
    sweep = InSweep(f"{tmp_path}/S", ("learner=maml", "train.seed=0,1"))
    assert display.of_this_job() == (("learner=maml", "train.seed=1"), sweep)
    hydra.run.dir, hydra.mode = f"{tmp_path}/alone/1", RunMode.RUN
    assert display.of_this_job() == (("learner=maml", "train.seed=1"), None)


def test_without_hydra_there_are_no_overrides(monkeypatch):
    monkeypatch.setattr(display.HydraConfig.instance(), "cfg", None)  # that of a command in another test
    assert display.of_this_job() == ((), None)


def test_the_group_that_a_user_sets_wins(tmp_path, monkeypatch):
    import wandb

    from metarun.run.to_wandb import Wandb

    asked = []

    def init(**settings):
        asked.append(settings)
        nothing = {name: lambda *_, **__: None for name in ("log", "define_metric", "finish")}
        return SimpleNamespace(id=settings["id"], dir=str(tmp_path), summary={}, **nothing)

    monkeypatch.setattr(wandb, "init", init)
    for group in (None, "mine"):
        Wandb("metarun", None, group, "offline").open(of(tmp_path, "strokes-maml", (), SWEEP)).close({})
    assert [settings["group"] for settings in asked] == ["runs/lr", "mine"]
    assert {settings["name"] for settings in asked} == {"strokes-maml train.seed=1"}
