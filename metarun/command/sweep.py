"""A sweep: every combination is checked before the first trains, and at the end it is told which failed."""

import copy
import sys
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.command.train import as_given, as_users_write, checked
from metarun.config import explain
from metarun.text import one_line


class Sweep(Callback):
    """What Hydra calls when a sweep begins, after each of its runs, and when it ends: see conf/config.yaml."""

    def __init__(self) -> None:
        self.runs = 0
        self.fixed: set[str] = set()  # settings that all combinations have
        self.failed: list[str] = []  # a line each

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program over the first combination that is a mistake. Nothing of the sweep is on the disk yet."""
        from metarun.core import ConfigError

        before, overrides = HydraConfig.instance().cfg, as_given(config)
        try:
            str(config.hydra.sweep.dir)  # its date is then the same for all, as Hydra keeps it
            every = combinations(config)
            self.fixed = set.intersection(*map(set, every)) if len(every) > 1 else set()
            taken: set[Path] = set()
            for number, overrides in enumerate(every):
                cfg, directory = composed(config, number, overrides)
                if directory in taken:
                    raise ConfigError("hydra.sweep.subdir", directory, "each run wants a directory of its own")
                taken.add(directory)
                checked(cfg, directory)
        except Exception as error:
            GlobalHydra.instance().clear()  # `explain` composes anew
            said = str(error) if isinstance(error, ConfigError) else explain(error, overrides)
            fail(f"{said}{f' (in the combination {self.own(overrides)})' if self.fixed else ''}", MISTAKE)
        finally:
            HydraConfig.instance().cfg = before

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Takes down what failed, if the run did."""
        self.runs += 1
        if (why := job_return.return_value) is not None:
            directory = as_users_write(Path(config.hydra.runtime.output_dir))
            self.failed.append(f"{directory} ({self.own(as_given(config))}): {why}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Tells what failed, a line for each run, and ends the program as a failed run ends."""
        if self.failed:
            print(f"metarun: {len(self.failed)} of {self.runs} runs of the sweep failed:", file=sys.stderr)
            print("\n".join(f"  {one_line(line)}" for line in self.failed), file=sys.stderr)
            sys.exit(FAILED)

    def own(self, overrides: list[str]) -> str:
        """What sets a combination apart from the others."""
        return " ".join(setting.lstrip("+") for setting in overrides if setting not in self.fixed)


def combinations(config: DictConfig) -> list[list[str]]:
    """The settings of every run, as Hydra's own sweeper expands them; none of another sweeper, which may search."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        return []
    settings = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    (every,) = BasicSweeper.split_arguments(parser.parse_overrides([*settings, *as_given(config)]), None)
    return every


def composed(config: DictConfig, number: int, overrides: list[str]) -> tuple[DictConfig, Path]:
    """A combination's configuration and directory, as Hydra's run_job makes them; HydraConfig is then its own."""
    cfg = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    HydraConfig.instance().set_config(cfg)
    directory = Path(cfg.hydra.sweep.dir, str(cfg.hydra.sweep.subdir)).absolute()
    own = copy.deepcopy(cfg)
    with read_write(own), open_dict(own):
        del own["hydra"]
    return own, as_users_write(directory)
