"""`metarun export RUN|ADAPTED --out FILE`: what was learned as one file that runs with jax alone, without metarun."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarun.command import own
from metarun.command.exits import FAILED, MISTAKE, fail, in_one_line
from metarun.command.files import must_be_writable
from metarun.command.words import each_word
from metarun.files import write_atomically
from metarun.text import one_line

if TYPE_CHECKING:
    from metarun.learned.exported import Exported

HELP = """
metarun export RUN|ADAPTED --out FILE [--kind predictor|learner] [--ways N --shots N]
               [--inner-steps N] [--queries alone|together] [--platforms cpu,cuda,tpu]
               [--weights FILE.safetensors]

One file, to be used where metarun is not: a program (StableHLO, by jax.export) for any
number of queries, and learner.json, which says what it takes, what it gives, and how the
inputs were prepared. docs/use.md has the lines that call it; they need jax alone.

Of a directory that metarun adapt --save made, the file holds a predictor: queries in,
probabilities of the task's classes out (targets, of a regression, and their standard
deviations from a learner that says how sure it is). Of a run it holds the learner itself: a
support set and queries in.

  --out FILE        the file, a zip
  --kind KIND       predictor or learner, where it is not to be as said above
  --ways N          of the learner's support sets; so many as in the run's test,
  --shots N         if left out
  --inner-steps N   of the learner; its own number, if left out
  --queries HOW     alone: each query is predicted with the support set only; together:
                    all of a call at once, where the model normalises by what it is given
  --platforms LIST  of cpu, cuda and tpu, with commas; all three, if left out
  --weights FILE    all that was learned, as safetensors; --out may then be left out

  metarun export runs/omniglot-protonet/2026-11-21_12-00-00 --out learner.zip --shots 5
  metarun export my_symbols --out symbols.zip --platforms cpu
"""

CHOICES = {"--kind": ("predictor", "learner"), "--queries": ("alone", "together")}
NUMBERS = {"--ways": "ways", "--shots": "shots", "--inner-steps": "inner_steps"}
FILES = ("--out", "--weights")
OPTIONS = (*FILES, *CHOICES, *NUMBERS, "--platforms")


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    path, values = read(arguments)
    files = {name: must_be_writable("export", name, Path(values[name])) for name in FILES if name in values}
    with in_one_line("export"):
        export(path, values, files)


def export(path: Path, values: dict[str, str], files: dict[str, Path]) -> None:
    """Writes the files that are asked for. Raises ConfigError and DataError."""
    from metarun.learned import exported, weights
    from metarun.learned.learner import Adapted
    from metarun.learned.loaded import found

    one = found(path)
    learned = one.learned if isinstance(one, Adapted) else one
    if "--out" in files:
        made = made_of(path, one, values)
        wrote(files["--out"], lambda file: exported.write(file, made), summary(made))
    if "--weights" in files:
        content = weights(learned.params)
        wrote(files["--weights"], lambda file: write_atomically(file, content), "all that was learned")


def read(arguments: list[str]) -> tuple[Path, dict[str, str]]:
    """What is to be exported, and the value of each option."""
    paths, values = [], {}
    for argument, name, value_of in each_word(arguments):
        if not argument.startswith("-"):
            paths.append(argument)
        elif name not in OPTIONS:
            fail(f"export {argument}: no such option; allowed: {', '.join(OPTIONS)}", MISTAKE)
        elif value := value_of():
            values[name] = value
        else:
            fail(f"export {name}: is given no value; metarun export --help tells of it", MISTAKE)
    if len(paths) != 1:
        what = f"{len(paths)} directories" if paths else "no run"
        fail(f"export: names {what}; give one, a run's or an adapted learner's: metarun export RUN --out FILE", MISTAKE)
    if not set(FILES) & set(values):
        fail(f"export {paths[0]}: names no file; give one: metarun export {paths[0]} --out FILE", MISTAKE)
    for name, allowed in CHOICES.items():
        if name in values and values[name] not in allowed:
            fail(f"export {name} {values[name]}: must be one of: {', '.join(allowed)}", MISTAKE)
    for name in NUMBERS:
        if name in values:
            own.whole("export", name, values[name])
    return Path(paths[0]), values


def made_of(path: Path, one: Any, values: dict[str, str]) -> "Exported":
    """Of what is in `path`: an adapted learner, or one that is not. Raises ConfigError."""
    from metarun.learned import exported
    from metarun.learned.learner import Adapted

    adapted = isinstance(one, Adapted)
    kind = values.get("--kind") or ("predictor" if adapted else "learner")
    how: dict[str, Any] = {"queries": values.get("--queries", "alone")}
    if "--platforms" in values:
        how["platforms"] = values["--platforms"].split(",")
    if kind == "learner":
        how |= {NUMBERS[name]: int(values[name]) for name in NUMBERS if name in values}
        return exported.learner(one.learned if adapted else one, **how)
    if not adapted:
        adapt = f"metarun adapt {path} --support DIR --save ADAPTED"
        fail(f"export --kind predictor {path}: is adapted to no task; adapt it first ({adapt})", MISTAKE)
    if given := [name for name in NUMBERS if name in values]:
        fail(f"export {given[0]}: a predictor has adapted already; leave it out, or give --kind learner", MISTAKE)
    return exported.predictor(one, **how)


def summary(made: "Exported") -> str:
    """What goes in and out: `predictor, x (b, 28, 28, 1) -> probabilities (b, 5), for cpu, cuda, tpu`."""

    def shaped(value: dict[str, Any]) -> str:
        return f"{value['name']} ({', '.join(map(str, value['shape']))}{',' if len(value['shape']) == 1 else ''})"

    inputs = ", ".join(map(shaped, made.told["inputs"]))
    outputs = ", ".join(shaped(made.told[name]) for name in ("output", "further_output") if name in made.told)
    return f"{made.told['kind']}, {inputs} -> {outputs}, for {', '.join(made.told['platforms'])}"


def wrote(file: Path, write: Any, what: str) -> None:
    """Writes the file, and says so."""
    try:
        write(file)
    except OSError as error:
        fail(f"export: {file} cannot be written ({error.strerror})", FAILED)
    print(one_line(f"{file}: {what}; {file.stat().st_size / 1000:,.0f} kB"))
