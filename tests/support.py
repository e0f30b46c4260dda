"""What several test files share: configurations composed as the command line does it, and small nets."""

import json
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun import config, losses
from metarun.conf import choices, conf_dir
from metarun.core import Batch, Episode, Net


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration that these overrides give."""
    fixed = ["run.dir=RUN", "run.name=NAME"]  # the defaults need Hydra's runtime
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return config.resolve(compose("config", overrides=[*fixed, *overrides]))


def on_blobs(*overrides: str) -> dict[str, Any]:
    """`composed`, on tests/blobs.py: the classification that needs no data and next to no compilation."""
    values = composed("task=strokes", "model=mlp", "model.hidden=[8]", *overrides)
    return values | {"task": {"_target_": "blobs.Blobs", "ways": 3, "shots": 1, "queries": 2, "pool": 20}}


def run_of(*overrides: str) -> config.Run:
    return config.build_run(composed(*overrides))


# A run of seconds.
SMALL = ("task=sinusoid", "model.hidden=[8]", "train.meta_batch=4", "eval.episodes=8", "eval.val_episodes=8")


def run_in(directory: Path, *overrides: str) -> config.Run:
    """A small run in `directory`, checked."""
    return placed(composed("logger=none", *SMALL, *overrides), directory)


def placed(values: dict[str, Any], directory: Path) -> config.Run:
    """The run of a configuration, in `directory`, checked."""
    return config.build_run(values | {"run": values["run"] | {"dir": str(directory)}})


def experiments() -> list[str]:
    return choices("experiment")


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """A server on this machine, at work until the tests end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that leaves is no news
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def to_yaml(values: dict[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _linear_init(key, x):
    return {"layer": {"w": jax.random.normal(key, (x.shape[1], 1))}}


LINEAR = Net(
    init=_linear_init,
    apply=lambda params, x: x @ params["layer"]["w"],
    features=lambda params, x: x,
    loss=losses.squared_error,
    n_out=1,
    classification=False,
    n_classes=None,
)


def identity(ways: int) -> Net:
    """A net without parameters, whose features are its inputs."""
    return Net(
        init=lambda key, x: {},
        apply=lambda params, x: x,
        features=lambda params, x: x,
        loss=losses.cross_entropy,
        n_out=ways,
        classification=True,
        n_classes=None,
    )


def classifier(ways: int, n_classes: int | None = None) -> Net:
    """A net with one hidden layer: its second derivatives are not zero."""

    def init(key, x):
        k_in, k_out = jax.random.split(key)
        return {
            "hidden": {"w": jax.random.normal(k_in, (x.shape[1], 6)), "b": jnp.zeros(6)},
            "head": {"kernel": jax.random.normal(k_out, (6, ways)), "bias": jnp.zeros(ways)},
        }

    def features(params, x):
        return jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"][None])

    def apply(params, x):
        return features(params, x) @ params["head"]["kernel"] + params["head"]["bias"][None]

    return Net(init, apply, features, losses.cross_entropy, ways, True, n_classes)


def episodes(tasks: int, ways: int, key: jax.Array) -> Episode:
    """Random episodes (tasks leading), two shots and two queries a class, three numbers an example."""
    k_support, k_query = jax.random.split(key)
    y = jnp.tile(jnp.arange(ways), (tasks, 2))
    return Episode(
        Batch(jax.random.normal(k_support, (tasks, 2 * ways, 3)), y),
        Batch(jax.random.normal(k_query, (tasks, 2 * ways, 3)), y),
    )


def one_of(batch: Episode, index: int = 0) -> Episode:
    return jax.tree.map(lambda leaf: leaf[index], batch)


def equal(one, other) -> None:
    """Two pytrees are equal, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other, **tolerances: float) -> None:
    """Two pytrees are equal, number by number."""
    tolerances = {"rtol": 1e-5, "atol": 1e-6} | tolerances
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), one, other)


def changed(file: Path, change: Callable[[Any], object]) -> None:
    """Changes a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


MARKUP = "<script>alert(1)</script>|`x`"  # in the names of the runs and classes of `two_runs`


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data
