"""`metarun bench [--trace DIR] [overrides]`: how fast meta-steps are on this machine."""

from pathlib import Path

from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.config import conf_dir, explain, translate


def main(arguments: list[str]) -> None:
    """Composes the configuration, measures it, prints what was found. Heavy imports wait until then."""
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

    from metarun.config.run import build_run, resolve
    from metarun.core import ConfigError, DataError
    from metarun.run import bench

    try:
        resolved = resolve(cfg)
        resolved["run"]["dir"] = ""
        bench.tell(bench.bench(build_run(resolved), trace))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
