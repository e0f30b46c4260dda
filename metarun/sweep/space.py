"""What a search may choose from: Hydra's own syntax of sweeps, as distributions of Optuna's.

    learner.inner_lr=interval(0.01,1)               numbers between the two, both ends among them
    learner.inner_lr=tag(log,interval(0.001,1))     as many between 0.001 and 0.01 as between 0.1 and 1
    learner.inner_steps=int(interval(1,5))          whole numbers, 5 among them; likewise int(tag(log,interval(1,64)))
    learner.inner_steps=range(1,5)                  1, 2, 3, 4: as ever in Hydra without the end; range(0,1,0.25)
    learner=maml,reptile, choice(maml,reptile)      one of these, which have no order

Imports Optuna, so it is imported only once that is known to be there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from metarun.core import ConfigError

DIGITS = 6  # of a number in a setting: what is to be typed again stays short


class Space(NamedTuple):
    """The settings of a trial in their order, those that are searched by what is chosen for them."""

    fixed: dict[str, str]  # key: setting
    searched: dict[str, BaseDistribution]
    text: dict[str, str]  # what is searched, as it was written
    order: tuple[str, ...]  # keys

    def settings(self, chosen: Mapping[str, Any]) -> tuple[str, ...]:
        """The settings of a trial."""
        return tuple(
            self.fixed[key] if key in self.fixed else f"{key}={written(chosen[key], self.searched[key])}"
            for key in self.order
        )

    def suggested(self, trial: Trial) -> dict[str, Any]:
        """What a trial has for each key; what it has not been given yet it is given now."""
        return {key: suggest(trial, key, distribution) for key, distribution in self.searched.items()}

    def ends(self, chosen: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """The settings of `chosen` with each number in turn at either end of what it may be."""
        return [
            self.settings({**chosen, key: end})
            for key, own in self.searched.items()
            if isinstance(own, FloatDistribution | IntDistribution)
            for end in (own.low, own.high)
        ]

    def is_finite(self) -> bool:
        return not any(isinstance(own, FloatDistribution) and own.step is None for own in self.searched.values())

    def values(self) -> dict[str, Sequence[Any]]:
        """All that each key may be. Raises ConfigError if there is no end of that."""
        return {key: values(key, own, self.text[key]) for key, own in self.searched.items()}

    def combinations(self) -> int:
        """How many there are. Raises ConfigError if there is no end of them."""
        return math.prod(len(own) for own in self.values().values())

    def combination(self, number: int, seed: int) -> dict[str, Any]:
        """One of all combinations, which come in an order that is drawn from the seed."""
        every = self.values()
        sizes = [len(own) for own in every.values()]
        place = np.random.default_rng(seed).permutation(math.prod(sizes))[number]
        return {key: every[key][at] for key, at in zip(every, np.unravel_index(place, sizes), strict=True)}


def suggest(trial: Trial, key: str, own: BaseDistribution) -> Any:
    if isinstance(own, FloatDistribution):
        return trial.suggest_float(key, own.low, own.high, step=own.step, log=own.log)
    if isinstance(own, IntDistribution):
        return trial.suggest_int(key, own.low, own.high, step=own.step, log=own.log)
    assert isinstance(own, CategoricalDistribution)
    return trial.suggest_categorical(key, own.choices)


def written(value: Any, own: BaseDistribution) -> str:
    """A value in a setting: a number within its ends, however it is rounded."""
    if isinstance(own, FloatDistribution):
        return repr(min(max(float(f"{value:.{DIGITS}g}"), own.low), own.high))
    return str(value)


def values(key: str, own: BaseDistribution, text: str) -> Sequence[Any]:
    """All that a key may be. Raises ConfigError if there is no end of that."""
    if isinstance(own, CategoricalDistribution):
        return own.choices
    if isinstance(own, IntDistribution):
        return range(own.low, own.high + 1, own.step)
    assert isinstance(own, FloatDistribution)
    if own.step is None:
        how = f"{key}=0.1,0.2 or range(0,1,0.1); hydra.sweeper.sampler=tpe or random take an interval"
        raise ConfigError(key, text, f"has no end of values, and hydra.sweeper.sampler=grid takes all; {how}")
    return [rounded(own.low + n * own.step) for n in range(round((own.high - own.low) / own.step) + 1)]


def space_of(arguments: Sequence[str], params: Mapping[str, Any]) -> Space:
    """What a command, and the `params` of a yaml, which it overrides, let a search choose from. Raises ConfigError."""
    settings = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    overrides = {one.get_key_element(): one for one in parser.parse_overrides([*settings, *arguments])}
    searched = {key: one for key, one in overrides.items() if one.is_sweep_override()}
    if not searched:
        how = "learner.inner_lr=tag(log,interval(0.001,1)), learner.inner_steps=range(1,6) or learner=maml,reptile"
        raise ConfigError("hydra/sweeper", "optuna", f"nothing is searched; give a setting what to choose from: {how}")
    return Space(
        {key: f"{key}={one.get_value_element_as_str()}" for key, one in overrides.items() if key not in searched},
        {key: distribution(key, one) for key, one in searched.items()},
        {key: one.get_value_string() for key, one in searched.items()},
        tuple(overrides),
    )


def distribution(key: str, override: Override) -> BaseDistribution:
    """What an override may be. Raises ConfigError."""
    given, text = override.value(), override.get_value_string()

    def wrong(what: str) -> ConfigError:
        return ConfigError(key, text, what)

    tags: set[str] = getattr(given, "tags", set())
    if unknown := sorted(tags - {"log", "int"}):
        raise wrong(f"has the tag {unknown[0]}; allowed: log, int")
    if isinstance(given, IntervalSweep):
        return interval(given, wrong)
    if isinstance(given, RangeSweep):
        return steps(given, wrong)
    if tags:
        raise wrong(f"is a choice, which has no order; {' and '.join(sorted(tags))} is for an interval or a range")
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise wrong("names nothing that there is to choose from")
    return CategoricalDistribution(choices)


def interval(given: IntervalSweep, wrong: Any) -> FloatDistribution | IntDistribution:
    """All between two ends; the whole numbers if both are ints (`int(...)`), or it says so by its tag."""
    low, high = given.start, given.end
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise wrong("has an end that is no number")
    if not low < high:
        raise wrong(f"is {'empty' if low == high else 'inverted'}; an interval goes from less to more")
    log = "log" in given.tags
    if log and low <= 0:
        raise wrong("has an end <= 0, which log cannot have; begin above 0, interval(0.001,1)")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    if "int" in given.tags:
        if low % 1 or high % 1:
            raise wrong("has the tag int and an end that is no whole number")
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def steps(given: RangeSweep, wrong: Any) -> FloatDistribution | IntDistribution:
    """The numbers of a range, without its end, in their order."""
    start, stop, step = given.start, given.stop, given.step
    assert start is not None
    assert stop is not None
    if step == 0:
        raise wrong("has steps of 0")
    count = math.ceil(round((stop - start) / step, 9))  # Hydra's own range(0.1,0.4,0.1) ends with 0.4
    if count < 1:
        raise wrong("is empty: a range goes from its start to before its end; range(1,6) is 1 to 5")
    low, high = sorted((rounded(start), rounded(start + (count - 1) * step)))
    step = abs(rounded(step))
    log = "log" in given.tags
    if log and (low <= 0 or step != 1 or not isinstance(low, int)):
        raise wrong("has the tag log, which wants whole numbers > 0 with steps of 1; or an interval")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int):
        return IntDistribution(low, high, log=log, step=step)
    if "int" in given.tags:
        raise wrong("has the tag int and numbers that are not whole")
    return FloatDistribution(low, high, step=step)


def rounded(number: float) -> float:
    """0.3 for 0.1 + 0.2."""
    return number if isinstance(number, int) else float(f"{number:.12g}")
