"""Draws docs/serve.png: the page of `metarun serve`, drawn on by a mouse in headless Chromium. `make figures` runs it.

python scripts/draw_serve.py [RUN]: a learner of drawings, else strokes-maml.
"""

import random
import subprocess
import sys
import tempfile
from math import cos, pi, sin
from pathlib import Path

import browser

PICTURE = Path(__file__).parents[1] / "docs" / "serve.png"
Line = list[tuple[float, float]]

# Each in a square from -1 to 1.
SYMBOLS: dict[str, list[Line]] = {
    "house": [[(-0.8, 1), (-0.8, -0.2), (0, -1), (0.8, -0.2), (0.8, 1), (-0.8, 1)]],
    "spiral": [[(t / 40 * cos(t / 40 * 5 * pi), t / 40 * sin(t / 40 * 5 * pi)) for t in range(41)]],
    "arrow": [[(-1, 0), (1, 0)], [(0.4, -0.6), (1, 0), (0.4, 0.6)]],
    "wave": [[(t / 20 - 1, 0.55 * sin(t / 20 * 2 * pi)) for t in range(41)]],
    "key": [
        [(-0.55 + 0.4 * cos(t / 8 * pi), 0.4 * sin(t / 8 * pi)) for t in range(17)],
        [(-0.15, 0), (1, 0), (1, 0.5)],
    ],
}
QUERIES = ("spiral", "key")


def by_hand(symbol: list[Line], chance: random.Random) -> list[Line]:
    """The symbol as someone may draw it, in a square from 0 to 1: turned, stretched, moved."""
    turn, size, wide = chance.gauss(0, 0.12), chance.uniform(0.3, 0.38), chance.uniform(0.85, 1.15)
    right, down = chance.gauss(0.5, 0.03), chance.gauss(0.5, 0.03)

    def moved(x: float, y: float) -> tuple[float, float]:
        x, y = x * wide * cos(turn) - y * sin(turn), x * wide * sin(turn) + y * cos(turn)
        return right + size * x, down + size * y

    return [[moved(x + chance.gauss(0, 0.02), y + chance.gauss(0, 0.02)) for x, y in line] for line in symbol]


def draw_all(tab: browser.Tab, chance: random.Random) -> None:
    """An example of each symbol, then the queries, each with its class."""
    for number, (name, symbol) in enumerate(SYMBOLS.items(), 1):
        card = f"#classes .card:nth-child({number})"
        tab.value(f"document.querySelector('{card} header input').select()")
        tab.call("Input.insertText", text=name)
        tab.draw(f"{card} canvas", by_hand(symbol, chance))
    for number, name in enumerate(QUERIES, 1):
        tab.draw(f"#queries .tile:nth-child({number}) canvas", by_hand(SYMBOLS[name], chance))
        tab.value(
            f"(select => {{ select.selectedIndex = {1 + list(SYMBOLS).index(name)};"
            f" select.dispatchEvent(new Event('change')) }})"
            f"(document.querySelector('#queries .tile:nth-child({number}) select'))"
        )


def main(arguments: list[str]) -> None:
    """Says so, and draws nothing, where there is no Chromium."""
    program = browser.chromium()
    if program is None:
        sys.exit("docs/serve.png is left as it is: no chromium here")
    run = arguments[0] if arguments else "strokes-maml"
    command = [sys.executable, "-P", "-m", "metarun", "serve", run, "--no-open", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            sys.exit(server.wait())
        with tempfile.TemporaryDirectory() as folder, browser.tab(program, Path(folder)) as tab:
            tab.look(1200, 900)
            tab.open(line.split()[0])
            tab.until("document.querySelectorAll('#queries canvas').length")
            draw_all(tab, random.Random(3))
            # The first answer compiles: the picture shows the second.
            new = "!document.querySelector('#answers.old')"
            asked = f"{new} && document.querySelectorAll('.answer').length == {len(QUERIES)}"
            tab.until(asked)
            tab.value("document.getElementById('go').click()")
            tab.value("new Promise(done => setTimeout(done, 1500))")
            tab.until(asked)
            tab.value("(scrollTo(0, 0), document.activeElement.blur())")
            tab.picture(PICTURE)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
