"""`metarun report RUN... [--out FILE] [--csv FILE] [--markdown FILE]`: one page about runs, or its tables alone."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.command.files import must_be_writable, write
from metarun.command.words import each_word
from metarun.text import one_line

HELP = """
metarun report RUN... [--out FILE] [--csv FILE] [--markdown FILE]

One page about a run or many, to open in a browser; it needs no network. RUN is a run's
directory, or one that holds runs, which may be finished, running, stopped or old.
Without an option the page is report.html.

  --out FILE        the page
  --csv FILE        its main table, for a spreadsheet
  --markdown FILE   its tables, for a text
                    FILE - is standard output

  metarun report runs --out report.html
  metarun report runs/multirun --markdown -
"""

OUT, CSV, MARKDOWN = "--out", "--csv", "--markdown"


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    paths, files = read(arguments)
    from metarun import report
    from metarun.core import DataError

    try:
        found = report.read(report.find(paths))
    except DataError as error:
        fail(error, MISTAKE)
    make = {OUT: report.html, CSV: report.as_csv, MARKDOWN: report.as_markdown}
    for name, file in files.items():
        write("report", file, report.as_text(make[name](found)))
        if str(file) != "-":
            print(one_line(f"{file}: {len(found)} run{'s' if len(found) != 1 else ''}"))
    if unreadable := [run.path for run in found if not run.config]:
        first = ", ".join(str(path) for path in unreadable[:3]) + (", ..." if len(unreadable) > 3 else "")
        some = f"{len(unreadable)} of {len(found)} runs have" if len(found) > 1 else "the run has"
        fail(f"report: {some} a config.yaml that cannot be read: {first}", FAILED)


def read(arguments: list[str]) -> tuple[list[Path], dict[str, Path]]:
    """The runs' paths, and the file of each option."""
    files: dict[str, Path] = {}
    paths: list[Path] = []
    for argument, name, value_of in each_word(arguments):
        if name not in (OUT, CSV, MARKDOWN):
            if argument.startswith("-"):
                fail(f"report {argument}: no such option; allowed: {OUT} FILE, {CSV} FILE, {MARKDOWN} FILE", MISTAKE)
            paths.append(Path(argument))
        elif value := value_of():
            files[name] = must_be_writable("report", name, Path(value))
        else:
            fail(f"report {name}: names no file; give one: metarun report RUN {name} FILE", MISTAKE)
    if not paths:
        fail("report: names no run; give a run's directory, or one that holds runs: metarun report runs", MISTAKE)
    return paths, files or {OUT: Path("report.html")}
