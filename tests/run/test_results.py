"""What a finished run states of itself."""

import dataclasses

from support import run_of

from metarun.run.figures import episodes_in_short
from metarun.run.results import evaluated_on


def test_a_regression_has_shots_and_no_ways():
    task = {"ways": 5, "shots": 3, "queries": 2}
    assert episodes_in_short({"task": task, "learner": {}, "metric": "mse"}) == "3 shots, 2 queries"
    assert episodes_in_short({"task": task, "learner": {}, "metric": "accuracy"}) == "5-way 3-shot, 2 queries a class"


def test_what_is_tested_is_images_as_they_are():
    run = run_of("task=cifar_fs", "task.augment.support.flip=true", "++eval.task.queries=7")
    assert evaluated_on(run) == {**run.config["task"], "queries": 7, "augment": None}
    assert evaluated_on(run_of("task=sinusoid")).keys() == run_of("task=sinusoid").config["task"].keys()
    fields = [field.name for field in dataclasses.fields(run.eval_tasks)]
    assert {name: getattr(run.eval_tasks, name) for name in fields} == {
        name: value for name, value in evaluated_on(run).items() if name != "_target_"
    }
