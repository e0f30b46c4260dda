"""What several test files share: composing configurations as the command line does."""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun import config
from metarun.conf import choices, conf_dir


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration that these overrides give."""
    fixed = ["run.dir=RUN", "run.name=NAME"]  # the defaults need Hydra's runtime
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return config.resolve(compose("config", overrides=[*fixed, *overrides]))


def run_of(*overrides: str) -> config.Run:
    return config.build_run(composed(*overrides))


def experiments() -> list[str]:
    return choices("experiment")


def to_yaml(values: dict[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(values))
