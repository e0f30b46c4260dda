"""`eval.tasks`: other domains to test on, made whole once from a choice of task; what is refused before training."""

import pytest
import yaml
from support import composed, on_blobs

from metarun.config import domains
from metarun.config.domains import complete
from metarun.config.resume import resume
from metarun.config.run import build_run
from metarun.core import ConfigError
from metarun.run import earlier

BLOBS = {"_target_": "blobs.Blobs", "ways": 2, "shots": 1, "queries": 3, "pool": 7}


def asked(*overrides: str) -> dict:
    return complete(composed(*overrides))["eval"]["tasks"]


def with_domains(values: dict, **tasks: dict) -> dict:
    return values | {"eval": values["eval"] | {"tasks": tasks}}


def test_a_domain_is_its_yaml_with_the_size_of_the_runs_test_episodes_and_what_was_given():
    episode = ("task.ways=4", "task.shots=3", "++eval.task.shots=2", "data_dir=/there")
    found = asked(*episode, "++eval.tasks={omniglot: {}, turned: {task: omniglot, queries: 7, rotate: 30.0}}")
    omniglot = composed("task=omniglot", "data_dir=/there")["task"]
    assert found["omniglot"] == omniglot | {"ways": 4, "shots": 2, "queries": 5}  # strokes' 5 queries, not Omniglot's 1
    assert found["turned"] == omniglot | {"ways": 4, "shots": 2, "queries": 7, "rotate": 30.0}


def test_settings_in_groups_are_laid_over_the_yamls_and_classes_without_splits_are_all_for_the_test():
    mine = "{task: folder, path: DIR, image: {side: 28, colour: grey}"
    found = asked(f"++eval.tasks={{mine: {mine}}}}}")["mine"]
    image = composed("task=folder", "task.path=DIR")["task"]["image"]
    assert found["image"] == image | {"side": 28, "colour": "grey"}
    assert (found["path"], found["fractions"]) == ("DIR", [0.0, 0.0, 1.0])
    assert asked("eval.split=val", f"++eval.tasks={{mine: {mine}}}}}")["mine"]["fractions"] == [0.0, 1.0, 0.0]
    given = f"++eval.tasks={{mine: {mine}, fractions: [0.6, 0.2, 0.2]}}}}"
    assert asked(given)["mine"]["fractions"] == [0.6, 0.2, 0.2]
    table = asked("++eval.tasks={rows: {task: table, path: FILE, class_column: kind}}")["rows"]
    assert table["fractions"] == [0.6, 0.2, 0.2]  # its training rows tell how to standardise the others


def test_texts_are_encoded_as_the_runs_own_and_a_table_beside_a_table_needs_no_training_rows():
    of_run = ("task=clinc150", "task.encoder.words=[1,1]")
    found = asked(*of_run, "++eval.tasks={other: {task: text, path: FILE}, same: {task: clinc150}}")
    encoder = composed(*of_run)["task"]["encoder"]
    assert found["other"]["encoder"] == found["same"]["encoder"] == encoder
    table = "{task: table, path: FILE, class_column: kind}"
    rows = asked("task=table", "task.path=MINE", "task.class_column=kind", f"++eval.tasks={{rows: {table}}}")["rows"]
    assert rows["fractions"] == [0.0, 0.0, 1.0]


def test_a_task_whose_yaml_also_chooses_a_model_gives_the_task_alone():
    found = complete(composed("task=sinusoid", "model.hidden=[8]", "++eval.tasks={waves: {task: sinusoid}}"))
    assert found["eval"]["tasks"]["waves"] == found["task"]
    assert found["model"]["hidden"] == [8]


def test_a_whole_domain_needs_no_yaml_and_is_left_as_it_is(monkeypatch):
    whole = complete(composed("++eval.tasks={omniglot: {}}", "data_dir=/there"))
    monkeypatch.setattr(domains, "as_composed", lambda *_: pytest.fail("it looks for a yaml"))
    assert complete(whole) is whole
    assert build_run(with_domains(on_blobs(), other=BLOBS)).domains["other"].pool == 7


MISTAKES = [
    ("{omniglt: {}}", "eval.tasks.omniglt.task=omniglt: no such task; did you mean omniglot?"),
    ("{x: {task: folder}}", "eval.tasks.x.path=(nothing): needs a value"),
    ("{x: {task: folder, pth: DIR}}", "eval.tasks.x.pth=DIR: no such key; did you mean path?"),
    ("{x: {task: folder, path: /nowhere}}", "eval.tasks.x.path=/nowhere: no such"),
    ("{x: {task: folder, path: DIR, image: {sde: 28}}}", "eval.tasks.x.image.sde=28: no such key; did you mean side?"),
    ("{omniglot: {rotat: 1}}", "eval.tasks.omniglot.rotat=1: no such key; did you mean rotate?"),
    ("{omniglot: {ways: 9}}", "eval.tasks.omniglot.ways=9: at most 5, the outputs that training with 5 ways gives"),
    ("{omniglot: {shots: 30}}", "eval.tasks.omniglot.shots+queries=30+5: at most 20 together"),
    ("{sinusoid: {}}", "eval.tasks.sinusoid.task=sinusoid: its tasks are regressions, and the run's are classifi"),
    ("{omniglot: 3}", "eval.tasks.omniglot=3: must be a group of settings"),
    ("{a b: {}}", "eval.tasks=a b: names a domain; a name has letters, digits, - and _"),
]


@pytest.mark.parametrize(("tasks", "says"), MISTAKES, ids=[tasks for tasks, _ in MISTAKES])
def test_a_domain_that_cannot_be_tested_on_is_refused_by_its_key(tasks, says):
    with pytest.raises(ConfigError) as refused:
        build_run(composed(f"++eval.tasks={tasks}"))
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_the_shots_of_the_test_are_asked_of_a_domain_too():
    with pytest.raises(ConfigError, match=r"^eval\.tasks\.omniglot\.shots\+queries=19\+5: at most 20 together"):
        build_run(composed("++eval.tasks={omniglot: {}}", "eval.shots=[2,19]"))


def test_a_learner_that_cannot_serve_a_domain_says_why():
    with pytest.raises(ConfigError) as refused:
        build_run(composed("learner=finetune", "task=omniglot", "++eval.tasks={strokes: {}}"))
    assert str(refused.value).startswith("eval.tasks.strokes.task=strokes: cannot be served (learner=finetune: trains")


def test_a_run_that_is_there_is_tested_elsewhere_with_its_own_ways_and_shots(tmp_path):
    """A command by run.dir alone composes the defaults; before and after the run has ended."""
    stored = composed("task.ways=4", "task.shots=3", "train.steps=20", "data_dir=/there")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    override = "++eval.tasks={omniglot: {}}"
    again = resume(tmp_path, composed(override, "data_dir=/there"), ["eval.tasks"])
    omniglot = again["eval"]["tasks"]["omniglot"]
    assert (omniglot["ways"], omniglot["shots"], omniglot["queries"]) == (4, 3, 5)
    assert again == stored | {"eval": stored["eval"] | {"tasks": {"omniglot": omniglot}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(again))
    more = resume(tmp_path, composed("++eval.tasks.turned.task=omniglot"), ["eval.tasks.turned.task"])
    assert list(more["eval"]["tasks"]) == ["omniglot", "turned"]
    assert resume(tmp_path, composed("++eval.tasks={}"), ["eval.tasks"])["eval"]["tasks"] == {}
    whole = ("task.ways=4", "task.shots=3", "train.steps=20", "task=strokes")
    named = [*(setting.partition("=")[0] for setting in whole), "data_dir"]  # as if an experiment had brought domains
    elsewhere = resume(tmp_path, composed(*whole, override, "data_dir=/moved"), named)
    assert elsewhere["eval"]["tasks"] == {"omniglot": omniglot | {"data_dir": "/moved"}}
    with pytest.raises(ConfigError, match=r"what this command leaves out: eval\.tasks\.omniglot\._target_"):
        resume(tmp_path, composed(*whole, "data_dir=/there"), named)


def test_a_domain_whose_data_lie_elsewhere_is_no_other_test(tmp_path):
    there, moved, other = (
        complete(composed("++eval.tasks={omniglot: {" + settings + "}}", "train.steps=20"))
        for settings in ("data_dir: /there", "data_dir: /moved", "data_dir: /there, ways: 3")
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(there))
    assert not earlier.is_another(tmp_path, moved)
    assert earlier.is_another(tmp_path, other)


def test_domains_make_another_test_of_a_run_of_any_version_and_no_other_validation(tmp_path):
    stored = composed("task=sinusoid", "train.steps=20")
    now = complete(composed("task=sinusoid", "train.steps=20", "++eval.tasks={waves: {task: sinusoid}}"))
    for older in (stored, stored | {"eval": {k: v for k, v in stored["eval"].items() if k != "tasks"}}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
        assert not earlier.is_another(tmp_path, stored)
        assert earlier.is_another(tmp_path, now)
    without_tail = stored | {"eval": {k: v for k, v in stored["eval"].items() if k != "tail"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(without_tail))
    assert not earlier.is_another(tmp_path, stored)
    assert earlier.is_another(tmp_path, complete(composed("task=sinusoid", "train.steps=20", "eval.tail=0.5")))
    (tmp_path / "config-1.yaml").write_text(yaml.safe_dump(stored))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(now))
    assert resume(tmp_path, composed("train.steps=30"), ["train.steps"])["train"]["steps"] == 30
