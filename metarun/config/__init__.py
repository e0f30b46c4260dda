"""Yaml and overrides, to checked and frozen objects.

This door has what is known before a command is understood, and imports nothing heavy. The checked objects have doors
of their own: `metarun.config.run`, `metarun.config.resume` and the other modules but `build`, `conf` and `overrides`.
"""

from metarun.config.conf import (
    GROUPS,
    MOVED,
    allowed,
    choices,
    conf_dir,
    describe,
    flat,
    laid_over,
    nearest,
    settings_of,
)
from metarun.config.overrides import (
    PLACE,
    explain,
    going_on,
    in_hydras_quotes,
    key_of,
    keys_named,
    of_place,
    translate,
    without_hydras_quotes,
    words_of,
)
from metarun.config.sections import written

__all__ = [
    "GROUPS", "MOVED", "PLACE", "allowed",
    "choices", "conf_dir", "describe", "explain", "flat", "going_on", "in_hydras_quotes", "key_of", "keys_named",
    "laid_over", "nearest", "of_place", "settings_of", "translate", "without_hydras_quotes", "words_of", "written",
]  # fmt: skip
