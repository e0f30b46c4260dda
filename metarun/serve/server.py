"""The page's place on this machine: a port of 127.0.0.1, which no other machine reaches."""

import socket

import uvicorn
from starlette.applications import Starlette

from metarun.core import ConfigError

PREFERRED = 8765  # port


def listen(port: int | None) -> socket.socket:
    """A port of 127.0.0.1; None: 8765, or a free one where that is taken; 0: a free one. Raises ConfigError."""
    try:
        return socket.create_server(("127.0.0.1", PREFERRED if port is None else port))
    except OSError as error:
        if port is None:
            return socket.create_server(("127.0.0.1", 0))
        raise ConfigError("port", port, f"cannot be had ({error.strerror}); give another, or 0: a free one") from error


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}/"


def serve(app: Starlette, server: socket.socket) -> None:
    """Until the process is asked to end."""
    # Its own configuration of logging would close the handlers that others have, and absl's its stream with it.
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
        loop="asyncio", http="h11", timeout_graceful_shutdown=1, limit_concurrency=32,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[server])
