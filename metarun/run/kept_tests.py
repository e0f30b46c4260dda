"""Tests that are kept beside a run: RUN/tests/NAME.json, each of another protocol."""

import json
import re
from pathlib import Path
from typing import Any

from metarun.config import flat
from metarun.core import ConfigError
from metarun.files import write_atomically
from metarun.run.log import finite

FOLDER = "tests"


def place(directory: Path, name: str) -> Path:
    """Where the test of that name is kept. Raises ConfigError for what is no name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError("--keep", name, "a name has letters, digits, - and _")
    return directory / FOLDER / f"{name}.json"


def must_be_free(file: Path, evaluation: dict[str, Any]) -> None:
    """Raises ConfigError if a test is kept there that was made in another way than by these settings of `eval`."""
    if not file.exists():
        return
    try:
        before = protocol(json.loads(file.read_text())["eval"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError("--keep", file.stem, f"{file} is there, and is no test; name another") from error
    now = protocol(json.loads(json.dumps(finite(evaluation))))
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differing:
        key = differing[0]
        how = f"eval.{key}={before.get(key)} there, {now.get(key)} now"
        raise ConfigError("--keep", file.stem, f"{file} is a test of another protocol ({how}); name another")


def protocol(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Of the settings of `eval`, flat, those that a test's figures depend on."""
    return {
        key: value
        for key, value in flat(evaluation).items()
        if key != "val_episodes" and key.split(".")[-1] != "data_dir"
    }


def write(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, as_json(found))


def as_json(found: Any) -> str:
    return json.dumps(finite(found), indent=2, allow_nan=False) + "\n"
