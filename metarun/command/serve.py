"""`metarun serve RUN [--port N] [--no-open]`: a page on this machine on which a learner is tried."""

import os
from pathlib import Path
from typing import NoReturn

from metarun.command.exits import MISTAKE, fail
from metarun.command.words import each_word

HELP = """
metarun serve RUN [--port N] [--no-open]

A page on which to try what a run has learned: draw, drop or write a few examples of each of a few
classes and a query; it shows the probabilities, the examples that are most alike, and how it goes by
inner step. RUN is a run's directory, or a name of `metarun ready`; its examples are images or texts.
Only this machine reaches the page, and it needs no network. Ctrl-C ends it, and so does SIGTERM.

  --port N     the port, else 8765, or a free one where that is taken; 0: a free one
  --no-open    no browser is opened; the page's address is printed in any case

It needs a small web server: pip install "metarun[serve]"

  metarun serve strokes-protonet
"""

OPTIONS = "allowed: --port N, --no-open"


def main(arguments: list[str]) -> None:
    """Heavy imports wait until the arguments have been read."""
    run, port, opens = read(arguments)
    from metarun.run.stop import leave_on_signals

    with leave_on_signals(end):
        try:
            from metarun import serve
        except ModuleNotFoundError as error:
            if error.name not in ("starlette", "uvicorn"):
                raise
            fail(f'serve: needs {error.name}, which is not here; pip install "metarun[serve]"', MISTAKE)
        from metarun.core import ConfigError, DataError
        from metarun.learned import load

        try:
            learned = load(run)
            serve.examples_of(learned)
            server = serve.listen(port)
            name = "/".join(Path(run).parts[-2:])
            app = serve.app(learned, name, server.getsockname()[1], serve.readied(learned))
            print(f"{serve.address(server)}   Ctrl-C ends it", flush=True)
            if opens:
                show(serve.address(server))
            serve.serve(app, server)
        except (ConfigError, DataError) as error:
            fail(error, MISTAKE)
        end()


def read(arguments: list[str]) -> tuple[str, int | None, bool]:
    """The run, the port if one is given, and whether a browser opens the page."""
    runs: list[str] = []
    port, opens = None, True
    for argument, name, value_of in each_word(arguments):
        if argument == "--no-open":
            opens = False
        elif name == "--port":
            value = value_of()
            if not (value.isascii() and value.isdecimal() and len(value) < 6 and int(value) < 2**16):
                fail(f"serve --port {value}: must be an integer from 0 to 65535", MISTAKE)
            port = int(value)
        elif argument.startswith("-"):
            fail(f"serve {argument}: no such option; {OPTIONS}", MISTAKE)
        else:
            runs.append(argument)
    if len(runs) != 1:
        given = f"{len(runs)} runs" if runs else "names no run"
        fail(f"serve: {given}; give one, or a name of metarun ready: metarun serve RUN", MISTAKE)
    return runs[0], port, opens


def show(address: str) -> None:
    """Opens the page in the user's browser, unless that is one of the terminal, which would be in the way here."""
    import webbrowser

    try:
        if type(webbrowser.get()) is not webbrowser.GenericBrowser:
            webbrowser.open(address)
    except webbrowser.Error:  # there is none
        pass


def end() -> NoReturn:
    """At once: nothing is to be saved, and a thread may be in the middle of XLA, in which an interpreter ends badly."""
    os._exit(0)
