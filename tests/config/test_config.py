"""Every mistake ends in one line that says what to do; every experiment is what its golden file says."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from support import composed, experiments, run_of, to_yaml

from metarun.config import choices, flat, going_on, of_place, translate, without_hydras_quotes, words_of
from metarun.config.build import build
from metarun.config.run import build_run, of_one_run
from metarun.core import ConfigError
from metarun.engine import hardware

GOLDEN = Path(__file__).parent / "golden"

MISTAKES = [
    # override, the key it names, what is said to be allowed
    ("task.ways=0", "task.ways=0", "an integer >= 2"),
    ("task.ways=two", "task.ways=two", "an integer >= 2"),
    ("task.ways=2.5", "task.ways=2.5", "an integer >= 2"),
    ("task.ways=true", "task.ways=True", "an integer >= 2"),
    ("+task.way=5", "task.way=5", "did you mean ways?"),
    ("+train.stesp=5", "train.stesp=5", "did you mean steps?"),
    ("+colour=red", "colour=red", "allowed: data_dir"),
    ("train.steps=0", "train.steps=0", "an integer >= 1"),
    ("train.steps=1e4", "train.steps=10000.0", "an integer >= 1, such as 10000"),
    ("train.steps=99999999999999999999", "train.steps=99999999999999999999", "an integer >= 1 and < 2147483648"),
    ("train.meta_batch=1000000000", "train.meta_batch=1000000000", "an integer >= 1 and <= 65536"),
    ("eval.episodes=1000000000", "eval.episodes=1000000000", "an integer > 1 and <= 1000000"),
    ("eval.inner_steps=[0,3000000000]", "eval.inner_steps=[0, 3000000000]", "an integer >= 0 and < 2147483648"),
    ("task.ways=1", "task.ways=1", "an integer >= 2"),
    ("++eval.task.ways=1", "eval.task.ways=1", "an integer >= 2"),
    ("train=3", "train=3", "give its keys one by one: train.KEY=VALUE"),
    ("train.log_every=7", "train.log_every=7", "must divide train.steps=3000, or be auto"),
    ("train.save_every=never", "train.save_every=never", "an integer >= 1 or auto"),
    ("train.seed=-1", "train.seed=-1", "an integer >= 0"),
    ("eval.split=train", "eval.split=train", "one of val, test"),
    ("eval.episodes=1", "eval.episodes=1", "an integer > 1"),
    ("eval.inner_steps=[1,-1]", "eval.inner_steps=[1, -1]", "a list, each an integer >= 0"),
    ("++eval.task.way=5", "eval.task.way=5", "did you mean ways?"),
    ("++eval.task.ways=0", "eval.task.ways=0", "an integer >= 2"),
    ("++eval.task.ways=9", "eval.task.ways=9", "at most 5"),
    ("++eval.learner.inner_step=9", "eval.learner.inner_step=9", "did you mean inner_steps?"),
    ("learner.inner_lr=0", "learner.inner_lr=0", "a number > 0"),
    ("learner.inner_lr=nan", "learner.inner_lr=nan", "a number > 0, and finite"),
    ("learner.inner_lr=[]", "learner.inner_lr=[]", "a number > 0 or a list of 1 or more, each a number > 0"),
    ("learner.inner_loss=median", "learner.inner_loss=median", "one of mean, sum_over_shots"),
    ("learner.first_order=1", "learner.first_order=1", "true or false"),
    ("~learner.inner_lr", "learner.inner_lr=(nothing)", "a number > 0"),
    ("model.norm=group", "model.norm=group", "one of batch, layer, none"),
    ("optimizer.learning_rate=-1", "optimizer.learning_rate=-1", "a number > 0"),
    ("optimizer.learning_rate=fast", "optimizer.learning_rate=fast", "a number > 0"),
    ("optimizer.b1=hello", "optimizer.b1=hello", "a number"),
    ("optimizer._target_=optax.linear_schedule", "optimizer", "no such key"),
    ("train.seed=4294967296", "train.seed=4294967296", "an integer >= 0 and < 4294967296"),
    ("~logger", "logger=(nothing)", "every run needs it"),
    ("+optimizer.momentun=0.9", "optimizer.momentun=0.9", "no such key"),
    ("hardware.task_chunk=5", "hardware.task_chunk=5", "must divide the 32 tasks"),
    ("hardware.platform=abacus", "hardware.platform=abacus", "one of auto, cpu, gpu, tpu"),
    ("task.jitter=${nonsense}", "task.jitter", "nonsense"),
    ("learner._target_=os.system", "learner._target_=os.system", "METARUN_ALLOW"),
    ("learner._target_=metarun.command.main.main", "learner._target_=metarun.command.main.main", "a component's class"),
    ("learner._target_=metarun.core.ConfigError", "learner._target_=metarun.core.ConfigError", "a component's class"),
    ("learner._target_=metarun.tasks.omniglot.io.open", "learner._target_=metarun", "no such class"),
    ("optimizer._target_=optax.adma", "optimizer._target_=optax.adma", "no such class"),
    ("learner._target_=3", "learner._target_=3", "the name of a class"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "key", "allowed"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_names_the_key_and_what_is_allowed(override, key, allowed):
    with pytest.raises(ConfigError) as error:
        run_of(override)
    message = str(error.value)
    assert key in message
    assert allowed in message
    assert "\n" not in message


OMNIGLOT_MISTAKES = [
    ("task.ways=1101", "task.ways=1101", "at most 1100, the train classes of finn"),
    ("task.ways=101", "task.ways=101", "at most 100, the val classes of finn"),
    ("task.queries=20", "task.shots+queries=1+20", "at most 20 together"),
    ("++eval.task.queries=20", "eval.task.shots+queries=1+20", "at most 20 together"),
    ("task.split=fin", "task.split=fin", "one of finn, vinyals, lake"),
]


@pytest.mark.parametrize(("override", "key", "allowed"), OMNIGLOT_MISTAKES, ids=[m[0] for m in OMNIGLOT_MISTAKES])
def test_an_episode_that_omniglot_cannot_give_is_refused_without_its_files(override, key, allowed):
    with pytest.raises(ConfigError) as error:
        run_of("task=omniglot", "data_dir=/nowhere", override)
    assert key in str(error.value)
    assert allowed in str(error.value)


def test_a_whole_number_that_would_not_do_either_is_no_hint():
    for override in ("hardware.join_seconds=1e30", "train.steps=-3.0", "train.steps=1e30"):
        with pytest.raises(ConfigError) as error:
            run_of(override)
        assert "such as" not in str(error.value)


@pytest.mark.parametrize("task", choices("task"))
def test_the_defaults_of_a_task_build(task, data_for):
    assert run_of(f"task={task}", *data_for(task)).tasks.n_out in (1, 2, 4, 5)


def test_what_is_chosen_within_a_task_is_chosen_by_its_name():
    texts = translate(["task=text", "task.path=x.csv", "task.encoder=wordllama"])
    assert composed(*texts)["task"]["encoder"] == {"_target_": "metarun.data.encoders.WordLlama", "dimension": 256}
    images = translate(["task=folder", "task.path=x", "task.augment.query=standard", "task.augment.query.crop=2"])
    found = composed(*images)["task"]["augment"]
    assert (found["query"]["flip"], found["query"]["crop"], found["support"]["flip"]) == (True, 2, False)


def test_several_loggers_have_a_group_each_and_one_stands_alone_as_ever():
    one = run_of("logger.mode=offline")
    assert {name: logger.mode for name, logger in one.loggers.items()} == {"Wandb": "offline"}
    for given in ("logger=[wandb,tensorboard]", "logger=[ wandb , tensorboard, wandb ]"):
        several = run_of(*translate([given, "logger.wandb.mode=offline"]))
        assert [*several.loggers] == ["wandb", "tensorboard"]
        assert several.loggers["wandb"] == one.loggers["Wandb"]
    assert run_of(*translate(["logger=[none]"])).config["logger"] == run_of("logger=none").config["logger"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("logger.wandb.mode=on", "logger.wandb.mode=on: must be one of auto, online, offline"),
        ("logger.wandb._target_=metarun.learners.maml.MAML", "logger.wandb._target_=metarun.learners.maml.MAML: is no"),
        ("+logger.mode=offline", "logger.mode=offline: is a group of settings"),
    ],
)
def test_a_mistake_in_one_of_several_loggers_is_told_by_its_key(override, said):
    with pytest.raises(ConfigError) as error:
        run_of(*translate(["logger=[wandb,tensorboard]", override]))
    assert str(error.value).startswith(said)


def test_what_differs_within_a_group_of_a_task_leaves_the_rest_of_it(data_for):
    folder = ["task=folder", *data_for("folder"), "task.image.side=16"]
    run = run_of(*folder, "++train.task.image.colour=grey", "++eval.task.image.fit=pad")
    assert run.tasks.image.shape == (16, 16, 1)
    assert (run.eval_tasks.image.shape, run.eval_tasks.image.fit, run.tasks.image.fit) == ((16, 16, 3), "pad", "crop")
    for override, said in {
        "++eval.task.image.sid=3": "eval.task.image.sid=3: no such key; did you mean side?",
        "++eval.task.image=3": "eval.task.image=3: must be a group of settings whose _target_ names one of",
    }.items():
        with pytest.raises(ConfigError) as error:
            run_of(*folder, override)
        assert str(error.value).startswith(said)


def test_a_period_ends_with_its_last_meta_step_and_with_the_run():
    """125 meta-steps: a row every 2, a validation and a save every 12, and all of them at the end."""
    train = run_of("train.steps=125").train
    ends = {"log_every": [*range(2, 125, 2), 125], "eval_every": [*range(12, 125, 12), 125]}
    ends["save_every"] = ends["eval_every"]
    for name, steps in ends.items():
        assert [step for step in range(1, 126) if train.is_due(step, name)] == steps
    visited = [0]
    while visited[-1] < 125 and len(visited) < 200:
        visited.append(train.next_due(visited[-1]))
    assert visited[1:] == sorted({step for steps in ends.values() for step in steps})
    assert [train.next_due(step) for step in (11, 13, 123)] == [12, 14, 124]  # after a break, it is within a period


def test_only_what_is_asked_to_be_skipped_is_skipped():
    asked = ("train.skip_at_most=3", "train.clip_value=2.0", "train.clip_norm=5.0")
    assert run_of(*asked).train.guard == (2.0, 5.0, 0)
    assert run_of(*asked, "train.on_nonfinite=skip").train.guard == (2.0, 5.0, 3)


def test_evaluation_differs_by_value():
    run = run_of("++eval.task.queries=15", "++eval.learner.inner_steps=3")
    assert (run.tasks.queries, run.eval_tasks.queries) == (5, 15)
    assert (run.learner.inner_steps, run.eval_learner.inner_steps) == (1, 3)


def test_an_outside_class_is_built_only_when_it_is_allowed_by_name(monkeypatch, tmp_path):
    source = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    size: int\n"
    (tmp_path / "mylab.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    values = {"_target_": "mylab.Mine", "size": 3}
    for allowed in ("", "my", "mylab.Other"):
        monkeypatch.setenv("METARUN_ALLOW", allowed)
        with pytest.raises(ConfigError, match="METARUN_ALLOW"):
            build("learner", values)
    for allowed in ("mylab", "other,mylab.Mine"):
        monkeypatch.setenv("METARUN_ALLOW", allowed)
        assert build("learner", values).size == 3


@pytest.mark.parametrize(
    "schedule",
    [
        "{_target_: optax.cosine_decay_schedule, init_value: 0.1, decay_steps: 10}",
        # optax compares this one's rate with zero when it makes it, so it cannot be a program's argument
        "{_target_: optax.exponential_decay, init_value: 0.1, transition_steps: 10, decay_rate: 0.5}",
    ],
)
def test_a_schedule_may_stand_for_the_learning_rate(schedule):
    run = run_of("optimizer=adam_cosine", *translate([f"optimizer.learning_rate={schedule}"]))
    update = run.optimizer(run.numbers["optimizer"])
    step, _ = jax.jit(lambda x: update.update(x, update.init(x)))(jnp.array(1.0))
    np.testing.assert_allclose(step, -0.1, rtol=1e-5)  # Adam's first step is as long as the learning rate


def test_sgd_in_steps_is_nesterovs_with_weight_decay_at_the_rates_of_its_schedule():
    falls = translate(["optimizer.learning_rate.boundaries_and_scales={2: 0.5, 3: 0.1}"])
    run = run_of("optimizer=sgd_steps", *falls)
    assert run.config["optimizer"]["learning_rate"]["boundaries_and_scales"] == {2: 0.5, 3: 0.1}  # the yaml's are gone
    ours = run.optimizer(run.numbers["optimizer"])
    w = velocity = np.array([1.0, -2.0])
    velocity, state = 0 * velocity, ours.init(jnp.array(w))
    for rate in (0.1, 0.1, 0.05, 0.005):
        gradient = np.sin(w)
        update, state = ours.update(jnp.array(gradient), state, jnp.array(w))
        decayed = gradient + 5e-4 * w
        velocity = 0.9 * velocity - rate * decayed
        np.testing.assert_allclose(update, 0.9 * velocity - rate * decayed, rtol=1e-5)
        w = w + np.asarray(update)


def test_a_configuration_is_enough_to_build_the_run_again():
    first = composed("task=sinusoid", "learner.inner_steps=2")
    assert yaml.safe_load(yaml.safe_dump(build_run(first).config)) == of_one_run(first)


@pytest.mark.parametrize("experiment", [None, *experiments()])
def test_an_experiment_is_what_its_golden_file_says(experiment):
    """Written anew with METARUN_WRITE_GOLDEN=1: the diff then shows what an edit of a yaml really changed.

    The default's file holds all of it, an experiment's what differs from the default.
    """
    default = flat(composed("data_dir=null"))
    values = composed(*([f"experiment={experiment}"] if experiment else []), "data_dir=null")
    here = flat(values)
    differs = {key: here.get(key, "(gone)") for key in sorted({**default, **here}) if here.get(key) != default.get(key)}
    text, path = to_yaml(differs if experiment else here), GOLDEN / f"{experiment or 'default'}.yaml"
    if "METARUN_WRITE_GOLDEN" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
    build_run(values)


def test_an_experiments_values_win_over_the_defaults():
    values = composed("experiment=maml_sinusoid_10s")
    assert values["train"]["steps"] == 70000
    assert values["train"]["meta_batch"] == 25
    assert values["task"]["_target_"].endswith("Sinusoid")


@pytest.mark.parametrize(("key", "value"), [("run.name", "my-0123456789abcdef"), ("run.tags", "[a,0123456789abcdef]")])
def test_a_key_in_the_configuration_is_refused_without_showing_it(monkeypatch, key, value):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    with pytest.raises(ConfigError) as error:
        run_of(f"{key}={value}")
    assert str(error.value).startswith(f"{key}=(WANDB_API_KEY): ")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("learner=protonet", "task=sinusoid"), "learner=protonet: classifies, and sinusoid is a regression"),
        (("learner=matching", "task=sinusoid"), "is a regression"),
        (("learner=metaoptnet", "task=sinusoid"), "is a regression"),
        (("learner=proto_maml", "task=sinusoid"), "is a regression"),
        (("learner=nearest_neighbour", "task=sinusoid"), "is a regression"),
        (("learner=mann", "task=sinusoid"), "learner=mann: classifies"),
        (("learner=lstm", "task=sinusoid"), "learner=lstm: classifies"),
        (("learner=mann", "task.ways=6"), "learner.label_width=5: at least 6"),
        (("learner=lstm", "++eval.task.ways=6"), "learner.label_width=5: at least 6"),
        (("learner=attention", "task.ways=6"), "learner.label_width=5: at least 6"),
        (("learner=finetune",), "set task.pool=200"),
        (("learner=protonet", "++train.task.wayz=3"), "train.task.wayz=3: no such key; did you mean ways?"),
        (("task.pool=4",), "task.ways=5: at most task.pool=4"),
        (("learner=protonet", "task.pool=8"), "train.task.ways=20: at most task.pool=8; it is training's own, by your"),
        (("learner=mann", "learner.memory=[3,40]"), "learner.heads=4: at most 3, the slots of the memory"),
        (("learner=cnp", "learner.min_sigma=1.5"), "learner.min_sigma=1.5: must be a number > 0 and < 1"),
        (("learner=attention", "learner.heads=3"), "learner.heads=3: must divide units=128"),
        (("learner=maml", "++eval.task.ways=6"), "eval.task.ways=6: at most 5"),
    ],
)
def test_a_learner_that_cannot_serve_a_task_is_refused_in_one_line(overrides, said):
    with pytest.raises(ConfigError) as refused:
        run_of(*overrides)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("task.ways=100000",), r"task.ways=100000: an episode of 600,000 examples takes .* GiB.* at most .* memory"),
        (("task.ways=10000",), r"task.ways=10000: an episode of 60,000 examples"),  # its answers are what is large
        (("++eval.task.queries=9000000",), r"eval.task.queries=9000000: an episode of"),
        (("task=sinusoid", "task.shots=1000000000"), r"task.shots=1000000000: an episode of 1,000,000,010 examples"),
        (("task=omniglot", "task.ways=1000", "task.split=vinyals"), "task.ways=1000: at most 688, the val classes"),
    ],
    ids=str,
)
def test_an_episode_that_no_memory_holds_is_refused(monkeypatch, overrides, says):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**22}  # 16 GiB
    monkeypatch.setattr(os, "sysconf", pages.get)
    run_of("task.ways=200", "task.shots=5")
    run_of("task=miniimagenet", "task.ways=16", "task.shots=5", "eval.shots=[30]")
    with pytest.raises(ConfigError, match=says):
        run_of(*overrides)


@pytest.mark.parametrize("platform", ["auto", "cpu"])
def test_a_cpu_has_no_more_devices_than_cores(monkeypatch, platform):
    monkeypatch.setattr(hardware, "cores", lambda: 4)
    assert run_of("hardware.devices=4", f"hardware.platform={platform}").hardware.devices == 4
    for devices, meta_batch, allowed in (
        (32, 32, "at most 4 on this CPU, one a core"),
        (3, 32, "must divide"),
        (99, 99, "at"),
    ):
        with pytest.raises(ConfigError, match=f"hardware.devices={devices}: {allowed}"):
            run_of(f"hardware.devices={devices}", f"train.meta_batch={meta_batch}", f"hardware.platform={platform}")
    run_of("hardware.devices=32", "hardware.platform=gpu")  # what a GPU has is known once it is touched
    monkeypatch.setattr(hardware, "cores", lambda: 1)
    run_of("hardware.devices=2", f"hardware.platform={platform}")  # conftest.py told jax to make two of it


def test_more_devices_than_cores_are_refused_where_an_accelerator_was_expected(monkeypatch):
    monkeypatch.setattr(hardware, "has_accelerator", lambda: True)
    run = run_of("hardware.devices=16")
    with pytest.raises(ConfigError, match=r"hardware.devices=16: at most .* on this CPU"):
        run.hardware.set_up(32)


@pytest.mark.parametrize("learner", ["protonet", "matching", "proto_maml", "r2d2", "metaoptnet", "cnp"])
def test_a_learner_without_a_head_is_tested_with_more_ways_than_it_was_trained_with(learner):
    run = run_of(f"learner={learner}", "++train.task.ways=3", "task.ways=7")
    assert (run.tasks.n_out, run.eval_tasks.n_out) == (3, 7)


def test_training_and_evaluation_may_each_have_episodes_of_their_own():
    run = run_of("learner=reptile", "task.shots=2")
    assert (run.tasks.shots, run.eval_tasks.shots) == (10, 2)
    assert (run.learner.inner_steps, run.eval_learner.inner_steps) == (5, 50)


@pytest.mark.parametrize(
    "place",
    [
        "runs/a-1_b", "-x", "runs/a b", "runs/\u00e9", "\u65e5\u672c", "a\u00b2", "~x", "it's", 'a"b', "1_0", "a,b",
        r"a\b", "c\\",
    ],
)  # fmt: skip
def test_the_command_that_goes_on_names_the_directory_to_the_shell_and_to_hydra(place):
    (_, *settings) = words_of(going_on(place))
    assert settings == [of_place(place)]
    assert OverridesParser.create().parse_override(settings[0]).value() == place
    assert without_hydras_quotes(settings[0].removeprefix("run.dir=")) == place
