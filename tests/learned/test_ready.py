"""The learners that come with metarun: small, whole, as good as they are said to be, and asked for by name."""

import json
import sys

import jax
import numpy as np
import pytest
from support import run_of

import metarun
from metarun.command import main
from metarun.core import ConfigError
from metarun.learned import ready

NAMES = ready.names()


def test_there_are_some_below_a_megabyte_each():
    assert {"strokes-protonet", "strokes-maml", "intents-protonet", "waves-maml"} <= set(NAMES)
    assert all(one.bytes < 2**20 for one in ready.every())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("strokes")])
def test_it_tells_characters_apart_as_it_is_said_to(name):
    """20 episodes of five new characters: within four standard errors of its test."""
    learned = metarun.load(name)
    run = run_of("task=strokes", "task.ways=5", "task.queries=3")
    sample, data = jax.jit(run.tasks.sample), run.tasks.load("test")
    right = []
    for key in jax.random.split(jax.random.key(1), 20):
        support, query, *_ = sample(data, key)
        predicted = learned.adapt(support.x, support.y).predict(query.x, "together")
        right.append((predicted == query.y).mean())
    (told,) = [one for one in ready.every() if one.name == name]
    error = np.std(right, ddof=1) / np.sqrt(len(right))
    assert abs(np.mean(right) - told.test["mean"]) < 4 * error


def test_texts_are_told_apart_by_an_example_each():
    learned = metarun.load("intents-protonet")
    says = ["what is the weather like tomorrow", "transfer money to my savings account"]
    adapted = learned.adapt(learned.purpose.prepares.encode(says), ["weather", "bank"])
    asked = ["will there be rain in the weather tomorrow", "please move money into my savings"]
    assert adapted.predict(learned.purpose.prepares.encode(asked)).tolist() == ["weather", "bank"]


def test_a_wave_is_learned_from_ten_points():
    x = np.linspace(-5, 5, 10)[:, None]
    adapted = metarun.load("waves-maml").adapt(x, 2 * np.sin(x + 1), inner_steps=10)
    new = np.linspace(-4.5, 4.5, 30)[:, None]
    assert np.square(adapted.predict(new) - 2 * np.sin(new + 1)).mean() < 0.5


def test_a_directory_of_that_name_comes_first_and_a_misspelt_name_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strokes-maml").mkdir()
    with pytest.raises(ConfigError, match=r"run=strokes-maml: holds no run"):
        metarun.load("strokes-maml")
    with pytest.raises(ConfigError, match=r"run=stroke-maml: no such directory.*did you mean strokes-maml\?"):
        metarun.load("stroke-maml")


def test_they_are_listed_with_their_figures_and_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["metarun", "ready"])
    main.command()
    out = capsys.readouterr().out
    for one in ready.every():
        assert one.name in out
        assert one.command in out
        assert one.command.startswith("metarun ")


def test_one_is_tested_again_by_its_name_to_the_figures_that_it_is_said_to_have(ended, tmp_path):
    said = ended("eval", "waves-maml", "eval.inner_steps=[]", "eval.shots=[]", "--json", "-")
    found = json.loads(said.out)
    (told,) = [one for one in ready.every() if one.name == "waves-maml"]
    assert found["test"]["mse"]["mean"] == pytest.approx(told.test["mean"], rel=1e-4)
    assert found["run"]["dir"] == "waves-maml"
    assert found["run"]["steps"] == 20_000  # of its command
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["strokes-proto"], "eval strokes-proto: no such directory, and none of metarun ready's; did you mean strokes"),
        (["strokes-maml", "--keep", "x"], "eval --keep x: strokes-maml is a learner apart from its run, and keeps"),
        (["strokes-maml", "eval.state=last"], "eval.state=last: strokes-maml has its best state alone; leave it out"),
        (["strokes-maml", "eval.task.ways=20"], "eval.task.ways=20: at most 5, the outputs that training with 5 ways"),
    ],
)
def test_a_test_that_one_cannot_have_is_one_line(ended, tmp_path, given, said):
    found = ended("eval", *given)
    assert said in found.err
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert not list(tmp_path.iterdir())
