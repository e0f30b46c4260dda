"""`metarun [overrides]`: trains and tests one run or, with -m, one for every combination."""

import os
import sys
import threading
import traceback
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.command.exits import FAILED, MISTAKE, STOPPED, fail
from metarun.config import GROUPS, choices, conf_dir, explain, translate
from metarun.text import one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: list[str]) -> None:
    """Composes the configuration with Hydra and runs it, once or (with -m) for every combination."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's errors reach us, to be told in one line
    for before, argument in pairwise(["", *arguments]):
        group, _, choice = argument.partition("=")
        if group in GROUPS[:-1] and choice in ("", "null") and before not in ("-p", "--package"):
            fail(f"{argument}: choose one; allowed: {', '.join(choices(group))}", MISTAKE)
    sys.argv[1:] = translate(arguments)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, arguments), MISTAKE)
    except OSError as error:
        if error.filename is None:
            fail(f"run.dir: cannot be written ({error})", FAILED)
        fail(f"run.dir: {error.filename} cannot be made or written ({error.strerror})", MISTAKE)
    except Exception as error:
        if job.__code__ in [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]:
            raise  # a fault of metarun's own: the traceback is what mends it
        fail(explain(error, arguments), MISTAKE)  # Hydra and its parser raise other kinds, too


def job(cfg: "DictConfig") -> None:
    """One run: checks its configuration, trains or goes on, tests, and tells the result."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    slow = threading.Timer(2.0, print, ["loading JAX"], {"flush": True})  # 10 seconds, on a machine just started
    slow.daemon = True
    slow.start()

    from metarun.config.resume import resume
    from metarun.config.run import build_run, resolve
    from metarun.core import ConfigError, DataError
    from metarun.engine import OutOfMemory
    from metarun.run import results, train

    slow.cancel()
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        directory = Path(os.path.relpath(directory)) if directory.is_relative_to(Path.cwd()) else directory
        cfg.run.dir = str(directory)
        resolved = resolve(cfg)
        overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("run.dir=")]
        if (directory / "config.yaml").exists():
            resolved = resume(directory, resolved, [o.lstrip("+~").split("=")[0] for o in overrides])
        elif HydraConfig.get().overrides.task and not overrides:
            raise ConfigError(
                "run.dir", directory, "holds no run to go on with; to start one there, add task= or learner="
            )
        results.tell(train.train(build_run(resolved)), directory)
    except ConfigError as error:
        fail(error, MISTAKE)
    except train.NotFinite as error:
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            fail(error, FAILED)
        print(f"metarun: {one_line(error)}", file=sys.stderr)  # the other combinations of a sweep go on
    except DataError as error:
        fail(error, FAILED)
    except OutOfMemory as error:
        fail(f"even one task at a time needs too much memory ({error}); take fewer examples or a smaller model", FAILED)
    except train.NotWritten as error:
        if error.found is not None:
            results.tell(error.found, directory)
        fail(error, FAILED)
    except train.Interrupted as error:
        fail(error, STOPPED)
    finally:
        remove_if_empty(directory)


def remove_if_empty(directory: Path) -> None:
    """Hydra makes a run's directory before the run is known to be sound: takes an unused one away again."""
    try:
        for folder in (directory, *directory.parents[:2]):
            folder.rmdir()
    except OSError:
        pass  # not empty: something of the user's is in it
