"""From a group of settings to one checked component: its class's annotated fields are the schema."""

import dataclasses
import importlib
import inspect
import math
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic
from annotated_types import Gt, MinLen

from metarun.config.conf import GROUPS, MOVED, allowed, nearest
from metarun.core import Collecting, ConfigError, CountOrZero, NonNegative
from metarun.text import first_line


def build(
    key: str,
    values: Mapping[str, Any],
    target: Callable[..., Any] | None = None,
    kind: type | None = None,
    **given: Any,
) -> Any:
    """The component that `values` describe: of `target`, else of the class that its `_target_` names.

    The class's annotated fields are the schema: every field must be there, of its type and in its range,
    and nothing else. `given` are fields that the program sets and a yaml may not; one that is None need not be there.
    A class that is named must have all that `kind` (a protocol, or a class like it) has.
    """
    if not isinstance(values, Mapping):
        how = "give a choice of it by its name" if key in GROUPS else f"give its keys one by one: {key}.KEY=VALUE"
        raise ConfigError(key, values, f"is a group of settings; {how}")
    values = dict(values)
    named = values.pop("_target_", None)
    if target is None:
        if not isinstance(named, str):
            raise ConfigError(f"{key}._target_", named, "the name of a class, e.g. metarun.learners.maml.MAML")
        target = locate(f"{key}._target_", named)
        if kind is not None:
            must_be(key, named, target, kind)
        if key == "task" and hasattr(target, "collect"):
            must_have(key, named, target, Collecting, "is no task that collects (metarun.acting has how)")
    every = schema(target)
    given = {name: value for name, value in given.items() if name in every or value is not None}
    fields = {name: kind for name, kind in every.items() if name not in given}
    unknown(values, set(fields), key)
    # A value may itself be a component, or a list of some: optimizer.learning_rate with a schedule of optax, say.
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if is_component(value):
            nested[name] = build(f"{key}.{name}", value)
        elif isinstance(value, list) and value and all(map(is_component, value)):
            nested[name] = tuple(build(f"{key}.{name}.{i}", one) for i, one in enumerate(value))
    plain = {name: value for name, value in values.items() if name not in nested}
    checked = validate(key, {n: kind for n, kind in fields.items() if n not in nested}, plain, target)
    try:
        return target(**checked, **nested, **given)
    except ConfigError as error:
        raise error.under(key) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(key, named, f"cannot be built: {str(error).splitlines()[0]}") from error


def is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A function of optax with its settings, all but the floats: those may be arguments of a compiled program."""

    target: Callable[..., Any]
    settings: tuple[tuple[str, Any], ...]  # a setting may be a recipe in its turn: a schedule

    def __call__(self, numbers: Mapping[str, Any]) -> Any:
        settings = {name: value(numbers[name]) if isinstance(value, Recipe) else value for name, value in self.settings}
        return self.target(**(dict(numbers) | settings))


def recipe(key: str, values: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """An optimizer, already checked by `build`, as its recipe and its numbers.

    There are no numbers where optax needs their values to make it, as some schedules do.
    """

    def one_update(numbers: dict[str, Any]) -> Any:
        optimizer, w = made(numbers), jnp.zeros(2)
        return optimizer.update(w, optimizer.init(w), w)

    made, numbers = split(key, values, floats_apart=True)
    if inspect.isclass(made.target):  # a component of metarun, whose fields say all there is to check
        return made, numbers
    try:
        try:
            jax.eval_shape(one_update, numbers)
        except jax.errors.ConcretizationTypeError:
            made, numbers = split(key, values, floats_apart=False)
            jax.eval_shape(one_update, numbers)
    except Exception as error:  # optax checks little, and fails in its own ways on what it is given
        name = values["_target_"]
        raise ConfigError(key, name, f"makes no update with these settings ({first_line(error)})") from error
    return made, numbers


def split(key: str, values: Mapping[str, Any], floats_apart: bool) -> tuple[Recipe, dict[str, Any]]:
    """`values` as a recipe, with its floats apart or in it."""
    target = locate(f"{key}._target_", values["_target_"])
    settings: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for name, value in values.items():
        if is_component(value):
            settings[name], numbers[name] = split(f"{key}.{name}", value, floats_apart)
        elif isinstance(value, Mapping):
            settings[name] = flax.core.freeze(dict(value))  # a recipe is hashable
        elif floats_apart and isinstance(value, float):
            numbers[name] = value
        elif name != "_target_":
            settings[name] = value
    return Recipe(target, tuple(settings.items())), numbers


def locate(key: str, name: str) -> Callable[..., Any]:
    """The class a `_target_` names: one of metarun's or optax's, or one that $METARUN_ALLOW names.

    A configuration travels with its checkpoint, so it may not import and call whatever it likes.
    """
    name = MOVED.get(name, name)
    module, _, attribute = name.rpartition(".")
    trusted = module == "optax" or module.startswith("metarun.")
    if not trusted and not any(name == a or name.startswith(f"{a}.") for a in allowed()):
        raise ConfigError(
            key, name, "a class in metarun. or optax.; allow another by its name in the variable METARUN_ALLOW"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        hint = ""
        if missing == module.partition(".")[0]:
            hint = f"; install {missing}, or set PYTHONPATH to the folder that it lies in"
        elif isinstance(error, SyntaxError) or (missing is not None and not f"{module}.".startswith(f"{missing}.")):
            raise ConfigError(key, name, f"its module cannot be imported ({first_line(error)})") from error
        raise ConfigError(key, name, f"no such class ({error}){hint}") from error
    is_a_component = inspect.isclass(found) and dataclasses.is_dataclass(found)
    if module == "optax" and not (inspect.isfunction(found) and attribute in vars(importlib.import_module("optax"))):
        raise ConfigError(key, name, "an optimizer or a schedule of optax, e.g. optax.adam")
    if module.startswith("metarun.") and not (is_a_component and found.__module__ == module):
        raise ConfigError(key, name, "a component's class, e.g. metarun.learners.maml.MAML")
    return found


def must_be(key: str, name: str, target: Callable[..., Any], kind: type) -> None:
    """Raises ConfigError unless `target` is a hashable dataclass with all the public attributes of `kind`."""
    what = f"is no {key.rpartition('.')[2]}"
    if not (inspect.isclass(target) and dataclasses.is_dataclass(target)):
        raise ConfigError(f"{key}._target_", name, f"{what}: a dataclass is wanted")
    must_have(key, name, target, kind, what)
    if target.__hash__ is None:  # compiled programs are kept by what they were made from
        raise ConfigError(f"{key}._target_", name, "is not frozen: write @dataclass(frozen=True) above the class")


def must_have(key: str, name: str, target: Callable[..., Any], kind: type, what: str) -> None:
    """Raises ConfigError unless a dataclass has all the public attributes of `kind`.

    If that is a protocol, its methods must take what the protocol's do.
    """
    attributes = {name for name in vars(kind) if not name.startswith("_")}
    if lacking := sorted(attributes - set(dir(target)) - set(schema(target))):
        first = ", ".join(lacking[:4]) + (" and more" if len(lacking) > 4 else "")
        raise ConfigError(f"{key}._target_", name, f"{what}: it lacks {first}")
    for method, wanted in vars(kind).items() if is_protocol(kind) else ():
        own = inspect.getattr_static(target, method, None)
        if method in attributes and inspect.isfunction(wanted) and inspect.isfunction(own):
            given = list(inspect.signature(wanted).parameters)
            try:
                inspect.signature(own).bind(*given)
            except TypeError as error:
                raise ConfigError(
                    f"{key}._target_", name, f"{what}: its {method} must take ({', '.join(given)}): {first_line(error)}"
                ) from error


def is_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False)


def schema(target: Callable[..., Any]) -> dict[str, Any]:
    """Name -> annotated type of every value that `target` takes, but for fields marked as the `program`'s."""
    if dataclasses.is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        is_module = isinstance(target, type) and issubclass(target, nn.Module)
        flaxes = ("parent", "name") if is_module else ()
        fields = (f.name for f in dataclasses.fields(target) if f.name not in flaxes and "program" not in f.metadata)
        return {name: hints[name] for name in fields}
    known_types: dict[str, Any] = {
        "learning_rate": Annotated[float, Gt(0)],
        "boundaries_and_scales": dict[CountOrZero, NonNegative],
    }
    return {
        name: known_types.get(name, like_default(name, parameter.default))
        for name, parameter in inspect.signature(target).parameters.items()
    }


def like_default(name: str, default: Any) -> Any:
    """The type of an optax function's argument, told by its default value: numbers, where that tells nothing."""
    for kind in (bool, int, float):
        if isinstance(default, kind):
            return kind
    return str | None if "dtype" in name else int | float | None


def validate(key: str, fields: dict[str, Any], values: dict[str, Any], target: Callable[..., Any]) -> dict[str, Any]:
    """`values` with each checked against its type and range. A dataclass must be given all of its fields."""
    required = dataclasses.is_dataclass(target)
    for name in fields:
        if required and name not in values:
            raise ConfigError(f"{key}.{name}", "(nothing)", f"needs a value, {describe(fields[name])}")
    checked = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):  # a component, which has its _target_
            raise ConfigError(f"{key}.{name}", value, f"must be {describe(fields[name])}")
        try:
            checked[name] = adapter(target, name).validate_python(tuples(value, fields[name]))
        except pydantic.ValidationError as error:
            too_large = any(type(n) is int and n >= INT32 for n in (value if isinstance(value, list) else [value]))
            hint = f" and < {INT32}" if too_large else ""
            if type(value) is float and value.is_integer() and accepts(adapter(target, name), int(value)):
                hint = f", such as {value:.0f}"
            elif type(value) is float and not math.isfinite(value):
                hint = ", and finite"
            allowed = f"must be {describe(fields[name])}{hint}"
            raise ConfigError(f"{key}.{name}", value, allowed) from error
    return checked


@lru_cache(maxsize=4096)
def adapter(target: Callable[..., Any], name: str) -> Any:
    """What checks a value of this name. Kept: to make those of all settings takes as long as all else of a run."""
    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return pydantic.TypeAdapter(schema(target)[name], config=config)


def accepts(of: Any, value: Any) -> bool:
    """Whether an adapter takes the value."""
    try:
        of.validate_python(value)
    except pydantic.ValidationError:
        return False
    return True


def tuples(value: Any, kind: Any) -> Any:
    """yaml knows lists only; a frozen dataclass needs tuples, which are hashable."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    bare = [get_args(one)[0] if get_origin(one) is Annotated else one for one in kinds]
    of_tuples = [one for one in bare if get_origin(one) is tuple]
    if not (isinstance(value, list) and of_tuples):
        return value
    within = [arg for arg in get_args(of_tuples[0]) if arg is not Ellipsis]
    each = within * len(value) if len(within) == 1 else within
    return tuple(tuples(one, own) for one, own in zip(value, each, strict=False)) + tuple(value[len(each) :])


INT32 = 2**31  # the bound of every count, which is worth telling only who comes there


def describe(kind: Any) -> str:
    """A type and its range in words: `an integer >= 1`, `one of mean, sum_over_shots`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated and isinstance(args[1], MinLen):
        return f"a list of {args[1].min_length} or more, each {describe(get_args(args[0])[0])}"
    if origin is Annotated:
        limits = [
            f"{sign} {getattr(limit, name)}"
            for limit in args[1:]
            for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
            if hasattr(limit, name) and getattr(limit, name) != INT32
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
    if origin is dict:
        typed = args and Any not in args
        return f"a group of settings, each {describe(args[0])}: {describe(args[1])}" if typed else "a group of settings"
    return f"a group of settings whose _target_ names one of {kind.__module__}" if inspect.isclass(kind) else str(kind)


def unknown(values: Mapping[str, Any], allowed: set[str], key: str) -> None:
    """Raises ConfigError for a name in `values` that is not in `allowed`."""
    for name in values:
        if name not in allowed:
            full = f"{key}.{name}" if key else str(name)
            raise ConfigError(full, values[name], f"no such key; {nearest(str(name), allowed)}")
