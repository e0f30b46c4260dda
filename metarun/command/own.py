"""What `metarun adapt` and `metarun predict` share: their options, and where the answers go."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metarun import text as terminal
from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.command.files import must_be_writable
from metarun.command.words import each_word
from metarun.config import nearest
from metarun.text import one_line

if TYPE_CHECKING:
    from metarun.data import Own
    from metarun.learned import Adapted
    from metarun.learned.answered import Answers

JSON, CSV, QUERIES = "--json", "--csv", "--queries"
FILES = {JSON: "FILE", CSV: "FILE"}
CHOICES = {QUERIES: ("alone", "together"), "--state": ("best", "last")}
# Numbers from 0 to so many, as of metarun.learned.learner.MOST.
WHOLE = {"--inner-steps": 2**31 - 1, "--seed": 2**32 - 1, "--ways": 2**31 - 1, "--shots": 2**31 - 1}


class Given(NamedTuple):
    """A command line, read."""

    path: Path  # the run, or what was kept
    options: dict[str, Any]


def read(verb: str, what: str, arguments: list[str], known: Mapping[str, str]) -> Given:
    """The command line in its parts; `known` has each option's value in words. Ends the program over a mistake."""
    options: dict[str, Any] = {}
    paths: list[str] = []
    for argument, name, value_of in each_word(arguments):
        if not argument.startswith("--"):
            if argument.startswith("-"):
                fail(f"{verb} {argument}: no such option; allowed: {', '.join(known)}", MISTAKE)
            paths.append(argument)
            continue
        if name not in known:
            near = nearest(name, list(known))
            fail(f"{verb} {name}: no such option; {near}", MISTAKE)
        if not (value := value_of()):
            fail(f"{verb} {name}: needs a value: {name} {known[name]}", MISTAKE)
        if name in options:
            fail(f"{verb} {name}: stands there twice", MISTAKE)
        options[name] = checked(verb, name, value)
    if len(paths) != 1:
        said = "names none" if not paths else f"names {len(paths)}, {' '.join(paths)}"
        support = "--support SUPPORT " if "--support" in known else ""
        fail(f"{verb}: {said}; name one {what}: metarun {verb} DIR {support}--query QUERIES", MISTAKE)
    if [options.get(name) for name in FILES] == ["-", "-"]:
        fail(f"{verb} {JSON} - {CSV} -: both cannot be standard output; name a file for one", MISTAKE)
    return Given(Path(paths[0]), options)


def checked(verb: str, name: str, value: str) -> Any:
    """An option's value. Ends the program over one that it cannot have."""
    if name in CHOICES and value not in CHOICES[name]:
        fail(f"{verb} {name} {value}: must be one of: {', '.join(CHOICES[name])}", MISTAKE)
    if name in WHOLE:
        return whole(verb, name, value)
    if name in FILES and value != "-":
        must_be_writable(verb, name, Path(value))
    return value


def whole(verb: str, name: str, value: str) -> int:
    """A number; of very many digits Python makes none. Ends the program over what is none, or too large."""
    most = WHOLE[name]
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(most)) and int(value) <= most):
        fail(f"{verb} {name} {value}: must be a whole number from 0 to {most:,}", MISTAKE)
    return int(value)


def console(options: Mapping[str, Any]) -> Any:
    """Where all goes that people read: standard error if standard output is for a program."""
    return terminal.console(stderr="-" in [options.get(name) for name in FILES], markup=False, soft_wrap=True)


def write(verb: str, options: Mapping[str, Any], answers: "Answers") -> list[str]:
    """The answers in the files that are asked for, and their names."""
    from metarun.files import write_atomically
    from metarun.learned.answered import as_csv, as_json

    made = {name: make(answers) for name, make in {JSON: as_json, CSV: as_csv}.items() if name in options}
    written = []
    for name, text in made.items():
        if options[name] == "-":
            print(text, end="")
            continue
        try:
            write_atomically(Path(options[name]), text)
        except OSError as error:
            fail(f"{verb}: {options[name]} cannot be written ({error.strerror})", FAILED)
        written.append(one_line(options[name]))
    return written


def learner_in_words(adapted: "Adapted", path: Path) -> str:
    """`protonet of runs/omniglot, best state, of meta-step 4,000`"""
    learner, used = adapted.learned.config["learner"]["_target_"].split(".")[-2], adapted.learned.used
    state = f", {used['state']} state, of meta-step {used['step']:,}" if "state" in used else ""
    return one_line(f"{learner} of {path}{state}")


def asked_in_words(path: str, query: "Own", queries: str) -> str:
    """`new: 12 queries without labels, each predicted alone`"""
    n = len(query.names)
    labels = ", without labels" if query.labels is None and query.targets is None else ""
    how = "all predicted together, each with the others in view" if queries == "together" else "each predicted alone"
    return one_line(f"{path}: {n:,} quer{'ies' if n > 1 else 'y'}{labels}, {how}")
