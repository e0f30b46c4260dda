"""Runs in one program leave a sweep's directory, and go on by it. Training itself: tests/run/test_population.py."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from metarun.command.train import many
from metarun.config import conf_dir, translate
from metarun.core import ConfigError
from metarun.run import train_together
from metarun.run.begin import tracked
from metarun.run.stop import Interrupted
from metarun.run.train_together import is_finished
from metarun.sweep import are_together, record, together

SETTINGS = ("task=sinusoid", "learner=maml", "logger=none", "train.steps=100")


@contextmanager
def asked(*settings: str):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=["run.name=NAME", *translate(list(settings))], return_hydra_config=True)
    HydraConfig.instance().cfg = None
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    yield cfg
    HydraConfig.instance().cfg = None


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """Stands for training: the seeds that it was asked to train; those over 10 fail."""
    seeds: list[int] = []

    def stand_in(runs, directory, stopping, begun):
        failed, left = {}, [run for run in runs if not is_finished(run)]
        for run in runs:
            place = Path(run.info.dir)
            place.mkdir(parents=True, exist_ok=True)
            (place / "config.yaml").write_text(yaml.safe_dump(run.config))
        begun()
        for number, run in enumerate(runs):
            if run not in left:
                continue
            seeds.append(run.train.seed)
            if run.train.seed > 10:
                failed[number] = "not finite"
                continue
            figures = {"mse": {"mean": float(run.train.seed), "ci95": 0.5}}
            found = {"protocol": {"split": "test", "metric": "mse"}, "test": figures}
            (Path(run.info.dir) / "results.json").write_text(json.dumps(found))
        return failed

    monkeypatch.setattr(train_together, "train", stand_in)
    return seeds


def made(directory: Path, *settings: str):
    with asked(*settings, f"run.dir={directory}") as cfg:
        return together.train(cfg, directory)[0]


def test_results_have_mean_interval_and_spread(tmp_path, trained):
    sweep = made(tmp_path, *SETTINGS, "train.seeds=[1,3,8]")
    assert trained == [1, 3, 8]
    assert [job.stand for job in sweep.jobs] == ["finished"] * 3
    (one,) = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert one["mse"] == {"mean": 4.0, "ci95": 0.5, "std_over_seeds": pytest.approx(3.6055512)}
    assert are_together(tmp_path)
    assert sweep.settings == ("run.name=NAME", *SETTINGS, "train.seed=1,3,8")
    assert sweep.own(sweep.jobs[2]) == "train.seed=8"


def test_a_runs_trackers_are_told_of_which_sweep_it_is_and_what_sets_it_apart(tmp_path, trained, monkeypatch):
    told, stand_in = [], train_together.train

    def hearing(runs, *rest):
        told[:] = [tracked(run, "metarun", 0) for run in runs]
        return stand_in(runs, *rest)

    monkeypatch.setattr(train_together, "train", hearing)
    begins = (*SETTINGS, "train.population=learner.inner_lr=0.1,0.2", "train.seeds=[3]")
    for settings in (begins, ()):  # then it goes on
        made(tmp_path, *settings)
        assert {of.sweep.directory for of in told} == {str(tmp_path)}
        own = [[one for one in of.settings if one not in of.sweep.common] for of in told]
        assert own == [["learner.inner_lr=0.1"], ["learner.inner_lr=0.2"]]
        assert {"task=sinusoid", "train.seed=3"} <= {*told[0].sweep.common}


def test_what_metarun_m_is_given_for_several_loggers_is_what_hydra_reads():
    loggers = ("~logger", "+logger@logger.none=none", "+logger@logger.wandb=wandb")
    assert together.axes([("a=1", *loggers), ("a=2", *loggers)]) == ("a=1,2", *loggers)


def test_the_directory_alone_goes_on_and_what_failed_is_tried_again(tmp_path, trained):
    sweep = made(tmp_path, *SETTINGS, "train.seeds=[1,11]")
    assert [job.stand for job in sweep.jobs] == ["finished", "failed"]
    assert sweep.jobs[1].end["failed"] == "not finite"
    made(tmp_path)
    assert trained == [1, 11, 11]
    made(tmp_path, "logger=[none,tensorboard]")
    assert trained == [1, 11, 11, 11]
    made(tmp_path, "train.steps=200")
    assert trained == [1, 11, 11, 11, 1, 11]
    config = yaml.safe_load((tmp_path / "1" / "config.yaml").read_text())
    assert (config["train"]["seed"], config["train"]["steps"]) == (11, 200)


def test_made_longer_the_record_has_the_settings_that_its_runs_have_by_now(tmp_path, trained):
    before = made(tmp_path, *SETTINGS, "train.seeds=[1,11]")
    made(tmp_path, "run.max_minutes=5")
    assert record.read(tmp_path).jobs[0] == before.jobs[0]  # what changes no result is not of the record
    made(tmp_path, "train.steps=200", "eval.episodes=7")
    after = record.read(tmp_path)
    now = (*SETTINGS[:-1], "train.steps=200")
    assert after.settings == ("run.name=NAME", *now, "train.seed=1,11", "eval.episodes=7")
    assert after.jobs[1].settings == ("run.name=NAME", *now, "train.seed=11", "eval.episodes=7")
    assert [job.end.get("failed") for job in after.jobs] == [None, "not finite"]
    assert after.jobs[0].end == before.jobs[0].end  # how it ended stays known


def test_what_all_came_to_steps_aside_once_a_member_has_to_come_to_something_else(tmp_path, trained, monkeypatch):
    made(tmp_path, *SETTINGS, "train.population=learner.inner_lr=0.1,0.2", "train.seeds=[1,11]")
    before = (tmp_path / "results.json").read_text()

    def stopped(runs, directory, stopping, begun):
        if runs[0].train.steps == 200:
            (directory / "0" / "results.json").unlink()  # as run.begin has set it aside
        begun()
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(train_together, "train", stopped)
        with pytest.raises(Interrupted):
            made(tmp_path)  # the one that failed, once more
        assert (tmp_path / "results.json").read_text() == before
        with pytest.raises(Interrupted):
            made(tmp_path, "train.steps=200")
        assert not (tmp_path / "results.json").exists()
        assert (tmp_path / "results-1.json").read_text() == before
    made(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["settings"][0]["jobs"] == [0]


def test_what_all_came_to_steps_aside_where_a_member_came_to_something_else_by_itself(tmp_path, trained):
    made(tmp_path, *SETTINGS, "train.seeds=[1,3]")
    file, aside = tmp_path / "results.json", tmp_path / "results-1.json"
    before = file.read_text()
    made(tmp_path)
    assert file.read_text() == before
    own = tmp_path / "1/results.json"
    own.write_text(own.read_text().replace("3.0", "5.0"))
    for _ in range(2):
        made(tmp_path)
        assert aside.read_text() == before
        (one,) = json.loads(file.read_text())["settings"]
        assert one["mse"]["mean"] == 3.0
    assert trained == [1, 3]
    assert not (tmp_path / "results-2.json").exists()


def test_one_that_failed_counts_as_failed_whatever_it_has_written(tmp_path, monkeypatch, capsys):
    """A last state that the disk did not take: the results are there all the same."""

    def full(runs, directory, stopping, begun):
        for run in runs:
            place = Path(run.info.dir)
            place.mkdir(parents=True)
            (place / "config.yaml").write_text(yaml.safe_dump(run.config))
            (place / "results.json").write_text('{"protocol": {"split": "test", "metric": "mse"}, "test": {}}')
        begun()
        return {1: "the last state cannot be saved"}

    monkeypatch.setattr(train_together, "train", full)
    with asked(*SETTINGS, "train.seeds=3", f"run.dir={tmp_path}") as cfg, pytest.raises(SystemExit) as ended:
        many(cfg, tmp_path)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "metarun: 1 of 3 runs failed: the last state cannot be saved\n"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([*SETTINGS, "train.seeds=[1,2,3]"], r"^train\.seeds=\[1, 2, 3\]: .* holds 2 runs together, not 3"),
        ([*SETTINGS, "train.seeds=[1,4]"], r"holds a run with another train\.seed \(2 there\)"),
        ([*SETTINGS, "train.seeds=[1,2]", "task.shots=7"], r"holds a run with another task\.shots \(10 there\)"),
        (["learner.inner_lr=0.3"], r"holds a run with another learner\.inner_lr"),
    ],
)
def test_other_runs_than_those_that_are_there_are_refused(tmp_path, trained, settings, says):
    made(tmp_path, *SETTINGS, "train.seeds=[1,2]")
    with pytest.raises(ConfigError, match=says):
        made(tmp_path, *settings)
    assert trained == [1, 2]


@pytest.mark.parametrize(("file", "what"), [("config.yaml", "a run"), (record.COMMAND, "a sweep")])
def test_a_directory_of_something_else_is_refused(tmp_path, file, what):
    (tmp_path / file).write_text("{}")
    with pytest.raises(ConfigError, match=f"holds {what}; for several runs in one program name another one"):
        made(tmp_path, *SETTINGS, "train.seeds=2")
