"""Going on with a run: its own configuration, and what of it a command may change."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from metarun.config.conf import conf_dir, flat
from metarun.config.run import SECTIONS
from metarun.core import ConfigError


def resume(directory: Path, config: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    """The configuration with which to go on with the run in `directory`; `named` are the command's keys but run.dir.

    If all of these are settings that change no result (MAY_CHANGE), it is the run's own with these of `config`. Else
    `config` must be the same as the run's, but for such settings; raises ConfigError if it is not.
    """
    try:
        stored = yaml.safe_load((directory / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("run.dir", directory, f"its config.yaml cannot be read ({type(error).__name__})") from error
    groups = set(SECTIONS) - {"data_dir", "suggested", "paper"}
    if not isinstance(stored, dict) or not all(isinstance(stored.get(group), dict) for group in groups):
        raise ConfigError("run.dir", directory, "its config.yaml is not a metarun run's; name another directory")
    # What a run of an earlier version has no key for was as it is by default; what changes no result is as it is now.
    defaults = yaml.safe_load((conf_dir() / "config.yaml").read_text())
    stored = {"data_dir": None, "suggested": {}, "paper": None, **stored}
    for filling, sections in ((defaults, ("train", "eval", "inner")), (config, ("hardware", "run"))):
        stored |= {section: {**filling[section], **stored[section]} for section in sections}
    if all(f"{key}.".startswith(MAY_CHANGE) for key in named):
        for key in ["run.dir", *named]:
            *path, last = key.split(".")
            group, new = stored, config
            for part in path:
                group, new = group[part], new[part]
            group[last] = new[last]
        return stored
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


MAY_CHANGE = (
    "run.", "paper", "inner.mode", "inner.unroll", "inner.remat", "hardware.", "logger.", "data_dir", "task.data_dir",
    "train.on_nonfinite", "train.skip_at_most",
)  # fmt: skip
