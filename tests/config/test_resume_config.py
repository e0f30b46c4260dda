"""What a command may change of a run that is there, and what is refused, by the keys that the command names."""

import json

import pytest
import yaml
from support import composed

from metarun.command.from_python import run_of
from metarun.config.domains import complete
from metarun.config.resume import resume
from metarun.config.run import build_run
from metarun.core import ConfigError
from metarun.run.to_wandb import Wandb


def begun(directory, *overrides: str, finished: bool = False) -> dict:
    """A run's directory with the configuration of these overrides."""
    stored = composed(*overrides)
    (directory / "config.yaml").write_text(yaml.safe_dump(stored))
    if finished:
        host = directory / "checkpoints" / "last" / str(stored["train"]["steps"]) / "host"
        host.mkdir(parents=True)
        (host / "metadata").write_text(json.dumps({"unvalidated": False}))
    return stored


def given(directory, *overrides: str) -> dict:
    """What a command with these overrides, all of them named, goes on with."""
    return resume(directory, composed(*overrides), [override.lstrip("+").split("=")[0] for override in overrides])


def test_a_command_without_a_learner_or_task_is_about_the_run_that_is_there(tmp_path):
    stored = begun(tmp_path, "task=sinusoid", "learner=fomaml", "train.steps=20")
    assert given(tmp_path) == stored
    assert given(tmp_path, "train.steps=20", "train.seed=0") == stored
    changed = given(tmp_path, "run.max_minutes=5", "logger=none", "hardware.devices=1")
    assert (changed["train"]["steps"], changed["run"]["max_minutes"], changed["hardware"]["devices"]) == (20, 5, 1)
    assert changed["logger"]["_target_"].endswith("NoLogger")
    assert changed["learner"] == stored["learner"]


def test_a_run_whose_data_were_moved_goes_on_with_them_where_they_are_now(tmp_path):
    """By data_dir alone, which stands in the task's settings and in those of what it is tested on besides."""
    on = "++eval.tasks={clinc150: {}, apart: {task: omniglot, data_dir: /apart}}"
    stored = complete(composed("task=omniglot", "train.steps=20", "data_dir=/before", on))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    again = given(tmp_path, "data_dir=/now")
    places = {name: one["data_dir"] for name, one in again["eval"]["tasks"].items()}
    assert (again["data_dir"], again["task"]["data_dir"]) == ("/now", "/now")
    assert places == {"clinc150": "/now", "apart": "/apart"}
    assert given(tmp_path, "data_dir=/before") == given(tmp_path) == stored


def test_another_configuration_is_refused_by_the_keys_that_the_command_names(tmp_path):
    begun(tmp_path, "task=sinusoid", "learner=fomaml", "train.steps=20", "train.seed=3")
    with pytest.raises(ConfigError) as refused:  # of learner and task, which differ from the defaults, it says nothing
        given(tmp_path, "train.seed=5", "learner.inner_steps=2", "train.steps=20")
    assert "another learner.inner_steps (1 there), train.seed (3 there); go on with it by" in str(refused.value)
    with pytest.raises(ConfigError, match=r"another learner\._target_ \(metarun\.learners\.maml\.MAML there\)"):
        given(tmp_path, "task=sinusoid", "learner=cnp", "train.steps=20", "train.seed=3")
    with pytest.raises(ConfigError, match=r"what this command leaves out: train\.seed \(3 there\), train\.steps \(20"):
        given(tmp_path, "task=sinusoid", "learner=fomaml")
    with pytest.raises(ConfigError, match=r"holds a run with another .* and \d+ more"):
        given(tmp_path, "experiment=maml_sinusoid_10s")


def test_a_run_is_made_longer_by_train_steps_alone_or_in_the_whole_command(tmp_path):
    stored = begun(tmp_path, "task=sinusoid", "learner=fomaml", "train.steps=20", "train.log_every=5")
    longer = given(tmp_path, "train.steps=30", "train.log_every=10", "eval.episodes=50")
    train = stored["train"] | {"steps": 30, "log_every": 10}
    assert longer == stored | {"train": train, "eval": stored["eval"] | {"episodes": 50}}
    whole = ("task=sinusoid", "learner=fomaml", "train.steps=30", "train.log_every=5")
    assert given(tmp_path, *whole) == composed(*whole)
    with pytest.raises(ConfigError, match=r"train\.steps=10: at least 20, as the run began with"):
        given(tmp_path, "train.steps=10")
    with pytest.raises(ConfigError, match=r"train\.log_every \(5 there\)"):  # rows that are there have that period
        given(tmp_path, "train.log_every=10")


@pytest.mark.parametrize(("learner", "steps"), [("maml", 1), ("fomaml", 1), ("lstm", 200)])
def test_a_learner_that_has_as_many_of_something_as_the_run_has_steps_follows_nothing(tmp_path, learner, steps):
    """One inner step and one meta-step; 200 units and 200 meta-steps."""
    begun(tmp_path, f"learner={learner}", f"train.steps={steps}")
    assert given(tmp_path, "train.steps=300")["train"]["steps"] == 300


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("experiment=demo",), "optimizer.learning_rate.decay_steps=40"),
        (("optimizer=adam_cosine",), "optimizer.learning_rate.decay_steps=40"),
        (("learner=reptile",), "optimizer.learning_rate.transition_steps=40"),
        (("learner=mamlpp", "learner.multi_step_loss=${train.steps}"), "learner.multi_step_loss=40"),
    ],
)
def test_a_run_whose_schedule_ends_with_it_cannot_be_made_longer_and_says_why(tmp_path, command, key):
    begun(tmp_path, *command, "train.steps=40")
    for longer in ((), command):
        with pytest.raises(ConfigError) as refused:
            given(tmp_path, *longer, "train.steps=60")
        assert f"cannot be made longer, as its {key} is its train.steps" in str(refused.value)
        assert "\n" not in str(refused.value)
    if "multi_step_loss" in key:
        return  # it has a schedule as well
    kept = given(tmp_path, *command, "train.steps=60", key)  # the schedule as it was, and then its last value
    assert kept["train"]["steps"] == 60


def test_waves_of_an_earlier_version_are_in_no_intervals_and_go_on(tmp_path):
    stored = begun(tmp_path, "task=sinusoid", "train.steps=20")
    del (
        stored["task"]["intervals"],
        stored["train"]["selection"],
        stored["train"]["tail"],
        stored["train"]["hardest_at"],
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    whole = ("task=sinusoid", "train.steps=20")
    assert given(tmp_path, *whole) == composed(*whole)
    assert given(tmp_path) == composed(*whole) | {"run": stored["run"]}


def test_a_run_whose_curriculum_ends_with_it_cannot_be_made_longer_and_says_why(tmp_path):
    whole = ("task=sinusoid", "train.selection=curriculum")
    begun(tmp_path, *whole, "train.steps=40")
    for longer in ((), whole):
        with pytest.raises(ConfigError, match=r"train\.steps=60: .* as its curriculum ends with the run.*hardest_at"):
            given(tmp_path, *longer, "train.steps=60")
    begun(tmp_path, *whole, "train.steps=40", "train.hardest_at=39")
    assert given(tmp_path, "train.steps=60")["train"]["steps"] == 60


def test_an_experiment_with_its_own_number_of_steps_makes_no_run_longer_unasked(tmp_path):
    begun(tmp_path, "experiment=maml_sinusoid_10s", "train.steps=20", finished=True)
    with pytest.raises(ConfigError, match=r"train\.steps \(20 there\)"):
        given(tmp_path, "experiment=maml_sinusoid_10s")


def test_a_finished_run_may_be_tested_in_any_way_an_unfinished_one_only_where_validation_stays(tmp_path):
    stored = begun(tmp_path, "task=sinusoid", "train.steps=20")
    again = given(tmp_path, "eval.episodes=2000", "eval.inner_steps=[2]", "eval.shots=[1,5]")
    assert again["eval"] == stored["eval"] | {"episodes": 2000, "inner_steps": [2], "shots": [1, 5]}
    of_validation = ("eval.seed=5", "++eval.task.shots=3", "++eval.learner.inner_steps=3")
    for override in of_validation:
        with pytest.raises(ConfigError, match=r"validation uses it \(.*there\); finish the run first"):
            given(tmp_path, override)
    begun(tmp_path, "task=sinusoid", "train.steps=20", finished=True)
    again = given(tmp_path, *of_validation)["eval"]
    assert (again["seed"], again["task"], again["learner"]) == (5, {"shots": 3}, {"inner_steps": 3})
    with pytest.raises(ConfigError, match=r"eval\.seed=5: validation uses it; .* add 'eval\.seed=0'"):
        given(tmp_path, "train.steps=30", "eval.seed=5")


def test_a_run_that_was_tested_in_another_way_is_made_longer_with_the_validations_it_began_with(tmp_path):
    began = begun(tmp_path, "task=sinusoid", "train.steps=20", "++eval.learner.inner_steps=2")
    (tmp_path / "config.yaml").rename(tmp_path / "config-1.yaml")
    begun(tmp_path, "task=sinusoid", "train.steps=20", "eval.seed=5", "++eval.task.shots=3", "eval.episodes=9")
    back = ["++eval.learner={inner_steps:2}", "eval.seed=0", "++eval.task={}"]
    for done, said in enumerate(("'eval.learner={inner_steps:2}'", "'eval.seed=0'", "'eval.task={}'")):
        with pytest.raises(ConfigError) as refused:
            given(tmp_path, "train.steps=30", *back[:done])
        assert str(refused.value).endswith(f"validation uses it; to make the run longer add {said}")
    longer = given(tmp_path, "train.steps=30", *back)
    assert longer["eval"] == began["eval"] | {"episodes": 9}
    with pytest.raises(ConfigError, match="finish the run first"):  # it is not longer by this
        given(tmp_path, *back)


def test_a_run_of_an_earlier_version_goes_on_with_the_new_keys_as_they_are_by_default(tmp_path):
    stored = composed("train.steps=20", "learner.inner_lr=0.3")
    del stored["paper"], stored["eval"]["shots"], stored["run"]["tags"], stored["inner"]["remat"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    now = given(tmp_path)
    assert now == composed("train.steps=20", "learner.inner_lr=0.3")
    assert build_run(now).eval.shots == ()
    assert given(tmp_path, "train.steps=20", "learner.inner_lr=0.3") == now
    del stored["train"]["clip_norm"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ConfigError, match=r"train\.clip_norm \(None there\)"):  # not what the run began with
        given(tmp_path, "train.clip_norm=10")


def test_what_its_task_and_learner_had_no_key_for_was_as_the_class_says(tmp_path):
    """Not as today's yaml says, which may have another recipe."""
    stored = composed("task=omniglot", "learner=mann", "train.steps=20", "model=pixels")
    assert stored["learner"]["labels"] == "iid"
    for group, key in (("task", "rotate"), ("task", "shift"), ("learner", "labels")):
        del stored[group][key]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    now = given(tmp_path)
    assert (now["task"]["rotate"], now["task"]["shift"], now["learner"]["labels"]) == (0.0, 0.0, "balanced")
    assert build_run(now).learner.labels == "balanced"
    with pytest.raises(ConfigError, match=r"learner\.labels"):  # a whole command of today is another run
        given(tmp_path, "task=omniglot", "learner=mann", "train.steps=20", "model=pixels", "learner.labels=iid")


@pytest.mark.parametrize("content", ["[1]", "{train: [1]}", "logger: null"])
def test_a_directory_with_another_config_yaml_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match="not a metarun run's"):
        given(tmp_path)


def test_a_run_that_goes_on_may_be_logged_elsewhere_and_old_loggers_load(tmp_path, monkeypatch):
    """By the way that a command takes, where several loggers are told by their places in the configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").mkdir()
    stored = begun(tmp_path / "RUN", "task=sinusoid", "logger=wandb")
    old = {"_target_": "metarun.run.loggers.Wandb", "project": "mine", "entity": None, "group": None, "mode": "auto"}

    def loggers(values: dict, *settings: str) -> dict:
        (tmp_path / "RUN" / "config.yaml").write_text(yaml.safe_dump({**stored, "logger": values}))
        run = run_of(["run.dir=RUN", *settings])
        return run.loggers | {"kept": run.config["logger"]}

    assert loggers(old)["Wandb"] == Wandb("mine", None, None, "auto", "train", None, True)
    assert loggers(old, "logger.mode=offline")["Wandb"] == Wandb("mine", None, None, "offline", "train", None, True)
    assert "NoLogger" in loggers(old, "logger=none")
    several = loggers(old, "logger=[wandb,tensorboard]", "logger.wandb.mode=offline", "run.max_minutes=5")
    assert several["wandb"] == Wandb("metarun", None, None, "offline", "train", None, True)
    assert [*several] == [*several["kept"], "kept"] == ["wandb", "tensorboard", "kept"]
    assert loggers(several["kept"]) == several
    assert "NoLogger" in loggers(several["kept"], "logger=none")
    earlier = loggers({"wandb": old, "other": {"_target_": "metarun.run.loggers.NoLogger"}})
    assert earlier["wandb"] == Wandb("mine", None, None, "auto", "train", None, True)
