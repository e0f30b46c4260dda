"""`metarun bench [--trace DIR] [overrides]`: how fast meta-steps are on this machine."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.config import conf_dir, explain, translate

HELP = """
metarun bench [--trace DIR] [SETTING...]

Measures how fast the meta-steps of a configuration are here, what memory they take, and
what part of the speed of a large matrix product they reach: a line of JSON on standard
output, and a table on a terminal. Settings are those of a run.

  --trace DIR   also writes a profile of some meta-steps to DIR, for xprof or TensorBoard

  metarun bench learner=maml task=omniglot hardware.devices=1
"""


def main(arguments: list[str]) -> None:
    """Composes the configuration, measures it, prints what was found. Heavy imports wait until then."""
    settings, trace = read(arguments)
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    overrides = translate(settings)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", overrides=["run.dir=null", f"run.name={' '.join(settings)!r}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, settings), MISTAKE)

    from metarun.config.run import build_run, resolve
    from metarun.core import ConfigError, DataError
    from metarun.engine import OutOfMemory
    from metarun.run import bench

    try:
        resolved = resolve(cfg)
        resolved["run"]["dir"] = ""
        bench.tell(bench.bench(build_run(resolved), trace))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
    except OutOfMemory as error:
        fail(f"needs too much memory ({error}); take fewer examples or a smaller model", FAILED)


def read(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The settings, and where a profile is to go."""
    settings, trace, rest = [], None, list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            settings.append(argument)
        elif name == "--trace":
            directory = value if equals else "".join(rest[:1])
            rest = rest if equals else rest[1:]
            if not directory or directory.startswith("-"):
                fail("--trace: names no directory; give one: metarun bench --trace DIR", MISTAKE)
            trace = Path(directory)
        elif name in ("-m", "--multirun"):
            fail(f"bench {name}: bench takes one run; call it once for each", MISTAKE)
        else:
            fail(f"bench {name}: no such option; allowed: --trace DIR; a setting has no dashes: task=omniglot", MISTAKE)
    return settings, trace
