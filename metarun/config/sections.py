"""Settings given as Python's values, as they are written on the command line."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from metarun.config.overrides import in_hydras_quotes

WORD = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)  # needs no quotes
READ_OTHERWISE = ("null", "true", "false", "nan", "inf")


def written(sections: Mapping[str, Any]) -> list[str]:
    """`{"train": {"steps": 10}, "learner": "maml"}` -> `train.steps=10`, `learner=maml`. Raises TypeError."""
    return [f"{key}={in_grammar(key, value)}" for key, value in leaves(sections)]


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def in_grammar(key: str, value: Any) -> str:
    """A value in Hydra's grammar of overrides; numbers and arrays of numpy are Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        return in_quotes(os.fspath(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(in_grammar(key, one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{in_grammar(key, one)}' for name, one in value.items())}}}"
    raise TypeError(f"{key}={value!r}: must be a number, a string, a path, None, or a list or dict of these")


def in_quotes(text: str) -> str:
    """Text that is read as text: in quotes, if it has to be."""
    if WORD.fullmatch(text) and text.lower() not in READ_OTHERWISE:
        return text
    return in_hydras_quotes(text)
