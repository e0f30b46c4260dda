"""From a composed configuration to checked, frozen objects; every mistake ends in a one-line ConfigError."""

import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import flax.linen as nn
import optax
import pydantic
import yaml
from annotated_types import Ge, Gt, Lt
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.conf import nearest
from metarun.core import ConfigError, Count, CountOrZero, Learner, Tasks
from metarun.hardware import Hardware
from metarun.loggers import NoLogger, Wandb

Seed = Annotated[int, Ge(0), Lt(2**32)]
Period = Count | Literal["auto"]


@dataclass(frozen=True)
class Train:
    """The training loop. Periods are in meta-steps."""

    seed: Seed
    steps: Count
    meta_batch: Count
    log_every: Period
    eval_every: Period
    save_every: Period

    def __post_init__(self) -> None:
        for name in ("log_every", "eval_every", "save_every"):
            period = getattr(self, name)
            if period != "auto" and self.steps % period:
                raise ConfigError(name, period, f"must divide train.steps={self.steps}, or be auto")

    def period(self, name: str) -> int:
        """A period in meta-steps; `auto` is 1/50 of the run (logging) or 1/10, between 1 and 100 or 2,000."""
        chosen = getattr(self, name)
        if chosen != "auto":
            return chosen
        parts, most = (50, 100) if name == "log_every" else (10, 2000)
        return max(1, min(self.steps // parts, most))


@dataclass(frozen=True)
class Eval:
    """The evaluation; `task` and `learner` hold what differs there from training."""

    split: Literal["val", "test"]
    state: Literal["best", "last"]
    episodes: Annotated[int, Gt(1)]
    val_episodes: Annotated[int, Gt(1)]
    seed: Seed
    inner_steps: tuple[CountOrZero, ...]
    inductive: bool
    task: dict[str, Any]
    learner: dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """What a run is called, and where it lives."""

    dir: str
    name: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run, checked."""

    tasks: Tasks
    learner: Learner
    eval_tasks: Tasks
    eval_learner: Learner
    model: Any  # a flax module, its number of outputs set
    optimizer: Any  # an optax.GradientTransformation
    train: Train
    eval: Eval
    hardware: Hardware
    logger: NoLogger | Wandb
    info: RunInfo
    config: dict[str, Any] = field(repr=False)  # the whole configuration, resolved: enough to run it again


def build_run(config: dict[str, Any]) -> Run:
    """Checks a resolved configuration and builds what it names. No device is touched. Raises ConfigError."""
    unknown(config, set(SECTIONS), "")
    for section in SECTIONS:
        if section not in config:
            raise ConfigError(section, "(nothing)", "every run needs it: leave it in")
    train = build("train", config["train"], Train)
    evaluation = build("eval", config["eval"], Eval)
    hardware = build("hardware", config["hardware"])
    hardware.check(train.meta_batch)

    tasks = build("task", config["task"])
    eval_tasks = build("eval.task", {**config["task"], **known("eval.task", evaluation.task, config["task"])})
    learner = build("learner", config["learner"])
    eval_learner = build(
        "eval.learner",
        {**config["learner"], **known("eval.learner", evaluation.learner, config["learner"])},
    )
    try:
        tasks.check("train")
    except ConfigError as error:
        raise error.under("task") from error
    for split in ("val", evaluation.split):
        try:
            eval_tasks.check(split)
        except ConfigError as error:
            # The key to change is the one that set the value: the training's, unless evaluation has its own.
            by_evaluation = set(error.key.split("+")) & set(evaluation.task)
            raise error.under("eval.task" if by_evaluation else "task") from error

    width, eval_width = learner.width(tasks.n_out), eval_learner.width(eval_tasks.n_out)
    if eval_width > width:
        raise ConfigError(
            "eval.task.ways", eval_width, f"at most {width}, the outputs that training with task.ways={width} gives"
        )
    optimizer = build("optimizer", config["optimizer"])
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ConfigError(
            "optimizer._target_", config["optimizer"]["_target_"], "an optimizer of optax, e.g. optax.adam"
        )
    return Run(
        tasks=tasks,
        learner=learner,
        eval_tasks=eval_tasks,
        eval_learner=eval_learner,
        model=build("model", config["model"], n_out=width),
        optimizer=optimizer,
        train=train,
        eval=evaluation,
        hardware=hardware,
        logger=build("logger", config["logger"]),
        info=build("run", config["run"], RunInfo),
        config=config,
    )


SECTIONS = (
    "task", "learner", "model", "optimizer", "hardware", "logger", "train", "eval", "run", "data_dir", "suggested",
)  # fmt: skip


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, every interpolation replaced by what it stands for."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        raise ConfigError(str(getattr(error, "full_key", "config")), "?", message) from error
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def resume(directory: Path, config: dict[str, Any], alone: bool) -> dict[str, Any]:
    """The configuration with which to go on with the run in `directory`.

    With `run.dir` `alone` in the command it is the run's own. Else `config` must be the same as the run's,
    but for the settings that change no result (MAY_CHANGE); raises ConfigError if it is not.
    """
    try:
        stored = yaml.safe_load((directory / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("run.dir", directory, f"its config.yaml cannot be read ({type(error).__name__})") from error
    if not isinstance(stored, dict) or not set(SECTIONS) <= stored.keys():
        raise ConfigError("run.dir", directory, "its config.yaml is not a metarun run's; name another directory")
    if alone:
        return {**stored, "run": {**stored["run"], "dir": str(directory)}}
    before, now = flat(stored), flat(config)
    differing = sorted(
        key for key in before.keys() | now.keys() if not key.startswith(MAY_CHANGE) and before.get(key) != now.get(key)
    )
    if differing:
        keys = ", ".join(f"{key} ({before.get(key)} there)" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ConfigError(
            "run.dir",
            directory,
            f"holds a run with another {keys}{more}; go on with it by run.dir alone, or name a new directory",
        )
    return config


MAY_CHANGE = ("run.", "hardware.", "logger.", "data_dir", "task.data_dir")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"train.steps": 3000, ...}."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def build(key: str, values: Mapping[str, Any], target: Callable[..., Any] | None = None, **given: Any) -> Any:
    """The component that `values` describe: of `target`, else of the class that its `_target_` names.

    The class's annotated fields are the schema: every field must be there, of its type and in its range,
    and nothing else. `given` are fields that the program sets and a yaml may not.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(key, values, "a group of settings; give a choice of the group by its name")
    values = dict(values)
    named = values.pop("_target_", None)
    if target is None:
        if not isinstance(named, str):
            raise ConfigError(f"{key}._target_", named, "the name of a class, e.g. metarun.learners.maml.MAML")
        target = locate(f"{key}._target_", named)
    fields = {name: kind for name, kind in schema(target).items() if name not in given}
    unknown(values, set(fields), key)
    # A value may itself be a component: optimizer.learning_rate with a schedule of optax, say.
    nested = {
        name: build(f"{key}.{name}", value)
        for name, value in values.items()
        if isinstance(value, Mapping) and "_target_" in value
    }
    plain = {name: value for name, value in values.items() if name not in nested}
    checked = validate(key, {n: kind for n, kind in fields.items() if n not in nested}, plain, target)
    try:
        return target(**checked, **nested, **given)
    except ConfigError as error:
        raise error.under(key) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(key, named, f"cannot be built: {str(error).splitlines()[0]}") from error


def locate(key: str, name: str) -> Callable[..., Any]:
    """The class a `_target_` names: one of metarun's or optax's, or one that $METARUN_ALLOW names.

    A configuration travels with its checkpoint, so it may not import and call whatever it likes.
    """
    allowed = [part for part in os.environ.get("METARUN_ALLOW", "").split(",") if part]
    module, _, attribute = name.rpartition(".")
    trusted = module == "optax" or module.startswith("metarun.")
    if not trusted and not any(name == a or name.startswith(f"{a}.") for a in allowed):
        raise ConfigError(
            key, name, "a class in metarun. or optax.; allow another by its name in the variable METARUN_ALLOW"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(key, name, f"no such class ({error})") from error
    is_component = inspect.isclass(found) and dataclasses.is_dataclass(found)
    if module == "optax" and not (inspect.isfunction(found) and attribute in vars(importlib.import_module("optax"))):
        raise ConfigError(key, name, "an optimizer or a schedule of optax, e.g. optax.adam")
    if module.startswith("metarun.") and not (is_component and found.__module__ == module):
        raise ConfigError(key, name, "a component's class, e.g. metarun.learners.maml.MAML")
    return found


def schema(target: Callable[..., Any]) -> dict[str, Any]:
    """Name -> annotated type of every value that `target` takes."""
    if dataclasses.is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        is_module = isinstance(target, type) and issubclass(target, nn.Module)
        flaxes = ("parent", "name") if is_module else ()
        return {f.name: hints[f.name] for f in dataclasses.fields(target) if f.name not in flaxes}
    known_types = {"learning_rate": Annotated[float, Gt(0)]}
    return {
        name: known_types.get(name, like_default(parameter.default))
        for name, parameter in inspect.signature(target).parameters.items()
    }


def like_default(default: Any) -> Any:
    """The type of an optax function's argument, told by its default value."""
    for kind in (bool, int, float):
        if isinstance(default, kind):
            return float | None if kind in (int, float) else kind
    return bool | int | float | str | None


def validate(key: str, fields: dict[str, Any], values: dict[str, Any], target: Callable[..., Any]) -> dict[str, Any]:
    """`values` with each checked against its type and range. A dataclass must be given all of its fields."""
    required = dataclasses.is_dataclass(target)
    for name in fields:
        if required and name not in values:
            raise ConfigError(f"{key}.{name}", "(nothing)", f"needs a value, {describe(fields[name])}")
    checked = {}
    for name, value in values.items():
        adapter: Any = pydantic.TypeAdapter(
            fields[name], config=pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        )
        try:
            checked[name] = adapter.validate_python(tuples(value, fields[name]))
        except pydantic.ValidationError as error:
            raise ConfigError(f"{key}.{name}", value, f"must be {describe(fields[name])}") from error
    return checked


def tuples(value: Any, kind: Any) -> Any:
    """yaml knows lists only; a frozen dataclass needs tuples, which are hashable."""
    return tuple(value) if isinstance(value, list) and get_origin(kind) is tuple else value


def describe(kind: Any) -> str:
    """A type and its range in words: `an integer >= 1`, `one of mean, sum_over_shots`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [
            f"{sign} {getattr(limit, name)}"
            for limit in args[1:]
            for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
            if hasattr(limit, name)
        ]
        return f"{describe(args[0])} {' and '.join(limits)}"
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list, each {describe(args[0])}"
        return f"a list of {len(args)}: {', '.join(describe(arg) for arg in args)}"
    if origin is Union or type(kind).__name__ == "UnionType":
        return " or ".join(describe(arg) for arg in args)
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
    if kind in words:
        return words[kind]
    return "a group of settings" if origin is dict else str(kind)


def unknown(values: Mapping[str, Any], allowed: set[str], key: str) -> None:
    """Raises ConfigError for a name in `values` that is not in `allowed`."""
    for name in values:
        if name not in allowed:
            full = f"{key}.{name}" if key else str(name)
            raise ConfigError(full, values[name], f"no such key; {nearest(str(name), allowed)}")


def known(key: str, overrides: Mapping[str, Any], base: Mapping[str, Any]) -> Mapping[str, Any]:
    """`overrides`, once each of them is a key of `base`."""
    unknown(overrides, set(base) - {"_target_"}, key)
    return overrides
