"""README.md and docs/design.md: what a reader pastes from them runs as it stands there."""

import csv
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import support
from support import composed

from metarun.command import bench, main
from metarun.command import eval as evaluate
from metarun.command.main import VERBS
from metarun.config import choices, translate
from metarun.config.resume import must_be_of_a_test
from metarun.config.run import build_run
from metarun.core import Grouped, Named, OfGroups, Tasks
from metarun.run.separation import Finite

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DESIGN, YOUR_DATA = ((ROOT / "docs" / name).read_text() for name in ("design.md", "your-data.md"))
SELECTION = (ROOT / "docs" / "selection.md").read_text()
LOGGERS = (ROOT / "docs" / "loggers.md").read_text()


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for own, content in every if own == language]


def two_files(page: str, title: str) -> dict[str, str]:
    """Path -> content of the python and the yaml of a section, under the names that it gives them."""
    text = section(page, title)
    (python,), (yaml,) = blocks(text, "python"), blocks(text, "yaml")
    (python_path,) = dict.fromkeys(re.findall(r"`(metarun/\w+/\w+\.py)`", text))
    (yaml_path,) = dict.fromkeys(re.findall(r"`(conf/\w+/\w+\.yaml)`", text))
    return {python_path: python, yaml_path: yaml}


def write(folder: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout, to write in."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("metarun", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def python(folder: Path, *words: str, **environment: str) -> str:
    """What `python -m WORDS` writes in a checkout, as one would there; fails if it fails."""
    found = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


QUICK = (
    "logger=none", "model.hidden=[8]", "train.steps=2", "train.meta_batch=2", "eval.episodes=4", "eval.val_episodes=2",
    "eval.inner_steps=[]", "hardware=cpu", "hardware.task_chunk=1",
)  # fmt: skip


def test_readmes_learner_and_the_designs_task_run_as_pasted_and_keep_their_contracts(checkout):
    """First as a class of one's own package, on the new task; then in the checkout, where the contract tests are."""
    learner = two_files(README, "Add a learner in two files")
    task = two_files(DESIGN, "A task distribution in two files")
    write(checkout, task)

    ((package, conf),) = re.findall(r"`METARUN_ALLOW=(\w+) metarun --config-dir=(\w+) learner=mine`", README)
    code, settings = (learner[path] for path in ("metarun/learners/mine.py", "conf/learner/mine.yaml"))
    own = settings.replace("metarun.learners.mine.", f"{package}.")
    assert own != settings
    write(checkout, {f"{package}.py": code, f"{conf}/learner/mine.yaml": own})
    words = ("metarun", f"--config-dir={conf}", "learner=mine", "task=clouds", "run.dir=one", *QUICK)
    assert "test accuracy" in python(checkout, *words, METARUN_ALLOW=package)
    assert f"_target_: {package}.Mine" in (checkout / "one" / "config.yaml").read_text()

    write(checkout, learner)
    (contract,) = [line for block in blocks(README, "") for line in block.splitlines() if "test_contracts" in line]
    (of_the_task,) = re.findall(r"`(python -m pytest tests/test_contracts.py -k clouds)`", DESIGN)
    command, name = contract.split(" -k ")
    assert of_the_task == f"{command} -k clouds"
    module, *words = command.removeprefix("python -m ").split()
    told = python(checkout, module, "-vv", "-p", "no:cacheprovider", *words, "-k", f"{name} or clouds")
    assert f"test_a_learner_keeps_its_protocol[{name}] PASSED" in told
    assert told.count("[clouds] PASSED") >= 5


PARTS = ("Images in folders", "A table with groups", "Texts")


@pytest.mark.parametrize(
    ("part", "trains"),
    [
        *(pytest.param(part, True, marks=pytest.mark.slow) for part in PARTS),
        *((part, False) for part in PARTS[1:]),
    ],
)
def test_the_page_of_ones_own_data_runs_as_pasted(part, trains, tmp_path, monkeypatch, capfd):
    """From a part's first block to its last; what is told of the table, the same everywhere, is as it stands there.

    Unless it `trains`, the settings of its runs are checked alone.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("metarun.run.log.console._width", 110)
    small = [word for word in QUICK if not word.startswith(("model.hidden", "logger"))]
    for language, text in re.findall(r"^```(python|console)\n(.*?)^```$", section(YOUR_DATA, part), re.M | re.S):
        if language == "python":
            subprocess.run([sys.executable, "-c", text], check=True, cwd=tmp_path)
            continue
        command, _, told = text.removeprefix("$ ").partition("\n")
        words = shlex.split(command)
        words += [] if words[1] == "data" else [*small, "model=mlp", "model.hidden=[8]"]
        if words[1] != "data" and not trains:
            build_run(composed(*translate(words[1:])))
            continue
        monkeypatch.setattr(sys, "argv", words)
        capfd.readouterr()
        main.command()
        found = capfd.readouterr().out
        if words[1:3] == ["data", "task=table"]:
            assert found.split() == told.split()
        assert ("5-way 5-shot" in found or "10 shots" in found) == (words[1] == "data")
        assert bool(re.search(r"test (accuracy|mse) ", found)) == (words[1] != "data")


def test_readmes_lines_of_python_run_as_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(section(README, "Use what was learned"), "python")
    exec(compile(code, "README.md", "exec"), {})
    assert re.match(r"\['(ant|bee)'( '(ant|bee)'){3}\] \[\[", capsys.readouterr().out)


def lines() -> list[str]:
    """Every command of README's blocks and of its prose, without what is said of it."""
    fenced = [line.split(" #")[0].strip() for block in blocks(README, "") for line in block.splitlines()]
    return [line for line in fenced if line] + re.findall(r"`((?:metarun|python|make) [^`]+)`", README)


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("metarun ")])
def test_a_metarun_command_of_readmes_is_one(line):
    words = line.split()[1:]
    if "--help" in words or words[0] in set(VERBS) - {"bench", "eval"} or " RUN" in line:
        assert words[0] == "--help" or words[0] in VERBS
        return
    if words[0] == "eval":
        words = evaluate.read(words[1:]).settings
        assert must_be_of_a_test(words)
    if words[0] == "bench":
        words = bench.read(words[1:]).settings
    words = [word for word in words if word not in ("-m", "--cfg", "job")]
    if [word.partition("=")[0] for word in words] == ["run.dir"]:  # goes on with a run that an earlier line started
        assert README.index(f" {words[0]} ") < README.index(f"`{line}`")
        return
    if "learner=mine" in words:
        return  # run by the test above
    if "-m" in line.split():
        words = [re.sub(r"=([^,]+),.*", r"=\1", word) for word in words]  # of a sweep the first
    words = [word.replace("train.seeds=", "train.seed=") for word in words]  # of several in one program the last
    translated = translate(words, multirun="-m" in line.split())
    build_run(composed(*(word for word in translated if not word.startswith("hydra"))))


def test_the_other_commands_of_readmes_are_there():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in lines():
        if line.startswith("make "):
            assert line.split()[1] in targets
        for script in re.findall(r"python (scripts/\S+)", line):
            assert (ROOT / script).exists()
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_logger_of_the_page_of_loggers_runs_as_pasted_beside_another(tmp_path, monkeypatch, capfd):
    """In a package of one's own; its rows are those of metrics.jsonl, its end what results.json says."""
    text = section(LOGGERS, "A logger in two files")
    (code,), (settings,) = blocks(text, "python"), blocks(text, "yaml")
    (module,), (file,) = re.findall(r"`(\w+\.py)`", text), re.findall(r"`(my_conf/\w+/\w+\.yaml)`", text)
    write(tmp_path, {module: code, file: settings})
    (command,) = re.findall(r"`(METARUN_ALLOW=[^`]+)`", text)
    (several,) = re.findall(r"`'(logger=\[wandb,mine\])'`", text)
    allowed, _, rest = command.removeprefix("METARUN_ALLOW=").partition(" ")
    words = [several if word == "logger=mine" else word for word in shlex.split(rest)]
    assert several in words
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mylab", raising=False)  # another test's
    monkeypatch.setenv("METARUN_ALLOW", allowed)
    monkeypatch.setenv("WANDB_MODE", "offline")
    quick = support.QUICK  # compiled by other tests, too
    monkeypatch.setattr(sys, "argv", [*words, *quick, "run.name=one", "run.dir=RUN"])
    try:
        main.command()
    finally:
        sys.modules.pop("mylab", None)
    with (tmp_path / "RUN" / "figures.csv").open(newline="") as written:
        lines = list(csv.reader(written))
    assert {name for name, *_ in lines} == {"one"}
    logged = [(int(when), figure, float(value)) for _, when, figure, value in lines if when != "end"]
    expected = [
        (row["step"], f"{row['split']}/{figure}", value)
        for row in map(json.loads, (tmp_path / "RUN" / "metrics.jsonl").read_text().splitlines())
        for figure, value in row.items()
        if figure not in ("step", "split")
    ]
    assert logged == expected
    end = {figure: float(value) for _, when, figure, value in lines if when == "end"}
    found = json.loads((tmp_path / "RUN" / "results.json").read_text())
    assert (end["test/mse"], end["test/mse_ci95"]) == tuple(found["test"]["mse"].values())
    assert list((tmp_path / "RUN" / "wandb").glob("offline-run-*"))


def test_the_page_of_selected_tasks_runs_as_pasted_and_its_commands_are_some(tmp_path, monkeypatch, capsys):
    for line in [line for block in blocks(SELECTION, "") for line in block.splitlines()]:
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "eval":
            assert must_be_of_a_test(evaluate.read(words[1:]).settings)
        else:
            build_run(composed(*translate(words)))
    (code,) = blocks(SELECTION, "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "selection.md", "exec"), {})
    mean, worst, tail = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert 0 < mean < tail < worst


@pytest.mark.parametrize("line", blocks(LOGGERS.partition("\n## ")[0], "")[0].splitlines())
def test_a_command_of_the_page_of_loggers_is_one(line):
    words = shlex.split(line, comments=True)[1:]
    if not words[0].startswith("run.dir="):
        assert build_run(composed(*translate(words))).loggers


def test_the_page_of_loggers_has_all_of_wandbs_settings():
    told = set(re.findall(r"`logger\.(\w+)", LOGGERS))
    assert {"mode", "notes", "job_type", "group", "checkpoint"} == told
    assert told <= composed("logger=wandb")["logger"].keys()


def test_the_design_tells_all_that_a_task_distribution_has():
    table = section(DESIGN, "A task distribution in two files").split("| --- | --- |")[1]
    names = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("|")]
    told = set(re.findall(r"`(\w+)[`(]", "".join(names)))
    protocols = [
        name
        for protocol in (Tasks, Named, Grouped, OfGroups, Finite)
        for name in vars(protocol)
        if not name.startswith("_")
    ]
    assert told == {*protocols, "ways", "shots", "queries"}


def test_readme_counts_the_learners():
    assert f"which of the {len(choices('learner'))} learners" in README


def test_the_metarun_command_is_where_pyproject_says():
    module, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["metarun"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
