"""The verbs: `metarun bench`, `data`, `replay` and `report`. Heavy imports wait until the arguments have been read."""

import os
from pathlib import Path

from metarun.conf import conf_dir
from metarun.exits import FAILED, MISTAKE, fail
from metarun.overrides import explain, translate
from metarun.text import one_line


def bench(arguments: list[str]) -> None:
    """`metarun bench [--trace DIR] [overrides]`."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    trace = None
    if "--trace" in arguments:
        at = arguments.index("--trace")
        if at + 1 == len(arguments):
            fail("--trace: names no directory; give one: metarun bench --trace DIR", MISTAKE)
        trace = Path(arguments[at + 1])
        arguments = arguments[:at] + arguments[at + 2 :]
    overrides = translate(arguments)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", overrides=["run.dir=null", f"run.name={' '.join(arguments)!r}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, arguments), MISTAKE)

    from metarun import bench, config
    from metarun.core import ConfigError, DataError

    try:
        resolved = config.resolve(cfg)
        resolved["run"]["dir"] = ""
        bench.tell(bench.bench(config.build_run(resolved), trace))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)


def data(arguments: list[str]) -> None:
    """`metarun data TASK [data_dir=DIR]`."""
    from metarun.core import DataError
    from metarun.tasks import miniimagenet, omniglot

    directory, wanted = os.environ.get("METARUN_DATA_DIR"), "omniglot"
    for argument in arguments:
        if argument.startswith("data_dir="):
            directory = argument.removeprefix("data_dir=")
        elif (wanted := argument.removeprefix("task=")) not in ("omniglot", "miniimagenet"):
            fail(f"{argument}: no such data set; allowed: omniglot, miniimagenet", MISTAKE)
    try:
        if wanted == "omniglot":
            names, images = omniglot.load_drawings(directory)
            found = f"{len(names):,} characters, {images.shape[0] * images.shape[1]:,} drawings"
        else:
            shapes = [miniimagenet.photographs(directory, split).shape for split in miniimagenet.LISTS]
            found = f"{sum(n for n, *_ in shapes):,} classes, {sum(n * each for n, each, *_ in shapes):,} images"
    except DataError as error:
        fail(error, FAILED)
    print(f"{wanted}: {found}, ready")


def replay(arguments: list[str]) -> None:
    """`metarun replay DIR`."""
    from metarun import nonfinite
    from metarun.core import ConfigError, DataError

    if len(arguments) != 1:
        fail("replay: takes one directory, of a run that stopped at a meta-step that was not finite", MISTAKE)
    try:
        print(nonfinite.tell(nonfinite.replay(Path(arguments[0]))))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)


def report(arguments: list[str]) -> None:
    """`metarun report RUN... [--out FILE] [--csv FILE] [--markdown FILE]`."""
    from metarun.core import DataError
    from metarun.log import write_atomically
    from metarun.report import page, runs, tables

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
        found = runs.read(runs.find(paths))
        make = {"--out": page.html, "--csv": tables.as_csv, "--markdown": tables.as_markdown}
    except DataError as error:
        fail(error, MISTAKE)
    for name, file in (files or {"--out": Path("report.html")}).items():
        text = runs.as_text(make[name](found))
        try:
            write_atomically(file, text)
        except OSError as error:
            why = error.strerror if file.parent.exists() else "make the directory first"
            fail(f"report: {file} cannot be written ({why})", FAILED)
        print(one_line(f"{file}: {len(found)} run{'s' if len(found) != 1 else ''}"))


VERBS = {"bench": bench, "data": data, "replay": replay, "report": report}
