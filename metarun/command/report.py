"""`metarun report RUN... [--out FILE] [--csv FILE] [--markdown FILE]`: one page about runs, or its tables alone."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.text import one_line


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    from metarun import report
    from metarun.core import DataError
    from metarun.files import write_atomically

    files: dict[str, Path] = {}
    paths: list[Path] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name not in ("--out", "--csv", "--markdown"):
            if argument.startswith("-"):
                fail(f"report {argument}: no such option; allowed: --out FILE, --csv FILE, --markdown FILE", MISTAKE)
            paths.append(Path(argument))
        elif value := value if equals else "".join(rest[:1]):
            files[name] = Path(value)
            rest = rest if equals else rest[1:]
            if files[name].is_dir():
                fail(f"report {name} {value}: is a directory; name a file in it", MISTAKE)
        else:
            fail(f"report {name}: names no file; give one: metarun report RUN {name} FILE", MISTAKE)
    if not paths:
        fail("report: names no run; give a run's directory, or one that holds runs: metarun report runs", MISTAKE)
    try:
        found = report.read(report.find(paths))
        make = {"--out": report.html, "--csv": report.as_csv, "--markdown": report.as_markdown}
    except DataError as error:
        fail(error, MISTAKE)
    for name, file in (files or {"--out": Path("report.html")}).items():
        text = report.as_text(make[name](found))
        try:
            write_atomically(file, text)
        except OSError as error:
            why = error.strerror if file.parent.exists() else "make the directory first"
            fail(f"report: {file} cannot be written ({why})", FAILED)
        print(one_line(f"{file}: {len(found)} run{'s' if len(found) != 1 else ''}"))
