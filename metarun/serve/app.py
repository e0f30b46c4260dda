"""The page's server: a learner as a starlette application."""

import threading
from concurrent.futures import Future
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from metarun.learned import Learned
from metarun.serve import asked as ask
from metarun.serve.answer import AT_ONCE, answer
from metarun.serve.examples import CHARACTERS, examples_of
from metarun.serve.guard import Guard
from metarun.serve.refused import Refused
from metarun.text import first_line, one_line

PAGES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/tiles.js": ("tiles.js", "text/javascript"),
    "/answers.js": ("answers.js", "text/javascript"),
}


def app(learned: Learned, name: str, port: int, ready: "Future[None]") -> Starlette:
    """Of a learner of images or of texts, at a port of this machine; `ready` is that of `readied`.

    GET / is the page, GET /about what it has to know of the learner, POST /answer the learner's answer: see
    `asked.read` and `answer.answer`. A mistake is answered with {"error": one line}. Raises ConfigError.
    """
    examples = examples_of(learned)
    told = about(learned, name)
    one_at_a_time = threading.Lock()

    def answered(content: bytes) -> dict[str, Any]:
        asked = ask.read(content)
        with one_at_a_time:
            return answer(learned, examples, asked)

    async def post_answer(request: Request) -> Response:
        try:
            return JSONResponse(await run_in_threadpool(answered, await ask.body(request)))
        except Refused as error:
            # Of what is too large the rest would come, too, if the connection stayed.
            headers = {"Connection": "close"} if error.status == 413 else None
            return JSONResponse({"error": one_line(error)}, error.status, headers)
        except ClientDisconnect:  # while it was sending
            return Response(status_code=499)

    async def get_about(request: Request) -> Response:
        error = ready.exception() if ready.done() else None
        return JSONResponse({**told, "ready": ready.done(), "error": first_line(error) if error else None})

    pages = [Route(path, partial(sent, content_of(file), kind)) for path, (file, kind) in PAGES.items()]
    routes = [*pages, Route("/about", get_about), Route("/answer", post_answer, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(Guard, port=port)])


def content_of(file: str) -> bytes:
    return (files("metarun.serve") / file).read_bytes()


async def sent(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind)


def about(learned: Learned, name: str) -> dict[str, Any]:
    """What the page shows and keeps to."""
    examples, learner = examples_of(learned), learned.parts.learner
    return {
        "name": name,
        "learner": type(learner).__name__,
        "kind": examples.kind,
        "says": examples.says,
        "ways": ways_at_first(learned),
        "inner_steps": getattr(learner, "inner_steps", None),
        "most": {
            "bytes": ask.BYTES,
            "classes": ask.CLASSES,
            "examples": ask.EXAMPLES,
            "queries": ask.QUERIES,
            "name": ask.NAME,
            "characters": CHARACTERS,
            "inner_steps": ask.STEPS,
        },
    }


def ways_at_first(learned: Learned) -> int:
    return min(5, learned.purpose.n_out)


def readied(learned: Learned) -> "Future[None]":
    """Done when the programs for an example of each of the page's first classes are compiled, in a thread."""
    ready: Future[None] = Future()

    def compile_all() -> None:
        try:
            ways = ways_at_first(learned)
            x = np.zeros((max(ways, AT_ONCE), *learned.purpose.shape), learned.purpose.dtype)
            learned.adapt(x[:ways], np.arange(ways)).predict_proba(x[:AT_ONCE])
            ready.set_result(None)
        except Exception as error:  # the page tells it; whoever asks meets it again
            ready.set_exception(error)

    threading.Thread(target=compile_all, name="getting ready", daemon=True).start()
    return ready
