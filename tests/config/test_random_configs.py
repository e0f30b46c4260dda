"""Whatever a user types ends in a run of two meta-steps or in one line: random overrides over the whole configuration.

METARUN_RANDOM_CONFIGS sets how many are drawn, METARUN_RANDOM_SEED from which seed.
"""

import contextlib
import faulthandler
import io
import os
import shutil
import string
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import owned
import pytest
from conftest import data_dir
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st
from support import composed

from metarun.command import main
from metarun.config import GROUPS, choices, flat

# A run that fits: whatever is drawn comes after it.
SMALL = {
    "train.steps": "2",
    "train.meta_batch": "2",
    "eval.episodes": "2",
    "eval.val_episodes": "2",
    "eval.inner_steps": "[0,1]",
    "eval.inductive": "none",
    "hardware.task_chunk": "1",
    "logger": "none",
}
SMALL_MODEL = {
    "mlp": {"model.hidden": "[4]"},
    "conv4": {"model.filters": "4"},
    "conv4_maxpool": {"model.filters": "4"},
    "conv4_wide": {"model.filters": "[4,4,4,4]"},
    "resnet12": {"model.filters": "[4,4]"},
}

# What compiles quickly comes more often: most of the time goes into that.
WITH_DATA = {
    "omniglot": bool(data_dir()),
    "miniimagenet": False,
    "folder": False,
    "cifar_fs": False,
    "fc100": False,
    "clinc150": False,
    "banking77": False,
    "gymnax": False,
    "gymnax_trials": False,
}
TASKS = ["sinusoid"] * 4 + [task for task in choices("task") if WITH_DATA.get(task, True)]
GROUP_CHOICES = st.fixed_dictionaries(
    {
        "task": st.sampled_from(TASKS),
        "learner": st.sampled_from(choices("learner")),
        "model": st.sampled_from(["mlp"] * 6 + choices("model")),
        "optimizer": st.sampled_from(choices("optimizer")),
    }
)
NUMBERS = ["0", "1", "2", "3", "7", "-1", "0.5", "1.0", "1e-3", "1e30", "-1e400", "nan", "inf", "1" + "0" * 30]
ODD = [
    "", "null", "true", "abc", "''", "' '", "[]", "[1]", "[1,2]", "[[1]]", "{}", "{a:1}", "{_target_:os.system}",
    "{_target_:optax.adam}", "os.system", "metarun.learners.maml.MAML", "optax.sgd", "optax.cosine_decay_schedule",
    "'${oc.env:HOME}'", "'${train.steps}'", "'${nope}'", "'${'", "'${eval:1}'", "../x", "a/b", "'\x1b[31m'", "é",
    "mean", "sum_over_shots", "batch", "adam", "euclidean", "test", "val", "auto",
]  # fmt: skip
VALUES = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(ODD), st.text(string.printable, max_size=6))


@cache
def of_data(task: str) -> list[str]:
    """The settings without which a task of the user's own data is none."""
    short = {  # as its yaml has it, a meta-step may take seconds
        "bandits": ["task.pulls=3"],
        "navigation": ["task.horizon=3"],
        "tabular_mdp": ["task.steps=2", "task.episodes=2"],
    }
    if task in short:
        return short[task]
    make = {"arrays": owned.points, "table": owned.people, "text": owned.texts}
    if task not in make:
        return []
    folder = Path(os.environ["METARUN_CACHE_DIR"]) / "owned" / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    path = make[task](folder)
    return [f"task.path={path}", *(owned.OF_PEOPLE if task == "table" else [])]


@cache
def settings_of(group: str, choice: str) -> dict[str, Any]:
    """The settings that a choice of a group has."""
    values = flat(composed(f"{group}={choice}", *(of_data(choice) if group == "task" else [])))
    return {key: value for key, value in values.items() if key.startswith(f"{group}.")}


@cache
def other_settings() -> dict[str, Any]:
    """Those of no group that is drawn. Where files go is the test's own, and more meta-steps would take hours."""
    values = flat(composed(*(f"{key}={value}" for key, value in SMALL.items())))
    drawn = ("task.", "learner.", "model.", "optimizer.", "run.dir", "data_dir", "train.steps")
    return {key: value for key, value in values.items() if not key.startswith(drawn)}


def sensible(now: Any) -> st.SearchStrategy[str]:
    """Values like the one that a setting has."""
    if isinstance(now, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(now, int):
        return st.sampled_from(["1", "2", "3"])
    if isinstance(now, float):
        return st.floats(0.001, 1).map(str)
    return VALUES if now is None or isinstance(now, list) else st.just(str(now))


def misspelt(key: str, at: int) -> str:
    at %= len(key)
    return key[:at] + key[at + 1 :]


@st.composite
def commands(draw) -> list[str]:
    """A command line: choices of groups, and up to three settings, sensible or not."""
    chosen = draw(GROUP_CHOICES)
    now = other_settings() | {k: v for group, choice in chosen.items() for k, v in settings_of(group, choice).items()}
    settings_ = []
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(now)))
        value = draw(st.one_of(VALUES, sensible(now[key])))
        kind = draw(st.sampled_from(["set"] * 8 + ["add", "delete", "misspelt", "evaluation", "group", "anything"]))
        settings_.append(
            {
                "set": f"{key}={value}",
                "add": f"+{key}.more={value}",
                "delete": f"~{key}",
                "misspelt": f"{misspelt(key, draw(st.integers(0, 40)))}={value}",
                "evaluation": f"eval.{key if key.startswith(('task.', 'learner.')) else 'task.ways'}={value}",
                "group": f"{draw(st.sampled_from(GROUPS[:-1]))}={value}",
                "anything": draw(st.text(string.printable, min_size=1, max_size=12)),
            }[kind]
        )
    small = SMALL | SMALL_MODEL.get(chosen["model"], {})
    return [*(f"{key}={value}" for key, value in {**chosen, **small}.items()), *of_data(chosen["task"]), *settings_]


ENDS: Counter[str] = Counter()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory to run in; how the commands ended is told when all have."""
    yield tmp_path_factory.mktemp("random")
    if "METARUN_RANDOM_CONFIGS" in os.environ:
        print(f"\nrandom configurations: {dict(ENDS)}")


def over_commands(examples: int, begin: int):
    """The test once for each of so many random commands, the first from the seed `begin`."""

    def over(test):
        repeated = settings(
            max_examples=int(os.environ.get("METARUN_RANDOM_CONFIGS", examples)),
            deadline=None,
            database=None,
            phases=[Phase.generate],  # making a failure shorter would take many more runs
            suppress_health_check=list(HealthCheck),
        )
        return seed(int(os.environ.get("METARUN_RANDOM_SEED", begin)))(repeated(given(command=commands())(test)))

    return over


@over_commands(4, begin=4)  # one trains, three are refused: half of the time that others take
def test_any_command_ends_in_two_meta_steps_or_in_one_line(workplace, command):
    ends_well(workplace, command)


@pytest.mark.slow
@over_commands(30, begin=0)
def test_any_of_more_commands_ends_so(workplace, command):
    ends_well(workplace, command)


def ends_well(workplace: Path, command: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    faulthandler.dump_traceback_later(300, exit=True)  # a hang ends the tests
    shutil.rmtree(workplace / "RUN", ignore_errors=True)
    code: object = 0
    with (
        contextlib.chdir(workplace),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["metarun", *command, f"run.dir={workplace / 'RUN'}"]),
    ):
        try:
            main.command()
        except SystemExit as error:
            code = error.code or 0
    faulthandler.cancel_dump_traceback_later()
    told = err.getvalue()
    end = {0: "ran", 1: "failed in one line", 2: "refused in one line"}[code]
    ENDS[end] += 1
    event(end)
    if code == 0:
        assert (workplace / "RUN" / "results.json").exists() or told == ""
    else:
        assert told.startswith("metarun: "), told
        assert told.count("\n") == 1, told
    assert "Traceback" not in told + out.getvalue()
    assert not [path for path in Path(workplace).iterdir() if path.name != "RUN"], "wrote elsewhere"
