"""A search for the best settings, with Optuna: which trial comes next, and whether one that is at work is hopeless."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from metarun.core import ConfigError
from metarun.run.terminal import say
from metarun.sweep import record
from metarun.sweep.composed import runs
from metarun.sweep.grid import by_key, make, must_agree, tell
from metarun.sweep.objective import direction_of, must_be_validated
from metarun.sweep.place import asked_for, settings_of_hydra, taken
from metarun.sweep.record import Sweep

if TYPE_CHECKING:
    from metarun.sweep.space import Space

INSTALL = 'needs Optuna, which is not here; pip install "metarun[optuna]"'
ALLOWED = {
    "sampler": ("tpe", "random", "grid"),
    "direction": ("auto", "maximize", "minimize"),
    "pruner": ("median", "none"),
}
MOST = 100_000  # combinations of a grid
MANY = 20  # trials, where nothing is said


class Search(Sweeper):
    """A job is a trial of the same number. Trials are asked for as there is room for them, and told how they ended."""

    def __init__(
        self,
        trials: int | str,
        sampler: str,
        seed: int,
        objective: str | None,
        direction: str,
        pruner: str | None,
        retry: bool,
        params: dict[str, Any] | None = None,
    ) -> None:
        self.trials, self.seed, self.retry, self.objective = trials, seed, retry, objective
        self.chosen = {"sampler": sampler, "direction": direction, "pruner": pruner or "none"}
        self.params = dict(params or {})

    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        must_be_allowed(self.trials, self.seed, self.chosen)
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper", "optuna", INSTALL)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Makes the trials that are left. Ends the program if one failed. Raises Mistake and ConfigError."""
        from metarun.sweep import study
        from metarun.sweep.space import space_of
        from metarun.sweep.trials import Trials

        space = space_of(arguments, self.params)
        with taken(self.config, partial(self.planned, arguments, space)) as sweep:
            at_work = Trials(self.config, space, sweep, self.retry)
            record.revise(sweep)
            make(self.launcher, at_work.work)
            sweep = record.read(sweep.directory)
            at_work.settle(sweep)
            important = study.importance(at_work.study)
        if len(important) > 1:
            shares = ", ".join(f"{key} {share:.2f}" for key, share in important.items())
            say(f"what mattered (PED-ANOVA, shares of 1): {shares}")
        tell(sweep)

    def planned(self, arguments: list[str], space: "Space", directory: Path, there: Sweep | None) -> Sweep:
        """The search that is `there`, or a new one, whose first trial is sound, and so are the ends of its numbers."""
        from metarun.sweep import study

        if there is not None:
            return self.gone_on_with(there, arguments, space)
        kind, direction = self.chosen["sampler"], self.chosen["direction"]
        trial = study.ask(study.in_memory(), kind, self.seed, space)  # as it will be asked in the directory
        every = [space.settings(trial.params), *space.ends(trial.params)]
        (_, run), *_ = runs(self.config, {n: list(one) for n, one in enumerate(every)}, {*space.fixed.values()})
        metric = self.objective or run.tasks.metric
        must_be_validated(run.tasks, metric)
        search = {
            "trials": self.number_of_trials(space, MANY),
            **self.chosen,
            "seed": self.seed,
            "objective": metric,
            "direction": direction_of(metric) if direction == "auto" else direction,
            "space": space.text,
        }
        return replace(asked_for(self.config, directory, arguments, "optuna"), search=search)

    def number_of_trials(self, space: "Space", auto: int) -> int:
        """How many there shall be: no more than there are combinations. Raises ConfigError."""
        endless = self.chosen["sampler"] != "grid" and not space.is_finite()
        there = sys.maxsize if endless else space.combinations()
        if self.chosen["sampler"] == "grid":
            if there > MOST:
                raise ConfigError("hydra.sweeper.sampler", "grid", f"is of {there:,} combinations; at most {MOST:,}")
            auto = there
        return min(auto if self.trials == "auto" else int(self.trials), there)

    def gone_on_with(self, before: Sweep, arguments: list[str], space: "Space") -> Sweep:
        """A search as this command has it, in what may change. Raises ConfigError by key over what may not."""
        if not before.search:
            must_agree(before, {"hydra/sweeper": "optuna"})
        now = {**self.chosen, "seed": self.seed, "objective": self.objective}
        now |= {key: before.search[key] for key in ("objective", "direction") if now[key] in (None, "auto")}
        must_agree(
            before,
            {"hydra/sweeper": "optuna", **by_key(arguments), **as_settings(now, space.text)},
            as_settings(before.search, before.search["space"]),
        )
        trials = self.number_of_trials(space, before.search["trials"])
        search = {**before.search, "trials": trials, "pruner": self.chosen["pruner"]}
        return replace(before, search=search, beside=record.beside_of(settings_of_hydra(self.config)))


def as_settings(search: Mapping[str, Any], space: Mapping[str, str]) -> dict[str, str]:
    """What of a search stays as it is, by key."""
    own = {f"hydra.sweeper.{key}": str(search[key]) for key in ("sampler", "seed", "objective", "direction")}
    return own | by_key([f"{key}={text}" for key, text in space.items()])


def must_be_allowed(trials: Any, seed: Any, chosen: dict[str, Any]) -> None:
    """Raises ConfigError over what a search cannot be."""
    for key, given, least, other in (("trials", trials, 1, "auto"), ("seed", seed, 0, None)):
        if given != other and (not isinstance(given, int) or isinstance(given, bool) or given < least):
            raise ConfigError(
                f"hydra.sweeper.{key}", given, f"must be an integer >= {least}{f', or {other}' if other else ''}"
            )
    for key, given in chosen.items():
        if given not in ALLOWED[key]:
            raise ConfigError(f"hydra.sweeper.{key}", given, f"must be one of {', '.join(ALLOWED[key])}")
