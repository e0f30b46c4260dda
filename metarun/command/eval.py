"""`metarun eval RUN... [SETTING...]`: runs tested again, under another protocol, with nothing of them touched."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metarun import stderr, text
from metarun.command.composed import composed
from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.command.files import must_be_writable, write
from metarun.command.options import is_directory
from metarun.command.words import each_word
from metarun.text import one_line, printable

if TYPE_CHECKING:
    from metarun import report
    from metarun.run.evaluation import Evaluated, Known

HELP = """
metarun eval RUN... [SETTING...] [--json FILE] [--keep NAME]

Tests a run again, finished, stopped or at work, and touches nothing of it. RUN is a run's
directory, or one that holds runs, or one that a learner was kept in, or the name of a
learner that comes with metarun (metarun ready). Without a setting the figures are those of
the run's own end, of the same episodes. Settings are of the test alone:

  eval.task.ways=20 eval.task.shots=5 eval.task.queries=15    other episodes
  eval.episodes=2000 eval.seed=1 eval.split=val eval.state=last
  eval.shots=[1,5] eval.inner_steps=[0,10] eval.inductive=all
  eval.learner.inner_steps=10      a learner's setting that leaves what was learned as it is
  'eval.tasks={omniglot: {}}'      other data
  hardware.*, data_dir, task.path, inner.mode, inner.unroll, inner.remat

Of several runs there is one table, the best first; runs that differ in nothing but their
seed are gathered. One that fails is told on standard error, and the others go on.

  --json FILE    all figures, with what they are of, by the names of results.json; of
                 several runs {"runs": [...], "experiments": [...]}; - is standard output
  --keep NAME    also keeps each test beside its run, RUN/tests/NAME.json, where the
                 report finds it

  metarun eval runs/first eval.task.ways=20
  metarun eval runs/multirun eval.episodes=2000 --keep long --json figures.json
  metarun eval strokes-protonet eval.task.ways=20
"""

JSON, KEEP = "--json", "--keep"
WANTS = {
    JSON: "names no file; give one: metarun eval RUN --json FILE",
    KEEP: "names no test; give a name: metarun eval RUN --keep 20-way",
}


class Asked(NamedTuple):
    """A command line, read."""

    runs: list[Path]
    settings: list[str]
    json: Path | None
    keep: str | None


class Failed(NamedTuple):
    """Why a run was not tested, and the exit code where it is the only one."""

    why: str
    code: int


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    asked = read(arguments)
    from metarun import report
    from metarun.config.composed import as_users_write
    from metarun.config.resume import must_be_of_a_test
    from metarun.config.run import resolve
    from metarun.core import ConfigError, DataError
    from metarun.run import evaluation, kept_tests

    try:
        keys = must_be_of_a_test(asked.settings)
        if asked.keep is not None:
            kept_tests.place(Path(), asked.keep)
        config = resolve(composed(asked.settings, "eval"))
        learners, runs = without_a_run(asked)
        found = [*learners, *(report.find(runs) if runs else [])]
    except (ConfigError, DataError) as error:
        fail(error, MISTAKE)
    alone = len(asked.runs) == 1 and found in ([asked.runs[0]], [asked.runs[0].resolve()])
    tests: dict[Path, Evaluated] = {}
    with evaluation.on_terminal(errors=str(asked.json) == "-"):
        for path in found:
            directory = as_users_write(path)
            test = tested(directory, config, keys, asked.keep, "" if alone else f"{path.name}: ", path in learners)
            if not isinstance(test, Failed):
                tests[path] = test
            elif alone:
                fail(*test)
            else:
                which = "" if str(directory) in test.why else f"{directory}: "
                stderr.say(f"metarun: {one_line(which + test.why)}\n")
        for line in dict.fromkeys(line for test in tests.values() for line in test.told):
            stderr.say(f"{one_line(line)}\n")
        content: dict[str, Any] = {"runs": [], "experiments": []}
        if alone:
            content = tests[found[0]].found
            evaluation.tell(content, asked.keep)
        elif tests:
            together = report.compared({path: report.Tested(test.config, test.found) for path, test in tests.items()})
            content = {"runs": [tests[path].found for path in together.order], "experiments": together.experiments}
            tell(together, asked)
        if asked.json is not None:
            write("eval", asked.json, kept_tests.as_json(content))
    if len(tests) < len(found):
        fail(f"eval: {len(found) - len(tests)} of {len(found)} runs were not tested", FAILED)


def without_a_run(asked: Asked) -> tuple[list[Path], list[Path]]:
    """The learners that stand apart from their runs, by directory or by name, and the runs.

    Ends the program over --keep of the former, and over a misspelt name.
    """
    from metarun.learned import kept, ready
    from metarun.learned.loaded import place_of

    learners = [path for path in asked.runs if kept.is_kept(place_of(path))]
    runs = [path for path in asked.runs if path not in learners]
    if learners and asked.keep is not None:
        why = f"{learners[0]} is a learner apart from its run, and keeps no tests; give --json FILE"
        fail(f"eval --keep {asked.keep}: {why}", MISTAKE)
    for path in runs:
        if not path.exists():
            named = f", and none of metarun ready's; {ready.nearest_name(str(path))}" if "/" not in str(path) else ""
            fail(f"eval {path}: no such directory{named}", MISTAKE)
    return learners, runs


def known_of(path: Path, keys: list[str], config: dict[str, Any]) -> tuple["Known", list[str]]:
    """A learner that stands apart from its run, and what is to be told of it. Raises ConfigError and DataError."""
    from metarun.config.resume import as_today
    from metarun.config.run import resolve
    from metarun.core import ConfigError
    from metarun.learned.learner import Adapted
    from metarun.learned.loaded import found
    from metarun.run.evaluation import Known

    one = found(path)
    learned = one.learned if isinstance(one, Adapted) else one
    state = config["eval"]["state"]
    if "eval.state" in keys and state != learned.used["state"]:
        raise ConfigError("eval.state", state, f"{path} has its {learned.used['state']} state alone; leave it out")
    if "train" not in learned.config:
        raise ConfigError(
            "run", path, "was kept by an earlier metarun, without all that a test needs; keep it again, or name its run"
        )
    whole = resolve(composed([], "eval"))
    stored = {**whole, **learned.config, "run": {**whole["run"], "dir": str(path), "name": path.name}}
    here = {"data_dir": whole["data_dir"]}  # of a learner that is from elsewhere
    stored |= here if stored["data_dir"] is None else {}
    stored["task"] = stored["task"] | (here if stored["task"].get("data_dir", "") is None else {})
    told = [f"{path}: what it was adapted to is left out; it adapts to each task of the test"]
    known = Known(as_today(stored, whole), learned.params, learned.used, learned.purpose)
    return known, told if isinstance(one, Adapted) else []


def tested(
    directory: Path, config: dict[str, Any], keys: list[str], keep: str | None, of: str, apart: bool
) -> "Evaluated | Failed":
    """The test of a run, or of a learner that stands apart from its run; or why there is none."""
    from metarun.core import ConfigError, DataError
    from metarun.engine import OutOfMemory
    from metarun.run import evaluation

    try:
        if not apart:
            return evaluation.evaluate(directory, config, keys, keep, of)
        known, told = known_of(directory, keys, config)
        test = evaluation.evaluate(directory, config, keys, keep, of, known)
        return test._replace(told=[*told, *test.told])
    except ConfigError as error:
        return Failed(str(error), MISTAKE)
    except DataError as error:
        return Failed(str(error), FAILED)
    except OutOfMemory as error:
        return Failed(f"needs too much memory, even with one task at a time ({error}); take fewer examples", FAILED)
    except OSError as error:
        if error.filename is None:
            raise
        return Failed(f"{error.filename} cannot be read or written ({error.strerror})", FAILED)


def read(arguments: list[str]) -> Asked:
    """The command line in its parts. A word is a run if a directory has that name, or if it has no equals sign."""
    values: dict[str, str] = {}
    runs: list[Path] = []
    settings: list[str] = []
    for argument, name, value_of in each_word(arguments):
        if name in WANTS:
            value = value_of()
            if not value or (value.startswith("-") and value != "-"):
                fail(f"eval {name}: {WANTS[name]}", MISTAKE)
            values[name] = value
        elif argument.startswith("-"):
            fail(f"eval {name}: no such option; allowed: --json FILE, --keep NAME; a setting has no dashes", MISTAKE)
        elif "=" in argument and not is_directory(argument):
            settings.append(argument)
        else:
            runs.append(Path(argument))
    if not runs:
        fail("eval: names no run; give a run's directory, or one that holds runs: metarun eval runs", MISTAKE)
    file = values.get(JSON)
    return Asked(runs, settings, None if file is None else must_be_writable("eval", JSON, Path(file)), values.get(KEEP))


def tell(together: "report.Compared", asked: Asked) -> None:
    """The table of several runs' tests, and what all of them are of."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*together.table.columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in together.table.rows:
        table.add_row(*(Text(printable(cell.text)) for cell in row))
    console = text.console(stderr=str(asked.json) == "-")
    console.print(table)
    lines = {"tested on": together.in_common, "kept": f"RUN/tests/{asked.keep}.json" if asked.keep else ""}
    for name, line in lines.items():
        if line:
            console.print(f"{name:<12}{line}", markup=False, soft_wrap=True)
