"""The end of a run proposes the user's own command with one thing changed, and what it proposes composes."""

import shlex
from pathlib import Path

import pytest
from support import composed, run_of

from metarun.config import choices, translate
from metarun.run.next_command import next_command

TARGETS = {task: f"metarun.tasks.{task}.{task.capitalize()}" for task in ("strokes", "sinusoid", "omniglot")}
MAML = "metarun.learners.maml.MAML"

CASES = [
    # after a made-up task a real one, with the user's learner and settings
    ("strokes", "", "learner=maml task=omniglot"),
    ("strokes", "learner=protonet", "learner=protonet task=omniglot"),
    ("strokes", "learner=protonet run.dir=x train.steps=50", "learner=protonet train.steps=50 task=omniglot"),
    ("strokes", "task.ways=4 +task.pool=20 model.filters=8", "learner=maml task.ways=4 model.filters=8 task=omniglot"),
    ("strokes", "experiment=demo", "experiment=demo task=omniglot"),
    ("strokes", "-m learner=maml,protonet", "-m learner=maml,protonet task=omniglot"),
    ("strokes", "learner=reptile train.task.shots=5", "learner=reptile train.task.shots=5 task=omniglot"),
    ("sinusoid", "task=sinusoid learner=cnp model.hidden=[8]", "learner=cnp task=omniglot"),
    ("sinusoid", "experiment=maml_sinusoid_10s train.steps=9", "learner=maml train.steps=9 task=omniglot"),
    ("sinusoid", "task=sinusoid task.shots=10 learner=maml", "learner=maml task=omniglot"),
    # after that several seeds
    ("omniglot", "task=omniglot learner=anil", "-m task=omniglot learner=anil train.seed=0,1,2"),
    ("omniglot", "-m task=omniglot learner=maml,anil", "-m task=omniglot learner=maml,anil train.seed=0,1,2"),
    ("omniglot", "experiment=maml_omniglot_5w1s train.seed=4", "-m experiment=maml_omniglot_5w1s train.seed=0,1,2"),
    ("omniglot", "run.dir=x", "-m learner=maml task=omniglot train.seed=0,1,2"),
    ("omniglot", "run.name=it's learner=maml", "-m learner=maml task=omniglot train.seed=0,1,2"),
    # after a sweep over seeds its page
    ("omniglot", "-m task=omniglot train.seed=0,1,2", "report 'runs/a sweep'"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "command", "proposed"), CASES)
def test_what_to_try_next_keeps_what_the_user_chose(task, command, proposed):
    found = {
        "protocol": {"task": {"_target_": TARGETS[task]}, "learner": {"_target_": MAML}},
        "training": {"command": f"metarun {command}".strip()},
    }
    assert next_command(found, Path("runs/a sweep/3")) == f"metarun {proposed}"
    words = [word.replace("maml,protonet", "protonet") for word in shlex.split(proposed) if word != "-m"]
    if task != "omniglot":
        run_of(*translate(words))


@pytest.mark.parametrize("learner", choices("learner"))
def test_of_learners_that_share_a_class_the_one_that_was_chosen_is_told_by_its_settings(learner):
    values = composed(f"learner={learner}")["learner"]
    for own in ({}, {"inner_steps": 7}):
        found = {
            "protocol": {"task": {"_target_": TARGETS["omniglot"]}, "learner": values | own},
            "training": {"command": "metarun run.dir=x"},
        }
        assert next_command(found, Path("x")) == f"metarun -m learner={learner} task=omniglot train.seed=0,1,2"


def test_of_an_old_run_that_names_no_learner_nothing_is_made_up():
    found = {"protocol": {"task": {"_target_": TARGETS["strokes"]}}, "training": {"command": "metarun"}}
    assert next_command(found, Path("x")) == "metarun task=omniglot"
