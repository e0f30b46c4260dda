"""Learners as they are at the first meta-step, behind the server of `metarun serve`."""

import base64
import http.client
import io
import json
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from PIL import Image
from support import composed

from metarun import engine, serve
from metarun.config.learned import parts
from metarun.data.encoders import HashedNGrams
from metarun.learned import Learned
from metarun.run.purpose import Purpose
from metarun.tasks.strokes import Strokes


def learned_of(purpose: Purpose, *overrides: str) -> Learned:
    config = composed("task=strokes", "model=mlp", "model.hidden=[8]", *overrides)
    own = parts(config, purpose.n_out, purpose.metric)
    net = engine.net_for(own.model, own.learner.width(purpose.n_out), own.loss, purpose.n_out, True)
    x = np.zeros((1, *purpose.shape), purpose.dtype)
    params = jax.jit(lambda key: own.learner.init(net, key, x))(jax.random.key(1))
    return Learned(config, purpose, jax.device_get(params), {"state": "last", "step": 0})


@dataclass
class Served:
    learned: Learned
    port: int

    def ask(self, method: str, path: str, content: Any = None, **headers: str | None) -> tuple[int, Any, dict]:
        """Status, what was said (read, if it is JSON), headers. A header None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        every = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json"} | named
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            for name, value in (every | ({"Content-Length": str(len(body))} if method == "POST" else {})).items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body if method == "POST" else None)
            response = connection.getresponse()
            said = response.read()
        finally:
            connection.close()
        found = dict(response.headers)
        return response.status, json.loads(said) if "json" in found["content-type"] else said.decode(), found

    def answer(self, content: Any, **headers: str | None) -> tuple[int, Any]:
        return self.ask("POST", "/answer", content, **headers)[:2]


def served_of(learned: Learned) -> Served:
    server = serve.listen(0)
    port = server.getsockname()[1]
    ready: Future[None] = Future()
    ready.set_result(None)
    app = serve.app(learned, "a run", port, ready)
    threading.Thread(target=serve.serve, args=(app, server), daemon=True).start()
    return Served(learned, port)


def of_images() -> Served:
    purpose = Purpose((28, 28, 1), "float32", "accuracy", 3, Strokes.prepares)
    return served_of(learned_of(purpose, "learner=maml", "learner.inner_lr=0.5", "learner.inner_steps=2"))


def of_texts() -> Served:
    purpose = Purpose((64,), "float32", "accuracy", 3, HashedNGrams(64, (1, 1), (0, 0)))
    return served_of(learned_of(purpose, "learner=protonet"))


def drawing(number: int, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """A file whose image its number tells."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def sent(content: bytes) -> str:
    return base64.b64encode(content).decode()
